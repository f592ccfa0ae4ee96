"""Signs of life on a real broker: their pace, what they say, and that a child which stops giving them is missed."""

import asyncio
import time
from collections.abc import Callable

import aiomqtt
import pytest

from headwater.node.heartbeat import beat_down, beat_up
from headwater.node.identity import Identity
from headwater.schemas.messages import Alive
from headwater.schemas.topics import Topics
from headwater.schemas.wire import decode, encode
from headwater.transport.objects import ObjectStore
from headwater.transport.session import Caller, LinkDown, Session
from support.fleets import OFTEN_S, Fleet, hosted, plan, present

EVERY_S = 0.2


async def nothing() -> None: ...


async def node(fleet: Fleet, adjust: Callable[[Session], None] = lambda session: None) -> Identity:
    """A node that is connected and does nothing but give signs of life, to its parent and to its children."""
    identity = Identity(fleet.name, "n", "gateway", "above")
    session = fleet.connect(Caller(fleet.name, "n", "n", (), lambda *_: None, nothing))
    adjust(session)
    beats = (beat_up(session, identity, EVERY_S), beat_down(session, identity, EVERY_S))
    fleet.tasks["n"] = [asyncio.ensure_future(service) for service in (session.run(), *beats)]
    await session.wait_connected()
    return identity


async def heard(port: int, topic: str, count: int) -> tuple[list[aiomqtt.Message], float]:
    """So many messages, and how long they took to come."""
    async with aiomqtt.Client("127.0.0.1", port) as client, asyncio.timeout(10):
        await client.subscribe(topic, qos=1)
        begun_at = time.monotonic()
        messages = client.messages
        return [await anext(messages) for _ in range(count)], time.monotonic() - begun_at


@pytest.mark.parametrize("way", ["up", "down"])
async def test_signs_of_life_come_at_their_pace_and_are_not_kept(fleet: Fleet, port: int, way: str) -> None:
    identity = await node(fleet)
    topics = Topics(fleet.name)
    topic = topics.up("n", "above", "alive") if way == "up" else topics.down("n", "alive")
    messages, took_s = await heard(port, topic, 5)
    assert 0.7 < took_s < 2.5
    assert {(message.qos, message.retain) for message in messages} == {(0, False)}
    said = Alive(sender="n", boot=identity.boot, every_s=EVERY_S)
    assert {decode(bytes(message.payload), Alive) for message in messages} == {said}


async def test_those_that_are_lost_with_the_link_are_not_made_up_for(fleet: Fleet, port: int) -> None:
    attempts: list[float] = []

    def cut(session: Session) -> None:
        publish = session.publish

        async def lost_at_first(topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
            attempts.append(time.monotonic())
            if len(attempts) <= 6:
                raise LinkDown("cut")
            await publish(topic, payload, qos=qos, retain=retain)

        session.publish = lost_at_first  # type: ignore[method-assign]

    begun_at = time.monotonic()
    await node(fleet, cut)
    await heard(port, Topics(fleet.name).down("n", "alive"), 2)
    # Two ways, three attempts in vain each, at the same pace as others.
    assert attempts[6] - begun_at > 3 * EVERY_S * 0.9


async def test_a_child_that_stops_giving_signs_of_life_is_not_waited_for(fleet: Fleet, port: int) -> None:
    """Its will never comes, so nothing but the parent's own clock can tell."""
    objects = ObjectStore(10**7)
    parent = fleet.parent("gw", objects=objects, heartbeat_s=OFTEN_S)
    identity = Identity(fleet.name, "d9", "device", "gw")
    birth = identity.status("online", fleet.data)
    fleet.device("d0", "gw")
    async with aiomqtt.Client("127.0.0.1", port) as client:
        await client.publish(birth.topic, birth.payload, 1, retain=True)
        await present(parent, "d0", "d9")
        alive = Alive(sender="d9", boot=identity.boot, every_s=OFTEN_S)
        await client.publish(Topics(fleet.name).up("d9", "gw", "alive"), encode(alive))
    begun_at = time.monotonic()
    result = await hosted(parent, plan(1, objects, quorum=0.5, deadline_s=20.0))
    assert time.monotonic() - begun_at < 5.0
    assert {given.node for given in result.contributions} == {"d0"}
    assert parent.members["d9"].state == "offline"
