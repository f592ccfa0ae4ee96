"""Law: what leaves in eight bits is shown beside what it came from: size, and with data accuracy and latency."""

import time
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final, Literal

from headwater.schemas.config import load
from headwater.schemas.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from headwater.schemas.manifest import Objective

Basis = Literal["examples", "normaliser", "weights only"]

CALIBRATION_EXAMPLES: Final = 512
LATENCY_RUNS: Final = 200


@dataclass(frozen=True, slots=True)
class Examples:
    """Inputs, and targets where there are any."""

    x: "NDArray[np.float32]"
    y: "NDArray[Any] | None"


@dataclass(frozen=True, slots=True)
class Measured:
    """`accuracy` is of classifiers, `error` (mean absolute) of the others. Latency is the median of single examples."""

    size_bytes: int
    accuracy: float | None = None
    error: float | None = None
    latency_ms: float | None = None

    def told(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}

    def line(self) -> str:
        figures = [f"{self.size_bytes} bytes"]
        if self.accuracy is not None:
            figures.append(f"accuracy {self.accuracy:.4f}")
        if self.error is not None:
            figures.append(f"mean error {self.error:.4g}")
        if self.latency_ms is not None:
            figures.append(f"{self.latency_ms:.3f} ms")
        return ", ".join(figures)


def examples_of(option: str, file: Path, key: str, part: Literal["train", "test"]) -> Examples:
    """Examples from an NPZ file with x (and y), or from the data under `key` of a device's TOML file.

    Raises:
        ConfigError: the file cannot be read, or is neither.
        DataError: what it holds is at fault.
    """
    if file.suffix == ".toml":
        return _of_device(option, file, key, part)
    import numpy as np

    try:
        with np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in ("x", "y") if name in arrays.files}
    except OSError as error:
        why = error.strerror or error
        raise ConfigError(f"{option}: {file}: {why}; give an .npz file or a device's .toml") from None
    except (ValueError, EOFError, AttributeError):
        raise DataError(f"{option}: {file}: no NPZ file; write one with numpy.savez(file, x=…, y=…)") from None
    if "x" not in found or not len(found["x"]):
        raise DataError(f"{option}: {file}: no examples under x; write them with numpy.savez(file, x=…, y=…)")
    return Examples(np.asarray(found["x"], np.float32), found.get("y"))


def _of_device(option: str, file: Path, key: str, part: Literal["train", "test"]) -> Examples:
    from headwater.device.sources import load as load_data
    from headwater.schemas.settings import DeviceSettings
    from headwater.schemas.sources import SensorSource

    try:
        keys = tomllib.loads(file.read_text(encoding="utf-8")).get("data", {})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        keys = {key: None}  # `load` says what is wrong with it, and where.
    if key not in keys:
        known = ", ".join(keys) or "none"
        raise ConfigError(f"{option}: {file}: no data.{key}, which the run is about; it has {known}")
    spec = load(DeviceSettings, file).value.data[key]
    if isinstance(spec, SensorSource):
        raise ConfigError(f"{option}: {file}: data.{key} is live, its examples are on its device; give an .npz file")
    dataset = load_data(key, spec)
    if part == "train":
        return Examples(dataset.train_x, dataset.train_y)
    if not len(dataset.test_x):
        raise DataError(f"{option}: {file}: data.{key} has no test part; set its test_fraction above 0")
    return Examples(dataset.test_x, dataset.test_y)


def eight_bits(model: bytes, calibration: Examples | None, seed: int = 0) -> tuple[bytes, Basis]:
    """The model in eight bits, and what its ranges come from: the examples, else its normaliser, else nothing."""
    import numpy as np

    from headwater.core.quantise import imagined_examples, observed_ranges, quantise

    rng = np.random.default_rng(seed)
    if calibration is not None:
        rows = rng.permutation(len(calibration.x))[:CALIBRATION_EXAMPLES]
        return quantise(model, observed_ranges(model, calibration.x[rows])), "examples"
    imagined = imagined_examples(model, CALIBRATION_EXAMPLES, rng)
    if imagined is not None:
        return quantise(model, observed_ranges(model, imagined)), "normaliser"
    return quantise(model), "weights only"


def measured(model: bytes, objective: "Objective", examples: Examples | None) -> Measured:
    """A model on examples, on one thread as a device runs it. Without examples only its size."""
    if examples is None:
        return Measured(len(model))
    import numpy as np

    from headwater.core.graph.execution import Runnable

    runnable = Runnable(model)
    (name,) = runnable.inputs
    prediction = runnable.run({name: examples.x})[runnable.outputs[0]]
    latency_ms = _latency_ms(lambda: runnable.run({name: examples.x[:1]}))
    target = examples.x if objective == "reconstruction" else examples.y
    if target is None:
        return Measured(len(model), latency_ms=latency_ms)
    if objective == "cross_entropy":
        accuracy = float(np.mean(prediction.argmax(axis=-1) == target))
        return Measured(len(model), accuracy=accuracy, latency_ms=latency_ms)
    error = float(np.mean(np.abs(prediction.reshape(len(target), -1) - np.reshape(target, (len(target), -1)))))
    return Measured(len(model), error=error, latency_ms=latency_ms)


def _latency_ms(run: Any) -> float:
    run()
    taken = []
    for _ in range(LATENCY_RUNS):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return 1000 * median(taken)
