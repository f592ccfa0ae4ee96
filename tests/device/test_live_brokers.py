"""Live data on real brokers: windows are built, survive a restart, and go on when the broker was away."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Literal

import aiomqtt
import numpy as np
import pytest

from headwater.device.sources.live.listening import services
from headwater.device.sources.live.sensors import LiveSource
from headwater.schemas.acl import fleet_acl
from headwater.schemas.errors import AccessRefused
from headwater.schemas.settings import BrokerSettings
from headwater.schemas.sources import SensorSource
from headwater.testbed.machine import free_port
from headwater.transport.listener import Listener
from support.brokers import broker, certificates, mosquitto
from support.sensors import pump, sensing

KINDS = pytest.mark.parametrize("kind", [pytest.param("mosquitto", marks=pytest.mark.live), "embedded"])


def live(path: Path, **changes: Any) -> LiveSource:
    spec = pump("plant/pump", window=8, stride=4, test_fraction=0.5, **changes)
    return LiveSource("pump", SensorSource.model_validate(spec, strict=False), path)


@contextlib.asynccontextmanager
async def running(source: LiveSource, port: int) -> AsyncIterator[None]:
    """The source as the device's service runs it, stopped at the end."""
    tasks = [asyncio.ensure_future(s) for s in services("d1", BrokerSettings(port=port), [source])]
    try:
        yield
        for task in tasks:
            assert not task.done(), task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def eventually(what: Callable[[], Any], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "waited too long"
        await asyncio.sleep(0.05)


def total(source: LiveSource) -> int:
    source.flush()
    return source.counts.train + source.counts.test


@KINDS
async def test_sensors_become_windows_and_survive_a_restart(kind: str, tmp_path: Path) -> None:
    with broker(kind) as port, sensing(port, "plant/pump"):
        source = live(tmp_path / "s.db")
        async with running(source, port):
            await eventually(lambda: total(source) >= 12)
        before = total(source)
        source.close()
        source = live(tmp_path / "s.db")
        assert total(source) == before
        async with running(source, port):
            await eventually(lambda: total(source) >= before + 12 and source.counts.train and source.counts.test)
        data = source.snapshot()
        assert data is not None
        x, y = np.concatenate([data.train_x, data.test_x]), np.concatenate([data.train_y, data.test_y])
        assert x.shape[1:] == (2, 8)
        assert set(y.tolist()) == {0, 1}
        # Labels come before the readings that they are about, so nearly all windows are on the label's side.
        right = (x[:, 0].mean(1) > 0) == (y == 1)
        assert right.mean() > 0.8
        source.close()


@KINDS
async def test_a_broker_that_goes_away_breaks_a_window_and_nothing_else(kind: str, tmp_path: Path) -> None:
    port = free_port()
    source = live(tmp_path / "s.db")
    feed = source.feed(bound=1000)
    settings = source.spec.model_copy(update={"broker": BrokerSettings(port=port, max_retry_wait_s=0.5)})
    source.spec = settings
    with sensing(port, "plant/pump"):
        # It is not even there when the device starts.
        async with running(source, port):
            await asyncio.sleep(0.5)
            with broker(kind, port=port):
                await eventually(lambda: total(source) >= 6)
            before, gone_at_s = total(source), time.time()
            await asyncio.sleep(1.5)
            back_at_s = time.time()
            with broker(kind, port=port):
                await eventually(lambda: total(source) >= before + 6)
    feed.close()
    ends = [window.at_s async for window in feed]
    # A window takes 0.28 s; one that had begun before the silence or within it does not exist.
    assert not [at_s for at_s in ends if gone_at_s + 0.6 < at_s < back_at_s + 0.2]
    assert [at_s for at_s in ends if at_s < gone_at_s + 0.6]
    assert [at_s for at_s in ends if at_s > back_at_s]
    source.close()


@KINDS
async def test_malformed_payloads_are_passed_over(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "headwater")
    with broker(kind) as port, sensing(port, "plant/pump"):
        source = live(tmp_path / "s.db")
        async with running(source, port), aiomqtt.Client("127.0.0.1", port) as client:
            await eventually(lambda: total(source) >= 1)
            for number in range(200):
                payload = [b"", b"{", b"\xff\xfe", b'{"x": NaN, "v": [1]}', b'{"x": 1e99}', b"[" * 9999, b"0" * 200_000]
                await client.publish("plant/pump/vibration", payload[number % len(payload)])
            before = total(source)
            await eventually(lambda: total(source) >= before + 3)
        assert source.notes.counts["malformed"] > 50
        assert len([r for r in caplog.records if "malformed" in r.message]) <= 2
        source.close()


async def run_listener(settings: BrokerSettings, topic: str, timeout_s: float = 8.0) -> list[tuple[str, bytes, bool]]:
    """What a listener hears until the first message."""
    heard: list[tuple[str, bytes, bool]] = []
    listener = Listener(settings, client="l", topics=(topic,), on_message=lambda *message: heard.append(message))
    task = asyncio.ensure_future(listener.run())
    try:
        await asyncio.wait(
            (task, asyncio.ensure_future(eventually(lambda: heard, timeout_s))), return_when="FIRST_COMPLETED"
        )
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return heard


@pytest.mark.live
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_a_listener_knows_passwords_and_tls(tmp_path: Path, protocol: str) -> None:
    tls = certificates(tmp_path)
    with mosquitto(passwords={"home": "s3cret", "d1": "pw"}, tls=tls) as port:
        own = {"ca": tls.ca, "certificate": tls.client_certificate, "key": tls.client_key}
        link = {"host": "localhost", "port": port, "user": "d1", "password": "pw", "tls": own, "protocol": protocol}
        settings = BrokerSettings.model_validate(link, strict=False)
        context = aiomqtt.TLSParameters(str(tls.ca), str(tls.client_certificate), str(tls.client_key))
        async with aiomqtt.Client("localhost", port, username="home", password="s3cret", tls_params=context) as client:
            await client.publish("home/t", "21", retain=True)
        assert await run_listener(settings, "home/t") == [("home/t", b"21", True)]
        wrong = settings.model_copy(update={"password": None, "user": "nobody"})
        with pytest.raises(AccessRefused, match="refused user 'nobody'"):
            await run_listener(wrong, "home/t")


@pytest.mark.parametrize(
    ("kind", "protocol"),
    [
        pytest.param("mosquitto", "5", marks=pytest.mark.live),
        pytest.param("mosquitto", "3.1.1", marks=pytest.mark.live),
        ("embedded", "auto"),
    ],
)
async def test_a_listener_writes_nothing(kind: str, protocol: Literal["auto", "5", "3.1.1"]) -> None:
    with broker(kind) as port:
        seen: list[str] = []
        async with aiomqtt.Client("127.0.0.1", port, identifier="watcher") as watcher:
            await watcher.subscribe("#")
            await watcher.publish("home/t", "21", retain=True)
            settings = BrokerSettings(port=port, protocol=protocol)
            assert await run_listener(settings, "home/t")
            await watcher.publish("end", "")
            async for message in watcher.messages:
                if str(message.topic) == "end":
                    break
                seen.append(str(message.topic))
        assert seen == ["home/t"]


async def test_a_topic_that_the_rules_forbid_is_named() -> None:
    acl = fleet_acl("plant", parents=("gw1",))
    with broker("embedded", acl=acl, passwords={"d1": "pw"}) as port:
        settings = BrokerSettings.model_validate({"port": port, "user": "d1", "password": "pw"})
        with pytest.raises(AccessRefused, match="user 'd1' may not read home/t; let the broker's rules allow it"):
            await run_listener(settings, "home/t")
