"""The command line: help on every level, and every kind of bad input with its sentence and exit code."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from sqlalchemy import create_engine, text

from headwater.cloud.api.tokens import TokenBook
from headwater.cloud.history import open_history
from headwater.schemas.acl import fleet_acl
from headwater.testbed.machine import free_port
from support.brokers import broker

RUN = """name = "n"
data = "d"
rounds = 2
[model]
kind = "mlp"
features = 2
classes = 2
"""
CSV = "a,b,label\n1,2,0\n3,4,1\n5,6,0\n7,8,1\n"
DEVICE = """fleet = "plant"
node = "d0"
[broker]
port = {port}
connect_timeout_s = 1.0
[data.d]
kind = "file"
path = "{folder}/data.csv"
features = ["a", "b"]
target = "label"
classes = 2
"""


def headwater(
    *arguments: str, cwd: Path, timeout_s: float = 30.0, **environment: str
) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")}
    return subprocess.run(
        [sys.executable, "-m", "headwater.cli.main", *arguments],
        cwd=cwd,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ([], "Federated learning"),
        (["cloud"], "coordinator"),
        (["gateway"], "adds up its cluster"),
        (["device"], "its own data"),
        (["device", "run"], "--broker-host"),
        (["device", "doctor"], "what may stand in a device's way"),
        (["demo"], "Watch a fleet learn"),
        (["run"], "Start, follow, pause, stop and export"),
        *(
            (["run", verb], word)
            for verb, word in (("start", "Ask a fleet"), ("list", "newest first"), ("show", "rounds"))
        ),
        *(
            (["run", verb], word)
            for verb, word in (
                ("watch", "until it ends"),
                ("stop", "Stop"),
                ("pause", "keeps its fleet"),
                ("resume", "go on"),
                ("export", "ONNX"),
            )
        ),
        (["token"], "HTTP API"),
        *((["token", verb], word) for verb, word in (("add", "show it once"), ("list", "roles"), ("remove", "back"))),
        (["broker"], "passwords"),
        *(
            (["broker", verb], word)
            for verb, word in (
                ("start", "Ctrl-C"),
                ("acl", "Mosquitto"),
                ("config", "certificates"),
                ("password", "user"),
            )
        ),
    ],
    ids=lambda value: " ".join(value) or "headwater" if isinstance(value, list) else "",
)
def test_every_level_explains_itself(command: list[str], says: str, tmp_path: Path) -> None:
    done = headwater(*command, "--help", cwd=tmp_path, COLUMNS="200")
    assert done.returncode == 0
    assert says in done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run.toml").write_text(RUN)
    (tmp_path / "data.csv").write_text(CSV)
    (tmp_path / "device.toml").write_text(DEVICE.format(port=free_port(), folder=tmp_path))
    return tmp_path


def replaced(path: Path, old: str, new: str) -> None:
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        pytest.param(
            "rounds = 2", "ruonds = 2", "run.toml:3: ruonds: unknown key; did you mean rounds?", id="unknown key"
        ),
        pytest.param("rounds = 2", "rounds = 0", "run.toml:3: rounds: ", id="out of range"),
        pytest.param("classes = 2", 'classes = "two"', "run.toml:7: model.classes: ", id="wrong type"),
        pytest.param('data = "d"\n', "", "data: missing; give it a value", id="missing"),
        pytest.param("[model]", "[model", "run.toml:4:", id="no TOML"),
        pytest.param('kind = "mlp"', 'kind = "mpl"', "'mpl' is none of 'logistic', 'mlp', ", id="unknown kind"),
    ],
)
def test_a_bad_run_file_is_refused_by_its_line(folder: Path, old: str, new: str, says: str) -> None:
    replaced(folder / "run.toml", old, new)
    done = headwater("run", "start", "run.toml", cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert not (folder / "headwater.db").exists()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param("a,b,label\n1,nan,0\n3,4,1\n", "nan", id="NaN"),
        pytest.param("a,b,label\n1,x,0\n", "line 2, column 'b': 'x' is no number", id="no number"),
        pytest.param("a,b,label\n", "0 training examples", id="no examples"),
        pytest.param("a,c,label\n1,2,0\n", "no column 'b'; there are a, c, label", id="missing column"),
        pytest.param("a,b,label\n1,2,7\n3,4,1\n", "is no class of 0 to 1", id="unknown class"),
        pytest.param("a,b,label\n1,2\n", "line 2 has 2 cells where 3 belong", id="ragged"),
        pytest.param(None, "No such file", id="no file"),
    ],
)
def test_bad_data_are_named_before_anything_is_joined(folder: Path, data: str | None, says: str) -> None:
    if data is None:
        (folder / "data.csv").unlink()
    else:
        (folder / "data.csv").write_text(data)
    done = headwater("device", "device.toml", cwd=folder)
    assert done.returncode == 5, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unreachable_broker_is_told_with_its_address(folder: Path) -> None:
    done = headwater("device", "device.toml", cwd=folder)
    assert done.returncode == 3, done.stderr
    assert "no connection within 1 s" in done.stderr
    assert "check broker.host, broker.port" in done.stderr


@pytest.fixture(scope="module", params=["embedded", pytest.param("mosquitto", marks=pytest.mark.live)])
def guarded(request: pytest.FixtureRequest) -> Iterator[int]:
    """A broker with users and rules."""
    with broker(
        request.param, acl=fleet_acl("plant", parents=("cloud",)), passwords={"d0": "right", "x": "right"}
    ) as port:
        yield port


@pytest.mark.parametrize(
    ("user", "password", "says"),
    [
        pytest.param("d0", "s3cret-and-wrong", "refused user 'd0'", id="wrong password"),
        pytest.param("x", "right", "may not write and read its own topic", id="refused by the rules"),
    ],
)
def test_a_refused_node_is_told_what_to_mend(folder: Path, guarded: int, user: str, password: str, says: str) -> None:
    (folder / "device.toml").write_text(DEVICE.format(port=guarded, folder=folder))
    done = headwater("device", "device.toml", "--broker-user", user, cwd=folder, HEADWATER_BROKER__PASSWORD=password)
    assert done.returncode == 4, done.stderr
    assert says in done.stderr
    assert "s3cret" not in done.stderr


def test_a_model_that_cannot_be_trained_is_refused_by_operator_and_node(folder: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["h"], "dense"), helper.make_node("Tan", ["h"], ["y"], "wave")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [onnx.numpy_helper.from_array(np.ones((2, 2), np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "m.onnx")
    replaced(folder / "run.toml", 'kind = "mlp"\nfeatures = 2', 'kind = "onnx"\npath = "m.onnx"')
    done = headwater("run", "start", "run.toml", cwd=folder)
    assert done.returncode == 6, done.stderr
    assert "node 'wave': operator Tan cannot be trained yet; supported are A" in done.stderr
    assert headwater("run", "list", "--json", cwd=folder).stdout.strip() == "[]"


def test_a_database_of_a_newer_version_is_left_alone(folder: Path) -> None:
    url = f"sqlite:///{folder / 'headwater.db'}"
    open_history(url).close()
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    done = headwater("cloud", cwd=folder)
    assert done.returncode == 7
    assert "schema 9999 is newer than this software's" in done.stderr


def test_a_port_in_use_is_told(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = headwater("broker", "start", "--port", str(taken.getsockname()[1]), cwd=folder)
    assert done.returncode == 3
    assert "in use" in done.stderr


def test_runs_are_queued_listed_stopped_and_nothing_is_exported_too_early(folder: Path) -> None:
    started = json.loads(headwater("run", "start", "run.toml", "--json", cwd=folder).stdout)
    assert started["state"] == "queued"
    assert [run["run"] for run in json.loads(headwater("run", "list", "--json", cwd=folder).stdout)] == [started["run"]]
    export = headwater("run", "export", cwd=folder)
    assert export.returncode == 8
    assert "it has none yet" in export.stderr
    assert json.loads(headwater("run", "stop", "--json", cwd=folder).stdout)["state"] == "stopped"
    assert headwater("run", "watch", cwd=folder).returncode == 0
    unknown = headwater("run", "show", "nobody", cwd=folder)
    assert unknown.returncode == 8
    assert f"no such run; the newest are {started['run']}" in unknown.stderr


def test_a_queued_run_of_a_fleet_that_nobody_coordinates_says_so(folder: Path) -> None:
    started = headwater("run", "start", "run.toml", "--fleet", "ward", "--id", "r1", cwd=folder)
    assert "r1: queued (nobody coordinates fleet 'ward': run `headwater cloud` for it" in started.stdout
    for command in (("run", "list"), ("run", "show")):
        assert "no fleet of this database is coordinated" in headwater(*command, cwd=folder).stdout
    paused = headwater("run", "pause", cwd=folder)
    assert (paused.returncode, "is queued, and has not begun" in paused.stderr) == (8, True)
    (listed,) = json.loads(headwater("run", "list", "--json", cwd=folder).stdout)
    assert (listed["of"], listed["state"], listed["waits_for"][:6]) == (2, "queued", "nobody")


def test_a_token_is_shown_once_and_kept_as_its_hash(tmp_path: Path) -> None:
    made = json.loads(headwater("token", "add", "eve", "--role", "operator", "--json", cwd=tmp_path).stdout)
    assert (made["name"], made["role"], made["token"][:3]) == ("eve", "operator", "hw_")
    file = tmp_path / "tokens.toml"
    assert made["token"] not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    assert TokenBook(file).whose(made["token"]).name == "eve"  # type: ignore[union-attr]
    again = headwater("token", "add", "eve", cwd=tmp_path)
    assert (again.returncode, "'eve' has a token in tokens.toml" in again.stderr) == (2, True)
    assert headwater("token", "add", "no name", cwd=tmp_path).returncode == 2
    assert headwater("token", "list", cwd=tmp_path).stdout.split() == ["eve", "operator"]
    assert headwater("token", "remove", "eve", cwd=tmp_path).returncode == 0
    assert TokenBook(file).whose(made["token"]) is None
    gone = headwater("token", "remove", "eve", cwd=tmp_path)
    assert (gone.returncode, "there are those of nobody" in gone.stderr) == (2, True)


def test_print_config_shows_every_value_with_its_origin_and_no_secret(folder: Path) -> None:
    done = headwater(
        "device", "device.toml", "--node", "d9", "--print-config", "--json", cwd=folder,
        HEADWATER_BROKER__PASSWORD="s3cret", HEADWATER_BROKER__HOST="broker.local",
    )  # fmt: skip
    shown = json.loads(done.stdout)
    assert shown["node"] == {"value": "d9", "from": "--node"}
    assert shown["broker.host"] == {"value": "broker.local", "from": "HEADWATER_BROKER__HOST"}
    assert shown["broker.port"]["from"] == "device.toml:4"
    assert shown["broker.keepalive_s"]["from"] == "default"
    assert shown["broker.password"]["value"] == "********"
    assert "s3cret" not in done.stdout + done.stderr


def test_an_unknown_variable_is_refused_and_other_services_variables_are_not(folder: Path) -> None:
    done = headwater("device", "device.toml", cwd=folder, HEADWATER_BROKER__PROT="1", HEADWATER_UPLINK__PORT="1")
    assert done.returncode == 2
    assert "HEADWATER_BROKER__PROT: no such setting; did you mean HEADWATER_BROKER__PORT?" in done.stderr
    assert "UPLINK" not in done.stderr.splitlines()[0]


def test_the_rules_of_a_broker_are_printed_for_mosquitto(tmp_path: Path) -> None:
    done = headwater("broker", "acl", "--fleet", "plant", "--parent", "gw1", "--viewer", "eve", cwd=tmp_path)
    assert done.returncode == 0
    assert "pattern write hw/1/plant/node/%u/status" in done.stdout
    of_gw1 = done.stdout.partition("user gw1\n")[2].partition("\n\n")[0]
    assert "topic read hw/1/plant/node/+/up/gw1/+" in of_gw1
    assert headwater("broker", "acl", "--fleet", "a/b", cwd=tmp_path).returncode == 2


def test_a_password_is_kept_as_a_hash_that_opens_the_broker(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "headwater.cli.main", "broker", "password", "users", "d0"]
    done = subprocess.run(command, input="s3cret\n", cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    stored = (tmp_path / "users").read_text()
    assert stored.startswith("d0:")
    assert "s3cret" not in stored
    assert (tmp_path / "users").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["run", "start"], "Missing argument"),
        (["nonsense"], "No such command"),
        (["demo", "--rounds", "0"], "--rounds"),
    ],
)
def test_a_wrong_call_is_explained(command: list[str], says: str, tmp_path: Path) -> None:
    done = headwater(*command, cwd=tmp_path, COLUMNS="200")
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_the_commands_need_no_more_than_the_installation_brings(tmp_path: Path) -> None:
    """What only the tests' own tools bring along must not be imported."""
    open_history(f"sqlite:///{tmp_path / 'headwater.db'}").close()
    script = (
        "import sys\n"
        "class Blocker:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'click', 'pytest', 'hypothesis', 'jsonschema', 'importlinter', 'psycopg'}:\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Blocker())\n"
        "sys.argv = ['headwater', 'run', 'list', '--json']\n"
        "from headwater.cli.main import main\nsys.exit(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_a_device_is_examined_and_its_fault_is_the_exit_code(folder: Path) -> None:
    done = headwater("device", "doctor", "device.toml", "--json", "--listen-s", "0", cwd=folder)
    assert done.returncode == 3, done.stderr
    marks = {finding["name"]: finding["mark"] for finding in json.loads(done.stdout)["findings"]}
    assert marks["broker port"] == "error"
    assert marks["data.d"] == "ok"


@pytest.mark.parametrize("arguments", [["device", "device.toml"], ["device", "run", "device.toml"]])
def test_an_agent_runs_with_and_without_the_word_run(folder: Path, arguments: list[str]) -> None:
    done = headwater(*arguments, "--node", "d9", "--print-config", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "d9" in done.stdout
