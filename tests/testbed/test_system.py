"""The whole tree as processes: a tree equals a flat fleet, crashes cost no round, and real servers need no change."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from headwater.cloud.exporting import exported
from headwater.cloud.history import History, open_history
from headwater.core.models import mlp
from headwater.device.sources.digits import digits
from headwater.schemas.acl import fleet_acl
from headwater.schemas.messages import Model
from headwater.schemas.run import RunDescription
from headwater.schemas.tensors import decode_tensor
from headwater.schemas.wire import decode_object
from headwater.testbed.processes import Processes
from headwater.testbed.tree import Tree, standing
from support.brokers import Certificates, broker, certificates, mosquitto
from support.postgres import database_url, free_port, missing
from support.waiting import eventually, wait_online

DEVICES = tuple(f"d{i}" for i in range(4))
DATA = {
    name: {"digits": {"kind": "digits", "devices": 4, "index": index, "alpha": 0.3}}
    for index, name in enumerate(DEVICES)
}
TREE = {"gw1": DEVICES[:2], "gw2": DEVICES[2:]}


def description(**changes: Any) -> RunDescription:
    base = {
        "name": "digits",
        "data": "digits",
        "rounds": 4,
        "model": {"kind": "mlp", "features": 64, "classes": 10, "hidden": (32,), "normalise": True},
        "local": {"batch_size": 16},
        "cohort": {"deadline_s": 15.0, "quorum": 1.0, "min_children": 2},
    }
    return RunDescription.model_validate(base | changes)


@contextlib.contextmanager
def opened(url: str) -> Iterator[History]:
    history = open_history(url)
    try:
        yield history
    finally:
        history.close()


def finished(history: History, run: str, timeout_s: float = 60.0) -> list[Any]:
    eventually(lambda: history.show_run(run).state not in ("queued", "running"), timeout_s)
    record = history.show_run(run)
    assert record.state == "finished", record.failure
    return list(history.rounds_of(run))


def final_model(history: History, run: str) -> list[np.ndarray]:
    return [decode_tensor(tensor) for tensor in decode_object(history.model_of(run)[1], Model).tensors]


def trained(
    clusters: dict[str, tuple[str, ...]], folder: Path, about: RunDescription, forward: bytes | None = None
) -> list[np.ndarray]:
    tree = Tree(fleet="plant", clusters=clusters, data=DATA)
    with standing(tree, folder) as fleet, opened(fleet.database) as history:
        wait_online(folder, (*tree.gateways, *tree.devices))
        history.enqueue_run("r", "plant", about, forward, datetime.now(UTC))
        rounds = finished(history, "r")
        assert [r.devices for r in rounds] == [4] * len(rounds)
        return final_model(history, "r")


def test_a_tree_learns_what_a_flat_fleet_learns(tmp_path: Path) -> None:
    tree = trained(TREE, tmp_path / "tree", description())
    flat = trained({"": DEVICES}, tmp_path / "flat", description(cohort={"quorum": 1.0, "min_children": 4}))
    for one, other in zip(tree, flat, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert max(float(np.abs(value).max()) for value in tree) > 0.1


def test_an_owners_onnx_model_trains_and_comes_back_for_inference(tmp_path: Path) -> None:
    forward = mlp(64, (16,), 10, rng=np.random.default_rng(1), activation="tanh")
    about = description(rounds=8, model={"kind": "onnx", "path": "m.onnx", "classes": 10})
    trained(TREE, tmp_path, about, forward)
    with opened(f"sqlite:///{tmp_path / 'history.db'}") as history:
        version, model = exported(history, "r", None)
        assert version == 8
        told = [r.accuracy for r in history.rounds_of("r") if r.round == 8]
        (figures,) = [r.test for r in history.rounds_of("r") if r.round == 8]
    x, y, test = digits(0)
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    accuracy = (session.run(None, {"x": x[test]})[0].argmax(1) == y[test]).mean()
    assert accuracy == pytest.approx(told[0], abs=1e-6)
    assert accuracy > 0.7
    # The counts by class came through the gateways whole: four devices, each with everyone's test part.
    assert figures is not None
    assert [of_class.examples for of_class in figures.classes] == (4.0 * np.bincount(y[test])).tolist()
    found = session.run(None, {"x": x[test]})[0].argmax(1)
    recalls = [np.mean(found[y[test] == label] == label) for label in range(10)]
    assert [of_class.recall for of_class in figures.classes] == pytest.approx(recalls)
    assert figures.balanced_accuracy == pytest.approx(np.mean(recalls))


def test_a_fleet_without_test_parts_has_its_model_all_the_same(tmp_path: Path) -> None:
    x, y, _ = digits(0)
    np.savez(tmp_path / "all.npz", x=x[:100], y=y[:100])
    spec = {"kind": "file", "path": str(tmp_path / "all.npz"), "features": ["x"], "target": "y", "classes": 10}
    data = {"d0": {"digits": spec | {"test_fraction": 0.0}}}
    with (
        standing(Tree(fleet="plant", clusters={"": ("d0",)}, data=data), tmp_path / "run") as fleet,
        opened(fleet.database) as history,
    ):
        about = description(rounds=2, cohort={"deadline_s": 3.0, "quorum": 1.0, "min_children": 1})
        history.enqueue_run("r", "plant", about, None, datetime.now(UTC))
        rounds = finished(history, "r")
        assert [(r.task, r.state) for r in rounds if r.task != "statistics"] == [
            ("train", "closed"),
            ("train", "closed"),
            ("evaluate", "failed"),
        ]
        assert len(final_model(history, "r")) > 0


def test_edge_rounds_move_the_model_further_in_a_round_of_the_cloud(tmp_path: Path) -> None:
    once = trained(TREE, tmp_path / "once", description(rounds=1))
    thrice = trained(TREE, tmp_path / "thrice", description(rounds=1, edge_rounds=3))
    start = [np.zeros_like(value) for value in once]
    moved = [np.linalg.norm(a - b) for a, b in zip(thrice, once, strict=True)]
    assert sum(moved) > 0.1
    assert len(start) == len(moved)


def test_killed_nodes_cost_no_round_and_a_killed_cloud_resumes_the_same_run(tmp_path: Path) -> None:
    tree = Tree(fleet="plant", clusters=TREE, data=DATA)
    about = description(rounds=150, cohort={"quorum": 0.5, "deadline_s": 10.0, "min_children": 2})
    with standing(tree, tmp_path) as fleet, opened(fleet.database) as history:
        wait_online(tmp_path, (*tree.gateways, *tree.devices))
        history.enqueue_run("r", "plant", about, None, datetime.now(UTC))
        eventually(lambda: history.show_run("r").round >= 3)
        cloud = next(s for s in fleet.processes.started if s.name == "cloud")
        cloud.process.send_signal(signal.SIGKILL)
        cloud.process.wait()
        reached = history.show_run("r").round
        assert 3 <= reached < 150
        for name in ("d3", "gw1"):
            killed = next(s for s in fleet.processes.started if s.name == name)
            killed.process.send_signal(signal.SIGKILL)
        settings = {"fleet": "plant", "node": "cloud", "database": fleet.database}
        fleet.processes.start("cloud", settings | {"broker": {"port": fleet.ports["cloud"]}})
        links = {"uplink": {"port": fleet.ports["cloud"]}, "site": {"port": fleet.ports["gw1"]}}
        fleet.processes.start("gateway", {"fleet": "plant", "node": "gw1", "parent": "cloud"} | links)
        rounds = [r for r in finished(history, "r") if r.state == "closed" and r.task == "train"]
        assert [r.round for r in rounds] == list(range(1, 151))
        assert rounds[-1].devices == 3


def test_devices_of_a_gateway_that_dies_fall_back_to_another_and_return_to_it(tmp_path: Path) -> None:
    ports = {name: free_port() for name in ("cloud", "gw1", "gw2")}
    second = {"parent": "gw2", "broker": {"port": ports["gw2"]}, "after_s": 2.0, "return_after_s": 1.0}
    often = {name: {"heartbeat_s": 0.3} for name in ("cloud", *TREE, *DEVICES)}
    settings = often | {name: often[name] | {"fallback": second} for name in TREE["gw1"]}
    tree = Tree(fleet="plant", clusters=TREE, data=DATA, brokers=ports, settings=settings)
    about = description(rounds=5000, cohort={"quorum": 0.5, "deadline_s": 3.0, "min_children": 1})
    with (
        broker("embedded", port=ports["cloud"]),
        broker("embedded", port=ports["gw2"]),
        contextlib.ExitStack() as site,
    ):
        site.enter_context(broker("embedded", port=ports["gw1"]))
        with standing(tree, tmp_path) as fleet, opened(fleet.database) as history:
            wait_online(tmp_path, (*tree.gateways, *tree.devices))
            history.enqueue_run("r", "plant", about, None, datetime.now(UTC))

            def parts() -> tuple[int, int]:
                """Of the last round: the cloud's children in it, and the devices."""
                rounds = [r for r in history.rounds_of("r") if r.state == "closed" and r.task == "train"]
                return (rounds[-1].received, rounds[-1].devices) if rounds else (0, 0)

            eventually(lambda: parts() == (2, 4))
            gateway = next(started for started in fleet.processes.started if started.name == "gw1")
            # The machine with its broker is gone.
            gateway.process.send_signal(signal.SIGKILL)
            site.close()
            eventually(lambda: parts() == (1, 2))
            eventually(lambda: parts() == (1, 4))
            with broker("embedded", port=ports["gw1"]):
                links = {"uplink": {"port": ports["cloud"]}, "site": {"port": ports["gw1"]}}
                fleet.processes.start("gateway", {"fleet": "plant", "node": "gw1"} | links | often["gw1"])
                eventually(lambda: parts() == (2, 4))
                assert max(r.devices for r in history.rounds_of("r")) == 4


