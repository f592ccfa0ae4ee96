"""Law: what a live example looks like is said by its source's description alone, so a store knows its own."""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headwater.device.sources.dataset import Labels
from headwater.device.sources.live.windowing import Example, Window
from headwater.schemas.sources import Layout, SensorSource


@dataclass(frozen=True, slots=True)
class Form:
    """The tensors of an example. A source without a target has y float32 `[0]`, which fits no model that wants one.

    `meaning` is a hash of all that gives the numbers their meaning: examples of another one are another data set.
    """

    layout: Layout
    x_shape: tuple[int, ...]
    y_shape: tuple[int, ...]
    y_dtype: str
    meaning: str

    @property
    def size_bytes(self) -> int:
        return 4 * math.prod(self.x_shape) + np.dtype(self.y_dtype).itemsize * math.prod(self.y_shape)

    def __str__(self) -> str:
        return f"x float32 {list(self.x_shape)} and y {self.y_dtype} {list(self.y_shape)}"


def form_of(spec: SensorSource) -> Form:
    channels, window = len(spec.channels), spec.window
    shapes: dict[Layout, tuple[int, ...]] = {
        "channels_first": (channels, window),
        "time_first": (window, channels),
        "flat": (channels * window,),
    }
    # Topics may be renamed and windows overlap otherwise without a change of what the numbers are.
    meant = spec.model_dump_json(
        include={
            "channels": {"__all__": {"name", "values", "path"}},
            "label": {"labels", "classes", "path"},
            "forecast": True,
            "window": True,
            "period_s": True,
            "layout": True,
        }
    )
    return Form(spec.layout, shapes[spec.layout], *_target_form(spec), hashlib.sha256(meant.encode()).hexdigest())


def _target_form(spec: SensorSource) -> tuple[tuple[int, ...], str]:
    if spec.forecast:
        return (len(spec.forecast_channels) * spec.forecast.steps,), "float32"
    if spec.label is None:
        return (0,), "float32"
    return ((), "int64") if spec.label.is_class else ((1,), "float32")


def features(window: Window, form: Form) -> NDArray[np.float32]:
    """x of one example; flat is all of the first channel's values, then the second's."""
    rows = np.array(window.rows, dtype=np.float32)
    return rows if form.layout == "time_first" else np.ascontiguousarray(rows.T).reshape(form.x_shape)


def target(example: Example, form: Form) -> Labels:
    return np.array(example.target, dtype=form.y_dtype).reshape(form.y_shape)
