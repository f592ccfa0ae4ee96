"""Law: a testbed's broker may be killed and started again, on its port and with what it kept; none stays behind."""

import os
import signal
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from headwater.testbed.machine import program, wait_for_port
from headwater.transport.broker import BrokerConfig, BrokerProcess, spawn

_STOP_TIMEOUT_S: Final = 10.0


class Broker(ABC):
    """A broker on `port`; as a context manager it runs inside and is gone behind."""

    port: int

    @property
    @abstractmethod
    def pid(self) -> int | None:
        """The process's number, None while it does not run."""

    @abstractmethod
    def start(self) -> None:
        """Start it and wait until it accepts connections. Raises TimeoutError or BrokerStartError."""

    @abstractmethod
    def kill(self) -> None:
        """SIGKILL: nobody is told goodbye."""

    @abstractmethod
    def stop(self) -> None: ...

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Embedded(Broker):
    """The embedded broker."""

    def __init__(self, config: BrokerConfig) -> None:
        self.port = config.port
        self._config = config
        self._process: BrokerProcess | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.is_running else None

    def start(self) -> None:
        self._process = spawn(self._config)
        self.port = self._process.port

    def kill(self) -> None:
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
        self.stop()

    def stop(self) -> None:
        if self._process:
            self._process.stop()


class Mosquitto(Broker):
    """A Mosquitto of a configuration.

    Args:
        folder: takes the configuration and the log.
        port: what the configuration listens on.
        config: as of `transport.mosquitto.config_file`.

    Raises:
        ToolMissing: there is no Mosquitto on this machine.
    """

    def __init__(self, folder: Path, port: int, config: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = port
        self._log = folder / "mosquitto.log"
        self._command = [program("mosquitto", "mosquitto"), "-c", str(folder / "mosquitto.conf")]
        self._process: subprocess.Popen[bytes] | None = None
        # Started by root, Mosquitto steps down to its own user, who could not read its files.
        (folder / "mosquitto.conf").write_text(config + ("user root\n" if os.geteuid() == 0 else ""), encoding="utf-8")

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        wait_for_port(self.port)

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