@pytest.mark.live
def test_mosquitto_with_users_rules_and_tls_and_postgresql_need_no_change(tmp_path: Path) -> None:
    names = ("cloud", "gw1", "d0", "d1", "eve", "observer")
    secrets = {name: f"s3cret-of-{name}" for name in names}
    acl = fleet_acl("plant", parents=("cloud", "gw1"), viewers=("eve",))
    tls = certificates(tmp_path)
    with (
        database_url() as database,
        mosquitto(acl=acl, passwords=secrets, tls=tls) as port,
        Processes(tmp_path / "run") as processes,
        opened(database) as history,
    ):

        def link(user: str) -> dict[str, Any]:
            file = tmp_path / f"{user}.password"
            file.write_text(secrets[user] + "\n")
            broker = {"host": "localhost", "port": port, "user": user, "password_file": str(file)}
            own = {"certificate": str(tls.client_certificate), "key": str(tls.client_key)}
            return broker | {"tls": {"ca": str(tls.ca)} | own}

        common = {"fleet": "plant"}
        processes.start("cloud", common | {"node": "cloud", "database": database, "broker": link("cloud")})
        processes.start("gateway", common | {"node": "gw1", "uplink": link("gw1"), "site": link("gw1")})
        for name in ("d0", "d1"):
            place = {"node": name, "parent": "gw1", "broker": link(name), "data": DATA[name]}
            processes.start("device", common | place)
        wait_online(tmp_path / "run", ("cloud", "gw1", "d0", "d1"))
        processes.check()
        seen = viewer(port, tls, secrets["eve"])
        history.enqueue_run(
            "r", "plant", description(cohort={"min_children": 1, "deadline_s": 10.0}), None, datetime.now(UTC)
        )
        rounds = finished(history, "r")
        assert [r.devices for r in rounds] == [2] * len(rounds)
        told = viewed(seen)
        assert {topic.split("/")[-1] for topic in told} >= {"run", "round", "gw1"}
        assert told["hw/1/plant/rounds/run"][-1]["state"] == "finished"
        assert told["hw/1/plant/rounds/round"][-1]["received"] == 1
        everything = "".join(path.read_text() for path in (tmp_path / "run").glob("*.log"))
        everything += "".join(
            Path(f"/proc/{s.process.pid}/cmdline").read_text() for s in processes.started if Path("/proc").exists()
        )
        assert not [name for name, secret in secrets.items() if secret in everything]


