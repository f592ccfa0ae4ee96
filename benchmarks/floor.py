"""Law: the floor is what MQTT and numpy cost without Headwater: the same bytes, the same training, nothing else.

python benchmarks/floor.py PORT INDEX DEVICES SEED      one device process, until it is told to stop
"""

import pickle
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import paho.mqtt.client as mqtt
from plain_fedavg import Weights, epoch

from headwater.core.batches import minibatches
from headwater.device.sources import load
from headwater.schemas.sources import DigitsSource

BATCH_SIZE: Final = 16
LEARNING_RATE: Final = 0.1
START_TIMEOUT_S: Final = 60.0
ROUND_TIMEOUT_S: Final = 60.0


class Server:
    """Sends the model, waits for everyone, averages; a thread of paho's own does the reading."""

    def __init__(self, port: int, devices: int) -> None:
        self._devices = devices
        self._arrived: list[bytes] = []
        self._ready: set[str] = set()
        self._changed = threading.Condition()
        self._client = connected(port, "floor-server", self._on_message, ["floor/up/+", "floor/ready/+"])

    def wait_ready(self) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._ready) == self._devices, START_TIMEOUT_S):
                raise TimeoutError(f"floor: {len(self._ready)} of {self._devices} devices came")

    def round(self, model: Weights) -> Weights:
        self._arrived = []
        self._client.publish("floor/model", packed(model), 1)
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._arrived) == self._devices, ROUND_TIMEOUT_S):
                raise TimeoutError(f"floor: {len(self._arrived)} of {self._devices} answered")
        answers = [pickle.loads(payload) for payload in self._arrived]
        total = sum(weight for weight, _ in answers)
        return [sum(weight * w[i] for weight, w in answers) / np.float32(total) for i in range(len(model))]

    def stop(self) -> None:
        self._client.publish("floor/model", b"", 1).wait_for_publish(5)
        self._client.disconnect()
        self._client.loop_stop()

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        with self._changed:
            if message.topic.startswith("floor/ready/"):
                self._ready.add(message.topic)
            else:
                self._arrived.append(message.payload)
            self._changed.notify_all()


def measure(port: int, devices: int, seed: int, rounds: int, initial: Weights) -> list[float]:
    """Seconds of each round, with device processes of their own."""
    command = [sys.executable, str(Path(__file__)), str(port)]
    server = Server(port, devices)
    processes = [subprocess.Popen([*command, str(index), str(devices), str(seed)]) for index in range(devices)]
    try:
        server.wait_ready()
        model, times = initial, []
        for _ in range(rounds):
            before = time.perf_counter()
            model = server.round(model)
            times.append(time.perf_counter() - before)
        return times
    finally:
        server.stop()
        for process in processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


def device(port: int, index: int, devices: int, seed: int) -> None:
    data = load("floor", DigitsSource(kind="digits", devices=devices, index=index, seed=seed))
    rng = np.random.default_rng([seed, index])
    stopped = threading.Event()

    def on_message(client: Any, userdata: Any, message: Any) -> None:
        if not message.payload:
            stopped.set()
            return
        model = pickle.loads(message.payload)
        order, mask = minibatches(len(data.train_x), BATCH_SIZE, 1, rng)
        new = epoch(model, data.train_x, data.train_y, order, mask, LEARNING_RATE)
        client.publish(f"floor/up/{index}", packed((len(data.train_x), new)), 1)

    client = connected(port, f"floor-{index}", on_message, ["floor/model"])
    client.publish(f"floor/ready/{index}", b"1", 1)
    stopped.wait()
    client.disconnect()


def connected(port: int, name: str, on_message: Any, topics: list[str]) -> mqtt.Client:
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, name)
    subscribed = threading.Event()
    client.on_message = on_message
    client.on_subscribe = lambda *_: subscribed.set()
    client.connect("127.0.0.1", port)
    client.socket().setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.loop_start()
    client.subscribe([(topic, 1) for topic in topics])
    subscribed.wait(10)
    return client


def packed(value: Any) -> bytes:
    return pickle.dumps(value, protocol=5)


if __name__ == "__main__":
    device(*(int(argument) for argument in sys.argv[1:5]))
