"""The page on the API says what is so: each of its curl lines is run as it stands, against a coordinator that runs."""

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from headwater.testbed.machine import free_port, program
from headwater.testbed.processes import Processes
from headwater.transport.broker import BrokerConfig, spawn
from support.api import RUN, SECRETS, fill, tokens
from support.postgres import missing
from support.waiting import eventually

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
CALLS = [
    call.replace("\\\n", " ")
    for block in re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for call in re.findall(r"^curl (?:[^'\n]|'[^']*')*$", block, re.MULTILINE)
]


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables that the page speaks of."""
    folder = tmp_path_factory.mktemp("page")
    url, port = f"sqlite:///{folder / 'history.db'}", free_port()
    fill(folder / "run", url)
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(spawn(BrokerConfig(port=0)))
        processes = stack.enter_context(Processes(folder / "cloud"))
        http = {"port": port, "tokens": str(tokens(folder))}
        settings = {"fleet": "plant", "database": url, "broker": {"port": broker.port}, "lease_s": 2.0, "http": http}
        processes.start("cloud", settings)
        where = {"API": f"http://127.0.0.1:{port}", "TOKEN": SECRETS["ops"], "RUN": RUN}
        eventually(lambda: said('curl -s -o /dev/null -w "%{http_code}" $API/ready', where, folder) == "200", 60)
        yield where


def said(call: str, variables: dict[str, str], folder: Path) -> str:
    path = {"PATH": "/usr/bin:/bin"}
    return subprocess.run(
        call, shell=True, cwd=folder, env=path | variables, capture_output=True, text=True, timeout=30
    ).stdout


def test_every_line_is_run_as_it_stands(coordinator: dict[str, str], tmp_path: Path) -> None:
    from headwater.testbed.machine import ToolMissing

    try:
        program("curl", "curl")
    except ToolMissing:
        missing("curl", "apt-get install curl")
    assert len(CALLS) > 15
    for call in CALLS:
        answer = said(call, coordinator, tmp_path)
        if "-o model.onnx" in call:
            assert onnx.load(tmp_path / "model.onnx").graph.input[0].name == "x"
            continue
        told = json.loads(answer)
        assert "title" not in told, f"{call}: {answer}"
        assert told.get("ready", True), f"{call}: {answer}"