def viewer(port: int, tls: Certificates, password: str) -> subprocess.Popen[str]:
    program = shutil.which("mosquitto_sub")
    if program is None:
        missing("mosquitto_sub", "apt-get install mosquitto-clients")
    command = [program, "-h", "localhost", "-p", str(port), "-u", "eve", "-P", password]
    command += ["--cafile", str(tls.ca), "--cert", str(tls.client_certificate), "--key", str(tls.client_key)]
    process = subprocess.Popen([*command, "-v", "-t", "hw/1/+/rounds/#"], stdout=subprocess.PIPE, text=True)
    time.sleep(0.5)
    return process


def viewed(process: subprocess.Popen[str]) -> dict[str, list[dict[str, Any]]]:
    time.sleep(0.5)
    process.terminate()
    text, _ = process.communicate(timeout=10)
    told: dict[str, list[dict[str, Any]]] = {}
    for line in text.splitlines():
        topic, _, payload = line.partition(" ")
        told.setdefault(topic, []).append(json.loads(payload))
    return told


def running(folder: Path) -> list[str]:
    """Processes whose command line names the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_text().replace("\0", " ")
        except OSError:
            continue
        if str(folder) in command and int(entry.parent.name) != os.getpid():
            found.append(command)
    return found


def test_the_demo_ends_with_its_result_as_json(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    command = [sys.executable, "-m", "headwater.cli.main", "demo", "--rounds", "5", "--json", "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert (told["rounds"], told["devices"], told["gateways"]) == (5, 9, 2)
    assert told["accuracy"]["global"] > told["accuracy"]["local_mean"] + 0.1
    assert 0.5 < told["accuracy"]["unseen_person"] < 1.0
    assert all(link["down"] > 0 and link["up"] > 0 for link in told["bytes"].values())
    with opened(told["history"]) as history:
        assert history.show_run(told["run_id"]).state == "finished"
    assert "the fleet" in done.stderr
    assert running(folder) == []


def test_the_demo_takes_nothing_from_a_folder_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "cloud.log").write_text("an earlier demo's")
    command = [sys.executable, "-m", "headwater.cli.main", "demo", "--rounds", "1", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    assert "an earlier demo's" not in (tmp_path / "cloud.log").read_text()


@pytest.mark.parametrize("after_s", [0.0, 3.0], ids=["while it starts", "while it runs"])
def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path, after_s: float) -> None:
    folder = tmp_path / "demo"
    command = [sys.executable, "-m", "headwater.cli.main", "demo", "--rounds", "1000", "--folder", str(folder)]
    demo = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    assert demo.stdout is not None
    # Before its first line it has started nothing that could be left behind.
    assert "Starting" in demo.stdout.readline()
    time.sleep(after_s)
    # As a terminal does: the demo and all that it started.
    os.killpg(demo.pid, signal.SIGINT)
    output, _ = demo.communicate(timeout=30)
    assert demo.returncode == 130, output
    assert "Traceback" not in output
    eventually(lambda: running(folder) == [], 10)
