"""Where a layer's outputs lie in its weight, on models of the zoo."""

import pytest

from headwater.core.graph.forward import read_forward
from headwater.core.graph.outputs import output_axes
from headwater.core.models import build
from headwater.schemas.run import Cnn2dModel, GruModel, MlpModel


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        # [in, out] of a MatMul; the last layer's outputs are the model's.
        (MlpModel(kind="mlp", features=4, classes=3, hidden=(5, 6)), [1, 1, None]),
        # [out, in, height, width] of a Conv, then the dense layers.
        (Cnn2dModel(kind="cnn2d", height=8, width=8, classes=3, filters=(4, 5)), [0, 0, 1, None]),
        (GruModel(kind="gru", features=3, time=4, classes=2), [None, None, None, None]),
    ],
)
def test_the_axis_of_the_outputs(description: MlpModel | Cnn2dModel | GruModel, expected: list[int | None]) -> None:
    forward = build(description, 0)
    weights = [parameter.name for parameter in read_forward(forward).parameters if len(parameter.shape) > 1]
    assert list(output_axes(forward, weights)) == expected
