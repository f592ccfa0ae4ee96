"""The HTTP API over a history that a real fleet has filled: who may do what, pages, problems, models, runs."""

import base64
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import onnxruntime
import pytest
from sqlalchemy import text

from headwater.cloud.api.service import Standing
from headwater.cloud.api.tokens import of_secret, write
from headwater.cloud.exporting import exported
from headwater.core.models import mlp
from headwater.schemas.errors import HistoryError
from headwater.schemas.http import (
    MAX_PAGE,
    ClusterRounds,
    Contributions,
    Fleets,
    Models,
    NodeDetail,
    Nodes,
    Problem,
    Readiness,
    Refusals,
    ReleaseEntry,
    Releases,
    Rounds,
    Run,
    RunDetail,
    RunRequest,
    Runs,
)
from headwater.schemas.run import RunDescription
from headwater.schemas.statuses import FailedUpdate, RolloutStatus
from support.api import DESCRIPTION, DEVICES, OPERATOR, ROUNDS, RUN, VERSIONS, VIEWER, Served, fill, served, tokens
from support.histories import queued_unchecked
from support.postgres import database_url

API = "/api/v1"
OF_RUN = f"{API}/runs/{RUN}"


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.live)])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a database that a run has filled."""
    folder = tmp_path_factory.mktemp("filled")
    with contextlib.ExitStack() as stack:
        url = f"sqlite:///{folder / 'history.db'}"
        if request.param == "postgresql":
            url = stack.enter_context(database_url())
        fill(folder / "run", url)
        yield url


@pytest.fixture
def api(filled: str, tmp_path: Path) -> Iterator[Served]:
    with served(filled, tokens(tmp_path)) as opened:
        yield opened
        # What a test asked for is gone with it.
        with opened.history._transaction("forget") as session:
            session.execute(text(f"DELETE FROM runs WHERE id != '{RUN}'"))
            session.execute(text("DELETE FROM leases WHERE fleet != 'plant'"))
            session.execute(text("UPDATE releases SET wish = ''"))


@pytest.fixture
async def viewer(api: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with api.client(VIEWER) as client:
        yield client


@pytest.fixture
async def operator(api: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with api.client(OPERATOR) as client:
        yield client


def asked(**changes: Any) -> dict[str, Any]:
    return {"description": json.loads(DESCRIPTION.model_dump_json())} | changes


# ── who may do what ─────────────────────────────────────────────────────────────────────────────────────────────

READERS = [
    f"{API}/fleets",
    f"{API}/runs",
    OF_RUN,
    f"{OF_RUN}/refusals",
    f"{OF_RUN}/rounds",
    f"{OF_RUN}/rounds/1/contributions",
    f"{OF_RUN}/rounds/1/clusters",
    f"{OF_RUN}/models",
    f"{OF_RUN}/models/1.onnx",
    f"{API}/nodes",
    f"{API}/nodes/d0",
    f"{API}/releases",
    f"{API}/releases/1",
]
WRITERS = [
    f"{API}/runs",
    *(f"{OF_RUN}/{verb}" for verb in ("stop", "pause", "resume")),
    *(f"{API}/releases/1/{verb}" for verb in ("pause", "resume")),
]
OPEN = ["/health", "/ready", "/openapi.json"]


async def test_every_path_is_in_the_table_of_roles(viewer: httpx.AsyncClient) -> None:
    described = (await viewer.get("/openapi.json")).json()["paths"]
    plain = {"{run}": RUN, "{round}": "1", "{version}": "1", "{node}": "d0", "{counter}": "1"}
    found = set()
    for path, methods in described.items():
        for name, value in plain.items():
            path = path.replace(name, value)
        found |= {(method, path) for method in methods}
    expected = {("get", path) for path in (*READERS, *OPEN[:2])} | {("post", path) for path in WRITERS}
    assert found == expected


@pytest.mark.parametrize(
    ("headers", "reads", "writes"),
    [
        pytest.param({}, 401, 401, id="no token"),
        pytest.param({"Authorization": "Bearer hw_wrong"}, 401, 401, id="wrong token"),
        pytest.param({"Authorization": "Bearer "}, 401, 401, id="empty token"),
        pytest.param({"Authorization": "Basic aHdfdmlld2VyOg=="}, 401, 401, id="another scheme"),
        pytest.param({"Authorization": "Bearer " + "x" * 5000}, 401, 401, id="a token of any length"),
        pytest.param(VIEWER, 200, 403, id="viewer"),
        pytest.param(OPERATOR, 200, None, id="operator"),
    ],
)
async def test_roles(api: Served, headers: dict[str, str], reads: int, writes: int | None) -> None:
    async with api.client(headers) as client:
        for path in READERS:
            assert (await client.get(path)).status_code == reads, path
        for path in OPEN:
            assert (await client.get(path)).status_code == 200, path
        for path in WRITERS:
            answer = await client.post(path, content=b"no JSON")
            if writes is None:
                assert answer.status_code in (409, 422), path
            else:
                # Before a byte of the body is looked at.
                assert answer.status_code == writes, path
                assert ("www-authenticate" in answer.headers) == (writes == 401)


async def test_without_tokens_this_machine_reads_and_nobody_writes(filled: str) -> None:
    with served(filled, None) as opened:
        for base in ("http://127.0.0.1:8080", "http://localhost", "http://[::1]:8080"):
            async with opened.client(base=base) as client:
                assert (await client.get(f"{API}/runs")).status_code == 200
                refused = await client.post(f"{API}/runs", json=asked())
                assert refused.status_code == 403
                assert "headwater token add" in refused.json()["detail"]
        # A page in a browser on this machine, whose name was made to lead here.
        async with opened.client(base="http://evil.example:8080") as client:
            assert (await client.get(f"{API}/runs")).status_code == 403


async def test_a_token_that_is_taken_back_opens_nothing_more_and_a_new_one_does(filled: str, tmp_path: Path) -> None:
    file = tokens(tmp_path)
    with served(filled, file) as opened:
        async with opened.client(VIEWER) as client:
            assert (await client.get(f"{API}/runs")).status_code == 200
            write(file, (of_secret("new", "viewer", "hw_new"),))
            assert (await client.get(f"{API}/runs")).status_code == 401
            assert (await client.get(f"{API}/runs", headers={"Authorization": "Bearer hw_new"})).status_code == 200
            file.write_text("[[token]]\nname = 7\n")
            assert (await client.get(f"{API}/runs", headers={"Authorization": "Bearer hw_new"})).status_code == 401
            file.unlink()
            assert (await client.get(f"{API}/runs", headers={"Authorization": "Bearer hw_new"})).status_code == 401


async def test_no_other_origin_is_let_in(viewer: httpx.AsyncClient) -> None:
    answer = await viewer.get(f"{API}/runs", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers


# ── what is told ────────────────────────────────────────────────────────────────────────────────────────────────


async def read(client: httpx.AsyncClient, path: str, kind: Any, **query: Any) -> Any:
    answer = await client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return kind.model_validate_json(answer.content)


async def test_a_run_and_its_rounds_are_told_as_they_were(api: Served, viewer: httpx.AsyncClient) -> None:
    told = await read(viewer, OF_RUN, RunDetail)
    assert (told.state, told.round, told.rounds, told.description) == ("finished", ROUNDS, ROUNDS, DESCRIPTION)
    rounds = await read(viewer, f"{OF_RUN}/rounds", Rounds)
    assert [(r.round, r.task) for r in rounds.rounds] == [
        (0, "statistics"),
        *((number, "train") for number in range(1, ROUNDS + 1)),
        (ROUNDS + 1, "evaluate"),
    ]
    kept = api.history.rounds_of(RUN)
    assert [(r.loss, r.accuracy, r.test) for r in rounds.rounds] == [(r.loss, r.accuracy, r.test) for r in kept]


async def test_a_rounds_contributions_are_shares_of_it(viewer: httpx.AsyncClient) -> None:
    given = (await read(viewer, f"{OF_RUN}/rounds/2/contributions", Contributions)).contributions
    assert [(part.node, part.parent, part.staleness) for part in given] == [
        (node, None, 0) for node in ("d3", "gw1", "gw2")
    ]
    assert sum(part.share for part in given) == pytest.approx(1.0)


async def test_clusters_rounds_are_kept_with_each_edge_round_and_member(viewer: httpx.AsyncClient) -> None:
    kept = (await read(viewer, f"{OF_RUN}/rounds/2/clusters", ClusterRounds)).clusters
    assert [(one.status.parent, one.status.step) for one in kept] == [(g, s) for g in ("gw1", "gw2") for s in (0, 1)]
    assert [[member.node for member in one.status.members] for one in kept[::2]] == [["d0", "d1"], ["d2"]]
    assert {one.status.state for one in kept} == {"closed"}
    assert "test" in kept[0].status.figures


async def test_a_node_below_a_gateway_has_its_history_too(viewer: httpx.AsyncClient) -> None:
    nodes = {node.node: node for node in (await read(viewer, f"{API}/nodes", Nodes)).nodes}
    assert {name: (node.role, node.parent) for name, node in nodes.items()} == {
        "d0": ("device", "gw1"), "d1": ("device", "gw1"), "d2": ("device", "gw2"), "d3": ("device", "cloud"),
        "gw1": ("gateway", "cloud"), "gw2": ("gateway", "cloud"),
    }  # fmt: skip
    assert nodes["d0"].state is None
    assert nodes["d3"].data["digits"].train_examples > 0
    told = await read(viewer, f"{API}/nodes/d0", NodeDetail)
    trained = [part for part in told.contributions if part.task == "train"]
    assert [(part.round, part.step) for part in trained] == [(r, s) for r in range(ROUNDS, 0, -1) for s in (1, 0)]
    assert all(0 < part.share < 1 for part in trained)
    right_below = await read(viewer, f"{API}/nodes/d3", NodeDetail)
    assert [part.round for part in right_below.contributions] == list(range(ROUNDS + 1, -1, -1))


async def test_lists_come_in_pages_that_make_the_whole(operator: httpx.AsyncClient) -> None:
    for number in range(5):
        assert (await operator.post(f"{API}/runs", json=asked(run=f"r{number}"))).status_code == 201
    whole: dict[str, tuple[Any, str, str]] = {
        f"{API}/runs": (Runs, "runs", "before"),
        f"{API}/nodes": (Nodes, "nodes", "after"),
        f"{OF_RUN}/rounds": (Rounds, "rounds", "after"),
        f"{OF_RUN}/models": (Models, "models", "before"),
        f"{OF_RUN}/rounds/1/contributions": (Contributions, "contributions", "skip"),
        f"{OF_RUN}/rounds/1/clusters": (ClusterRounds, "clusters", "skip"),
        f"{API}/nodes/d0": (NodeDetail, "contributions", "skip"),
        f"{API}/releases": (Releases, "releases", "before"),
    }
    for path, (kind, name, cursor) in whole.items():
        expected = getattr(await read(operator, path, kind, limit=MAX_PAGE), name)
        assert len(expected) > 2, path
        found: list[Any] = []
        query: dict[str, Any] = {"limit": 2}
        while True:
            page = await read(operator, path, kind, **query)
            assert 1 <= len(getattr(page, name)) <= 2, path
            found += getattr(page, name)
            if page.next is None:
                break
            query[cursor] = page.next
        assert tuple(found) == expected, path


async def test_refusals_are_told_of_the_cloud_and_of_the_clusters(api: Served, viewer: httpx.AsyncClient) -> None:
    assert (await read(viewer, f"{OF_RUN}/refusals", Refusals)).refusals == ()
    undo = (
        f"DELETE FROM refusals WHERE run = '{RUN}'",
        f"UPDATE cluster_members SET state = 'received' WHERE run = '{RUN}'",
    )
    with api.history._transaction("refuse") as session:
        session.execute(
            text(
                "INSERT INTO refusals (run, round, attempt, task, node, reason, detail) "
                f"VALUES ('{RUN}', 1, 0, 'train', 'd3', 'stale', 'round 0 is over')"
            )
        )
        session.execute(
            text(
                f"UPDATE cluster_members SET state = 'refused' WHERE run = '{RUN}' AND round = 3 AND node = 'd0' AND step = 0"
            )
        )
    try:
        told = (await read(viewer, f"{OF_RUN}/refusals", Refusals)).refusals
        assert [(one.node, one.parent, one.round, one.reason) for one in told] == [
            ("d0", "gw1", 3, ""),
            ("d3", None, 1, "stale"),
        ]
        of_node = await read(viewer, f"{API}/nodes/d3", NodeDetail)
        assert [one.detail for one in of_node.refusals] == ["round 0 is over"]
    finally:
        with api.history._transaction("undo") as session:
            for statement in undo:
                session.execute(text(statement))


# ── models ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_model_is_what_run_export_writes_and_is_fetched_once(api: Served, viewer: httpx.AsyncClient) -> None:
    versions = (await read(viewer, f"{OF_RUN}/models", Models)).models
    assert [version.version for version in versions] == list(range(ROUNDS, -1, -1))
    answer = await viewer.get(f"{OF_RUN}/models/2.onnx")
    _, expected = exported(api.history, RUN, 2)
    assert answer.content == expected
    assert int(answer.headers["content-length"]) == len(expected)
    assert "immutable" in answer.headers["cache-control"]
    assert onnxruntime.InferenceSession(answer.content, providers=["CPUExecutionProvider"]).get_inputs()[0].name == "x"
    for known in (answer.headers["etag"], f'"other", {answer.headers["etag"]}', "*"):
        again = await viewer.get(f"{OF_RUN}/models/2.onnx", headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
    other = await viewer.get(f"{OF_RUN}/models/1.onnx", headers={"If-None-Match": answer.headers["etag"]})
    assert other.status_code == 200


# ── problems ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        (f"{API}/nothing", 404, "is none of this API; see /openapi.json"),
        (f"{API}/runs/nobody", 404, f"run 'nobody': no such run; the newest are {RUN}"),
        (
            f"{OF_RUN}/rounds/99/contributions",
            404,
            f"round 99: run '{RUN}' has no such round; the last that ended is 4",
        ),
        (f"{OF_RUN}/models/99.onnx", 404, "no model of round 99; it has 0 to 3"),
        (f"{OF_RUN}/models/1.onnx?cluster=x", 422, "cluster: 'x'; this run has one model; leave it out"),
        (f"{API}/nodes/nobody", 404, "node 'nobody': nobody of this name was heard of in fleet 'plant'; see the list"),
        (f"{API}/runs?limit=501", 422, "query.limit: should be less than or equal to 500 (it is '501')"),
        (f"{API}/runs?limt=5", 422, "query.limt: unknown; did you mean limit?"),
        (f"{API}/fleets?x=1", 422, "query.x: unknown; known are none"),
        (f"{API}/runs?before=nobody", 404, "run 'nobody': no such run"),
        (f"{API}/runs/a%20b", 422, "path.run: "),
        (f"{API}/runs/a%00b", 422, "path.run: "),
        (f"{API}/releases/9", 404, "release 9: fleet 'plant' has no such release; the newest is 3"),
        (f"{API}/releases/1?fleet=ward", 404, "fleet 'ward': has no release; publish one first"),
        (f"{API}/releases/0", 422, "path.counter: "),
    ],
)
async def test_what_cannot_be_told_is_a_problem_that_names_the_mend(
    viewer: httpx.AsyncClient, path: str, status: int, says: str
) -> None:
    answer = await viewer.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    problem = Problem.model_validate_json(answer.content)
    assert problem.status == status
    assert says in problem.detail


async def test_a_database_that_is_away_is_said_and_one_that_is_broken_is_not_shown(
    api: Served, viewer: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headwater.cloud.history import HistoryAway
    from headwater.cloud.history.reading import Reading

    def fails(error: Exception) -> None:
        def fail(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(Reading, "runs", fail)

    fails(HistoryAway("database x: read runs: gone"))
    away = await viewer.get(f"{API}/runs")
    assert (away.status_code, away.headers["retry-after"]) == (503, "5")
    assert "read runs: gone" in away.json()["detail"]
    for error in (HistoryError("object ab: damaged"), ValueError("secret of the inside")):
        fails(error)
        broken = await viewer.get(f"{API}/runs")
        assert (broken.status_code, broken.headers["content-type"]) == (500, "application/problem+json")
        assert "the cloud's log says" in broken.json()["detail"]
        assert "secret" not in broken.text


# ── runs that are asked for ─────────────────────────────────────────────────────────────────────────────────────


async def test_a_run_is_asked_for_paused_resumed_and_stopped(api: Served, operator: httpx.AsyncClient) -> None:
    answer = await operator.post(f"{API}/runs", json=asked())
    assert answer.status_code == 201
    started = Run.model_validate_json(answer.content)
    assert answer.headers["location"] == f"{API}/runs/{started.run}"
    assert (started.state, started.fleet) == ("queued", "plant")
    assert started.run.endswith("-digits-salt")
    queued = await operator.post(f"{API}/runs/{started.run}/pause")
    assert (queued.status_code, "is queued, and has not begun" in queued.json()["detail"]) == (409, True)
    api.history.claim_next_run("plant", datetime.now(UTC))
    paused = Run.model_validate_json((await operator.post(f"{API}/runs/{started.run}/pause")).content)
    assert (paused.state, paused.pause_requested) == ("running", True)
    resumed = Run.model_validate_json((await operator.post(f"{API}/runs/{started.run}/resume")).content)
    assert (resumed.state, resumed.pause_requested) == ("running", False)
    stopped = Run.model_validate_json((await operator.post(f"{API}/runs/{started.run}/stop")).content)
    assert stopped.stop_requested
    ended = await operator.post(f"{OF_RUN}/stop")
    assert (ended.status_code, "is finished already" in ended.json()["detail"]) == (409, True)


def described(**changes: Any) -> dict[str, Any]:
    return asked(description=asked()["description"] | changes)


ONNX = {"kind": "onnx", "path": "m.onnx", "classes": 10}


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (described(rounds=0), 422, "body.description: rounds: input should be greater than or equal to 1 (it is 0)"),
        (described(ruonds=1), 422, "ruonds: unknown key; did you mean rounds?"),
        (described(name="a\0b"), 422, "name: 'a\\x00b': give some text, and leave control characters out"),
        (described(initial="/etc/passwd.npz"), 422, "initial: '/etc/passwd.npz' is a file"),
        (asked(run=RUN), 409, "there is one of this name"),
        (asked(forward="AAAA"), 422, "forward: a model of kind 'mlp' brings no file"),
        (described(model=ONNX), 422, "forward: missing"),
        (described(model=ONNX) | {"forward": "no base64!"}, 422, "forward: "),
        (described(model=ONNX) | {"forward": "AAAA"}, 422, "model"),
        ({}, 422, "body.description: Field required"),
        ([], 422, "body: "),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
async def test_a_run_that_cannot_begin_is_refused(
    operator: httpx.AsyncClient, body: Any, status: int, says: str
) -> None:
    answer = await operator.post(f"{API}/runs", json=body)
    assert answer.status_code == status, answer.text
    assert says in answer.json()["detail"]
    assert len((await read(operator, f"{API}/runs", Runs)).runs) == 1


async def test_an_owners_model_comes_along(api: Served, operator: httpx.AsyncClient) -> None:
    import numpy as np

    forward = mlp(64, (4,), 10, rng=np.random.default_rng(1), activation="tanh")
    normal = described(model=ONNX) | {"forward": base64.b64encode(forward).decode(), "run": "own"}
    answer = await operator.post(f"{API}/runs", json=normal)
    assert answer.status_code == 201, answer.text
    assert api.history.forward_of("own") == forward


async def test_a_body_has_a_bound_with_its_length_and_without(operator: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * 65536

    path = f"{OF_RUN}/stop"
    said = await operator.post(path, headers={"Content-Length": str(2**40)}, content=b"")
    assert said.status_code == 413
    assert (await operator.post(f"{API}/runs", content=b"{" + b" " * 10)).status_code == 422
    # A path that wants no body reads none; one that does stops at the bound.
    from headwater.cloud.api import gate

    before, gate.MAX_RUN_BODY_BYTES = gate.MAX_RUN_BODY_BYTES, 1_000_000  # type: ignore[misc]
    try:
        unsaid = await operator.post(f"{API}/runs", content=endless())
    finally:
        gate.MAX_RUN_BODY_BYTES = before  # type: ignore[misc]
    assert unsaid.status_code == 413
    assert "more than 1000000 bytes" in unsaid.json()["detail"]


# ── the devices' software ───────────────────────────────────────────────────────────────────────────────────────


async def test_a_release_is_told_as_the_coordinator_left_it(api: Served, viewer: httpx.AsyncClient) -> None:
    fresh = await read(viewer, f"{API}/releases", Releases)
    assert [(one.counter, one.version, one.is_current) for one in fresh.releases] == [
        (3, VERSIONS[2], True), (2, VERSIONS[1], False), (1, VERSIONS[0], False),
    ]  # fmt: skip
    current = fresh.releases[0]
    assert (current.state, current.stage, current.stages, current.shares) == ("canary", 0, 3, (0.0, 0.5, 1.0))
    assert (current.canaries, current.report, current.well_since, current.wish) == (("d0",), None, None, None)
    record = api.history.releases.current("plant")
    assert record is not None
    failed = FailedUpdate(node="d1", detail="did not prove itself in 3 starts")
    report = RolloutStatus(counter=3, stage=1, updated=2, failed=1, away=1, failures=(failed,))
    stopped = replace(record.progress, stage=1, state="paused", said=2, detail="1 of 3 that tried", report=report)
    now = datetime.now(UTC)
    try:
        api.history.releases.keep("plant", replace(stopped, well_since=now.timestamp()), None, now)
        told = await read(viewer, f"{API}/releases/3", ReleaseEntry)
        assert (told.state, told.stage, told.detail, told.report) == ("paused", 1, "1 of 3 that tried", report)
        assert (told.well_since, told.changed_at) == (now, now)
    finally:
        api.history.releases.keep("plant", record.progress, None, now)


async def test_a_release_is_paused_and_resumed_by_its_counter(api: Served, operator: httpx.AsyncClient) -> None:
    for wish in ("pause", "resume"):
        answer = await operator.post(f"{API}/releases/3/{wish}")
        assert answer.status_code == 200, answer.text
        assert ReleaseEntry.model_validate_json(answer.content).wish == wish
        record = api.history.releases.current("plant")
        assert record is not None
        assert record.wish == wish


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("2/pause", 409, "release 2: was replaced by release 3; ask that of release 3"),
        ("9/resume", 404, "the newest is 3"),
        ("3/pause?fleet=ward", 404, "fleet 'ward': has no release; publish one first"),
        ("3/stop", 404, "is none of this API"),
        ("3", 405, "POST is not for"),
    ],
)
async def test_what_cannot_be_asked_of_a_release_is_a_problem(
    operator: httpx.AsyncClient, path: str, status: int, says: str
) -> None:
    answer = await operator.post(f"{API}/releases/{path}")
    assert answer.status_code == status
    assert says in answer.json()["detail"]
    assert [one.wish for one in (await read(operator, f"{API}/releases", Releases)).releases] == [None] * 3


# ── who leads, and who waits ────────────────────────────────────────────────────────────────────────────────────


async def test_a_queued_run_says_what_it_waits_for(api: Served, operator: httpx.AsyncClient) -> None:
    leases, now = api.history.leases, datetime.now(UTC)
    asked_for = await operator.post(f"{API}/runs", json=asked(fleet="ward", run="w1"))
    assert "nobody coordinates fleet 'ward': run `headwater cloud` for it" in asked_for.json()["waits_for"]
    assert leases.take_lease("ward", "cloud on x", leases.read_lease("ward"), now - timedelta(hours=1))
    silent = (await read(operator, f"{API}/runs/w1", RunDetail)).waits_for
    assert "nobody coordinates fleet 'ward'" in silent
    assert leases.take_lease("ward", "cloud on y", leases.read_lease("ward"), now)
    assert (await read(operator, f"{API}/runs/w1", RunDetail)).waits_for == "cloud on y is about to begin it"
    api.history.claim_next_run("ward", now)
    await operator.post(f"{API}/runs", json=asked(fleet="ward", run="w2"))
    assert (await read(operator, f"{API}/runs/w2", RunDetail)).waits_for == "w1 is before it"
    elsewhere = (await operator.post(f"{API}/runs", json=asked(fleet="moon", run="m1"))).json()["waits_for"]
    assert elsewhere.endswith("coordinated are: ward")
    fleets = {fleet.fleet: fleet for fleet in (await read(operator, f"{API}/fleets", Fleets)).fleets}
    assert (fleets["ward"].active, fleets["ward"].queued, fleets["ward"].coordinator.is_alive) == ("w1", 1, True)
    assert (fleets["moon"].coordinator, fleets["moon"].queued) == (None, 1)


async def test_runs_that_older_software_queued_by_names_that_are_none_spoil_no_list(
    api: Served, operator: httpx.AsyncClient
) -> None:
    queued_unchecked(api.history, "a/b c", "plant", datetime.now(UTC))
    queued_unchecked(api.history, "elsewhere", "my fleet", datetime.now(UTC))
    fleets = (await read(operator, f"{API}/fleets", Fleets)).fleets
    assert [(fleet.fleet, fleet.queued) for fleet in fleets] == [("my fleet", 1), ("plant", 1)]
    runs, before = [], None
    while not runs or before is not None:
        answer = await operator.get(f"{API}/runs", params={"limit": 1} | ({"before": before} if before else {}))
        page = Runs.model_validate_json(answer.content)
        runs, before = [*runs, *page.runs], page.next
    assert [run.run for run in runs] == ["elsewhere", "a/b c", RUN]
    assert runs[0].waits_for.startswith("nobody can coordinate it, fleet: 'my fleet': use 1 to 64 letters")


@pytest.mark.parametrize(
    ("standing", "status", "says"),
    [
        (Standing(leads=True, is_connected=True), 200, ""),
        (Standing(leads=True, is_connected=False), 503, "no connection to the broker"),
        (Standing(), 503, "it stands by"),
    ],
)
async def test_ready_is_who_leads_with_its_broker(
    api: Served, viewer: httpx.AsyncClient, standing: Standing, status: int, says: str
) -> None:
    api.standing.append(standing)
    answer = await viewer.get("/ready")
    told = Readiness.model_validate_json(answer.content)
    assert (answer.status_code, told.ready) == (status, status == 200)
    assert says in told.detail
    assert (told.role == "leading", told.database) == (standing.leads, True)
    assert (await viewer.get("/health")).status_code == 200


def test_a_request_is_the_same_for_who_writes_it() -> None:
    request = RunRequest(description=DESCRIPTION, run="r")
    assert RunRequest.model_validate_json(request.model_dump_json()) == request
    assert isinstance(request.description, RunDescription)
    assert set(DEVICES) == {"d0", "d1", "d2", "d3"}
