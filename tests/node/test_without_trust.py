"""A node without trust settings: nothing of cryptography is loaded, and what is missing is named where it is wanted."""

import subprocess
import sys
from pathlib import Path

import pytest

from headwater.node import envelope
from headwater.node.envelope import trust_of
from headwater.schemas.errors import ConfigError
from headwater.schemas.settings import TrustSettings

SETTINGS = TrustSettings(ca=Path("ca.pem"), certificate=Path("d1.pem"), key=Path("d1.key"))


@pytest.mark.parametrize("tier", ["device", "gateway", "cloud"])
def test_a_node_without_trust_settings_loads_no_cryptography(tier: str) -> None:
    code = (
        f"import sys, headwater.{tier}.service\n"
        "from headwater.node.envelope import trust_of\n"
        "assert trust_of(None, 'plant', 'd1') is None\n"
        "loaded = [name for name in sys.modules if name.split('.')[0] in ('cryptography', 'OpenSSL')]\n"
        "assert not loaded, loaded\n"
        "assert 'headwater.node.trusting' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


def test_without_the_library_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envelope, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'headwater\[trust\]'"):
        trust_of(SETTINGS, "plant", "d1")


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"trust\.key: d1\.key cannot be read"):
        trust_of(SETTINGS, "plant", "d1")
