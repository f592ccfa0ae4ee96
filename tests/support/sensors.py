"""A simulated machine: two vibration channels in one JSON topic, and its state in another."""

import asyncio
import contextlib
import json
import math
import random
import threading
from collections.abc import Iterator

import aiomqtt

STATES = ("ok", "worn")


async def sense(
    port: int, prefix: str, *, period_s: float = 0.02, state_every_s: float = 1.0, noise: float = 0.2
) -> None:
    """Publish until cancelled, and come back when the broker does. A worn machine shakes around 1, a sound one around -1."""
    rng, began = random.Random(prefix), asyncio.get_running_loop().time()
    while True:
        with contextlib.suppress(aiomqtt.MqttError):
            async with aiomqtt.Client("127.0.0.1", port, identifier=f"sensor-{prefix}") as client:
                told = None
                while True:
                    now_s = asyncio.get_running_loop().time() - began
                    state = STATES[math.floor(now_s / state_every_s) % 2]
                    if state != told:
                        told = state
                        await client.publish(f"{prefix}/state", json.dumps({"state": state}), qos=1, retain=True)
                    level = 1.0 if state == "worn" else -1.0
                    reading = {"x": rng.gauss(level, noise), "v": [rng.gauss(-level, noise)]}
                    await client.publish(f"{prefix}/vibration", json.dumps(reading))
                    await asyncio.sleep(period_s)
        await asyncio.sleep(0.1)


@contextlib.contextmanager
def sensing(
    port: int, *prefixes: str, period_s: float = 0.02, state_every_s: float = 1.0, noise: float = 0.2
) -> Iterator[None]:
    """Machines beside the test, in a thread of their own."""
    loop = asyncio.new_event_loop()

    async def run() -> None:
        await asyncio.gather(
            *(sense(port, prefix, period_s=period_s, state_every_s=state_every_s, noise=noise) for prefix in prefixes)
        )

    task = loop.create_task(run())

    def work() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(10)


def pump(prefix: str, **changes: object) -> dict[str, object]:
    """The device's source for such a machine, as its owner would write it."""
    return {
        "kind": "mqtt",
        "period_s": 0.04,
        "max_gap_s": 0.5,
        "channels": [
            {"topic": f"{prefix}/vibration", "path": "$.x", "name": "x"},
            {"topic": f"{prefix}/vibration", "path": "$.v[0]", "name": "v"},
        ],
        "label": {"topic": f"{prefix}/state", "path": "$.state", "labels": list(STATES)},
    } | changes
