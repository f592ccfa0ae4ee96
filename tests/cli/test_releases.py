"""`headwater release`: keys, publishing, pausing and taking back, and what each refuses."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from headwater.cli.app import app
from headwater.cloud.history import open_history
from headwater.cloud.releasing import Policy
from headwater.schemas.errors import ConfigError, RunFailed
from headwater.schemas.messages import Rollout
from headwater.schemas.statuses import FailedUpdate, RolloutStatus
from headwater.trust.releases import is_signed, read_signer
from support.wheels import small


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADWATER_DATABASE", f"sqlite:///{tmp_path / 'h.db'}")
    monkeypatch.setenv("HEADWATER_FLEET", "plant")
    for version in ("2.0", "2.1"):
        (tmp_path / f"headwater-{version}-py3-none-any.whl").write_bytes(small(version))
    call("keys", str(tmp_path / "keys"))
    return tmp_path


def call(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["release", *arguments], catch_exceptions=True)
    if done.exception is not None:
        raise done.exception
    return done.output


def published(folder: Path, version: str, *options: str) -> dict[str, Any]:
    wheel = folder / f"headwater-{version}-py3-none-any.whl"
    told: dict[str, Any] = json.loads(
        call("publish", str(wheel), "--key", str(folder / "keys" / "release.key"), "--json", *options)
    )
    return told


def test_keys_are_made_once_and_the_secret_one_is_its_owners(folder: Path) -> None:
    key = folder / "keys" / "release.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert "PRIVATE" not in (folder / "keys" / "release.pub").read_text()
    with pytest.raises(ConfigError, match="is there already"):
        call("keys", str(folder / "keys"))


def test_what_is_published_is_signed_and_spreads_as_it_was_said(folder: Path) -> None:
    told = published(folder, "2.0", "--canary", "d1", "--canary", "d2", "--canary-share", "0", "--soak-s", "60")
    assert (told["counter"], told["version"], told["state"], told["stages"]) == (1, "2.0", "canary", 2)
    history = open_history(f"sqlite:///{folder / 'h.db'}")
    record = history.releases.current("plant")
    assert record is not None
    assert record.progress.policy == Policy(canaries=("d1", "d2"), canary_share=0.0, soak_s=60.0)
    word = Rollout(release=record.encoded, signature=record.signature)
    assert is_signed(word, read_signer(folder / "keys" / "release.pub", "signer"))
    assert history.releases.wheel(record.release) == small("2.0")
    history.close()


def test_going_back_is_a_newer_release_of_an_older_version_for_everyone_at_once(folder: Path) -> None:
    published(folder, "2.0")
    published(folder, "2.1")
    told = json.loads(call("rollback", "2.0", "--key", str(folder / "keys" / "release.key"), "--json"))
    assert (told["counter"], told["version"], told["state"], told["stages"]) == (3, "2.0", "wider", 1)
    with pytest.raises(RunFailed, match=r"1\.9 was never published; published were: 2\.0, 2\.1"):
        call("rollback", "1.9", "--key", str(folder / "keys" / "release.key"))


def test_the_status_is_readable_and_pausing_waits_for_the_coordinator(folder: Path) -> None:
    open_history(f"sqlite:///{folder / 'h.db'}").close()
    assert call("status") == "no release yet\n"
    published(folder, "2.0")
    published(folder, "2.1")
    assert call("status").splitlines() == [
        "release 2, version 2.1: canary, stage 1 of 2",
        "release 1, version 2.0: replaced",
    ]
    assert call("pause") == "release 2: to be paused\n"
    history = open_history(f"sqlite:///{folder / 'h.db'}")
    record = history.releases.current("plant")
    assert record is not None
    assert record.wish == "pause"
    history.close()
    assert call("resume") == "release 2: to go on\n"


def test_what_a_device_says_of_its_failure_orders_the_readers_terminal_nothing(folder: Path) -> None:
    published(folder, "2.0")
    history = open_history(f"sqlite:///{folder / 'h.db'}")
    record = history.releases.current("plant")
    assert record is not None
    failed = FailedUpdate(node="d1", detail="\x1b[2Jall is well\nrelease 1, version 2.0: done")
    report = RolloutStatus(counter=1, stage=0, failed=1, failures=(failed,))
    progress = replace(record.progress, state="paused", detail=f"d1: {failed.detail}", report=report)
    history.releases.keep("plant", progress, None, datetime.now(UTC))
    history.close()
    told = call("status")
    assert "\x1b" not in told
    assert "  d1: \\x1b[2Jall is well\\nrelease 1, version 2.0: done" in told.splitlines()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"no zip", "is no wheel"),
        (small(name="footwater"), "is a wheel of footwater"),
        (bytes(16 * 2**20 + 1), "at most 16777216 go over the tree"),
    ],
)
def test_what_is_no_wheel_of_headwater_is_not_signed(folder: Path, content: bytes, says: str) -> None:
    (folder / "headwater-2.0-py3-none-any.whl").write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        published(folder, "2.0")


def test_a_version_stands_for_one_wheel(folder: Path) -> None:
    published(folder, "2.0")
    (folder / "headwater-2.0-py3-none-any.whl").write_bytes(small("2.0", files={"headwater/more.py": b""}))
    with pytest.raises(RunFailed, match="published with another wheel"):
        published(folder, "2.0")


def test_without_the_key_there_is_nothing_to_sign_with(folder: Path) -> None:
    wheel = folder / "headwater-2.0-py3-none-any.whl"
    with pytest.raises(ConfigError, match="--key"):
        call("publish", str(wheel), "--key", str(folder / "none"))
