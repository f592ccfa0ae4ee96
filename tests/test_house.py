"""The house stands: rooms in one namespace, import rules kept, and a wheel that holds every room."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = (
    "schemas",
    "trust",
    "core",
    "transport",
    "node",
    "device",
    "gateway",
    "cloud",
    "dashboard",
    "bridges",
    "models",
    "testbed",
    "cli",
)


def test_the_namespace_has_no_init_in_any_root() -> None:
    assert [room for room in ROOMS if (ROOT / room / "headwater" / "__init__.py").exists()] == []


@pytest.mark.parametrize("room", ROOMS)
def test_every_module_opens_with_its_law(room: str) -> None:
    without = [
        str(path.relative_to(ROOT))
        for path in (ROOT / room / "headwater").rglob("*.py")
        if "migrations" not in path.parts
        and path.name != "__main__.py"
        and not path.read_text(encoding="utf-8").startswith('"""Law: ')
    ]
    assert without == []


def test_the_import_rules_hold() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "breach",
    [
        'type = "forbidden"\nsource_modules = ["headwater.transport"]\nforbidden_modules = ["headwater.schemas"]\n',
        'type = "protected"\nprotected_modules = ["aiomqtt"]\nallowed_importers = ["headwater.schemas"]\n',
    ],
    ids=["who may not import", "who alone may import"],
)
def test_a_broken_import_rule_is_noticed(tmp_path: Path, breach: str) -> None:
    """A planted breach: a contract that forbids what the transport really imports."""
    config = tmp_path / "breach.toml"
    config.write_text(
        '[tool.importlinter]\nroot_packages = ["headwater.transport", "headwater.schemas"]\n'
        f'include_external_packages = true\n[[tool.importlinter.contracts]]\nname = "breach"\n{breach}'
    )
    command = f"from importlinter.cli import lint_imports; import sys; sys.exit(lint_imports(config_filename={str(config)!r}))"
    done = subprocess.run([sys.executable, "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert "breach BROKEN" in done.stdout


def test_every_room_is_under_the_import_rules() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert {path.parent.name for path in ROOT.glob("*/headwater")} == set(ROOMS)
    assert set(project["tool"]["importlinter"]["root_packages"]) == {f"headwater.{room}" for room in ROOMS}


def test_the_wheel_holds_every_room(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        str(path.relative_to(ROOT / room))
        for room in ROOMS
        for path in (ROOT / room / "headwater").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert expected - names == set()
    assert "headwater/__init__.py" not in names
    assert {name.split("/")[1] for name in names if name.startswith("headwater/")} == set(ROOMS)


def test_every_test_that_the_table_of_faults_names_is_there() -> None:
    text = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", text))
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^ *(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert len(named) > 15
    assert named - defined == set()
