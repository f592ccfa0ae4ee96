"""What a parent takes into its sum: tallies are held against the manifest, each fault with its reason."""

import numpy as np
import pytest

from headwater.node.hosting import check_tallies
from headwater.schemas.limits import MAX_TALLIED
from headwater.schemas.manifest import Example, Manifest, Parameter, Tally
from headwater.schemas.messages import Counts, Delta, RoundKey
from headwater.schemas.tensors import TensorError, encode_tensor
from headwater.schemas.wire import WireError

MANIFEST = Manifest(
    model="m",
    objective="cross_entropy",
    parameters=(Parameter(name="w", shape=(1,)),),
    x=Example(shape=(1,), dtype="float32"),
    y=Example(shape=(), dtype="int64", classes=2),
    metrics=("loss",),
    tallies=(Tally(name="class_examples", length=2), Tally(name="error_sketch", length=3)),
)


def counts(*values: float, name: str = "class_examples", dtype: type = np.float64) -> Counts:
    return Counts(split="test", name=name, values=encode_tensor(np.array(values, dtype)))


def delta(*tallies: Counts, devices: int = 1) -> Delta:
    key = RoundKey(run="r", round=1)
    return Delta(key=key, sender="d1", task="evaluate", weight=2.0, examples=2, devices=devices, tallies=tallies)


def test_what_the_manifest_names_is_taken() -> None:
    check_tallies(delta(counts(1, 1), counts(0, 0, 2, name="error_sketch")), MANIFEST)
    check_tallies(delta(), MANIFEST)
    check_tallies(delta(counts(2.0 * MAX_TALLIED, 0), devices=2), MANIFEST)


@pytest.mark.parametrize(
    ("tallies", "reason", "says"),
    [
        pytest.param(
            [counts(1, 1, name="secrets")], "malformed", "secrets is not in the manifest", id="a strange name"
        ),
        pytest.param([counts(1, 1), counts(1, 1)], "malformed", "one stands twice", id="twice"),
        pytest.param([counts(1, 1, 1)], "wrong_shape", r"float64 \[3\] where float64 \[2\]", id="another length"),
        pytest.param([counts(1, 1, dtype=np.float32)], "wrong_shape", "float32", id="another dtype"),
        pytest.param([counts(1, np.nan)], "not_finite", "class_examples: holds NaN", id="no number"),
        pytest.param([counts(1, -1)], "malformed", "holds -1.0; a count is at least 0", id="less than nothing"),
        pytest.param([counts(1, 1e300)], "malformed", "a device", id="more than anyone has"),
    ],
)
def test_tallies_that_do_not_fit_are_refused(tallies: list[Counts], reason: str, says: str) -> None:
    with pytest.raises((WireError, TensorError), match=says) as caught:
        check_tallies(delta(*tallies), MANIFEST)
    assert caught.value.reason == reason
