"""Law: a fleet that lost its broker is whole again within the longest wait; two of one name are told, and do not fight."""

import asyncio
import logging
import os
import signal
from pathlib import Path

import pytest

from headwater.schemas.settings import BrokerSettings
from headwater.testbed.brokers import Broker, Embedded
from headwater.testbed.crowd import gathered
from headwater.testbed.faults.proxy import Proxy
from headwater.testbed.machine import free_port
from headwater.transport.broker import BrokerConfig
from headwater.transport.listener import Listener
from headwater.transport.mosquitto import Door, config_file
from headwater.transport.session import LinkDown
from support.brokers import started
from support.waiting import eventually

CLIENTS = 200
MAX_RETRY_WAIT_S = 4.0
SETTLE_S = 15.0


def broker(kind: str, folder: Path) -> Broker:
    port = free_port()
    if kind == "mosquitto":
        return started(folder, port, config_file(Door(port=port)))
    return Embedded(BrokerConfig(port=port))


@pytest.mark.live
@pytest.mark.parametrize("kind", ["mosquitto", "embedded"])
async def test_all_come_back_to_a_killed_broker_and_none_gives_up(kind: str, tmp_path: Path) -> None:
    with broker(kind, tmp_path) as restarted:
        settings = BrokerSettings(port=restarted.port, max_retry_wait_s=MAX_RETRY_WAIT_S)
        async with gathered(settings, "storm", CLIENTS) as crowd:
            assert (await crowd.settled(CLIENTS, SETTLE_S)).connected == CLIENTS
            restarted.kill()
            assert (await crowd.settled(0, SETTLE_S)).connected == 0
            await asyncio.sleep(1.5)
            await asyncio.to_thread(restarted.start)
            back = await crowd.settled(CLIENTS, MAX_RETRY_WAIT_S + SETTLE_S)
            assert (back.connected, back.gave_up) == (CLIENTS, 0)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    ours = [record for record in caplog.records if record.name == "headwater.transport"]
    return [record.getMessage() for record in ours if record.levelno == logging.ERROR]


@pytest.mark.live
async def test_two_nodes_of_one_name_are_told_and_back_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Debian's Mosquitto hangs up on the first of two without a word."""
    caplog.set_level(logging.INFO, "headwater.transport")
    with broker("mosquitto", tmp_path) as shared:
        settings = BrokerSettings(port=shared.port, max_retry_wait_s=1.5)
        async with gathered(settings, "plant", 1) as first, gathered(settings, "plant", 1) as second:
            await asyncio.to_thread(eventually, lambda: errors(caplog))
            assert (first.gave_up, second.gave_up) == (0, 0)
    assert errors(caplog)[0] == (
        f"broker 127.0.0.1:{shared.port} ends each connection soon; "
        "if two nodes run under the name d0, give each its own; waiting longer"
    )
    # Three of the one that was told, about as many of the other, and what came before the test looked.
    assert len([record for record in caplog.records if "connected to" in record.getMessage()]) <= 16


async def test_a_broker_that_says_so_is_believed_at_once(caplog: pytest.LogCaptureFixture) -> None:
    connections = 0

    async def take_over(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """MQTT 5 by hand: CONNACK, SUBACK, and DISCONNECT with reason 142."""
        nonlocal connections
        connections += 1
        for answer in (b"\x20\x03\x00\x00\x00", b"\x90\x04\x00\x01\x00\x01"):
            await reader.read(1024)
            writer.write(answer)
        writer.write(b"\xe0\x01\x8e")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(take_over, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = BrokerSettings(port=port, protocol="5", max_retry_wait_s=600.0)
    listener = Listener(settings, client="d0", topics=("t",), on_message=lambda topic, payload, retained: None)
    running = asyncio.create_task(listener.run())
    async with server:
        await asyncio.to_thread(eventually, lambda: errors(caplog))
        await asyncio.sleep(0.5)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert errors(caplog) == [
        f"broker 127.0.0.1:{port} ended this connection for another client named 'd0'; "
        "if two nodes run under the name d0, give each its own; waiting longer"
    ]
    # Half a second of a wait of up to ten minutes: once in 1,200 times there are two.
    assert connections <= 2


@pytest.mark.live
async def test_a_publish_on_its_way_ends_with_the_connection_not_with_its_own_time_limit(tmp_path: Path) -> None:
    with broker("mosquitto", tmp_path) as frozen:
        async with gathered(BrokerSettings(port=frozen.port), "plant", 1) as crowd:
            await crowd.settled(1, SETTLE_S)
            assert frozen.pid is not None
            os.kill(frozen.pid, signal.SIGSTOP)
            publishing = asyncio.create_task(crowd.sessions[0].publish("hw/1/plant/node/d0/status", b"{}"))
            await asyncio.sleep(0.3)
            assert not publishing.done()
            frozen.kill()
            with pytest.raises(LinkDown, match="the connection went"):
                await asyncio.wait_for(publishing, 3.0)


@pytest.mark.live
async def test_a_wire_that_hangs_up_is_not_taken_for_a_broker_without_mqtt_5(tmp_path: Path) -> None:
    with broker("mosquitto", tmp_path) as behind:
        async with Proxy(behind.port) as proxy:
            proxy.cut()
            async with gathered(BrokerSettings(port=proxy.port), "plant", 1) as crowd:
                assert (await crowd.settled(1, 0.5)).connected == 0
                proxy.heal()
                assert (await crowd.settled(1, SETTLE_S)).connected == 1
    assert "as d0 (p5," in (tmp_path / "mosquitto.log").read_text()
