"""Law: a fleet that has only seen the usual is asked for the unusual; no label is ever trained on.

Statlog (Shuttle) as ODDS casts it: 49,097 readings of 9 sensors, 7 % of them anomalies. The rows are in no order. The
first attribute is a time: it is no feature, and by it the usual rows are cut into eight stretches, one a device, so
that no two see the same conditions. Of a stretch three fifths are the training part and a fifth is the test part; the
last fifth is judged with an eighth of the anomalies.

Readings are scaled by fixed ranges, as a sensor's data sheet gives them, and what lies far outside counts by its
logarithm: one wild reading would otherwise drown all others.
"""

import csv
import gzip
import io
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater.testbed.data.parts import Members, Part

MEMBER: Final = "river/datasets/shuttle.csv.gz"
MAX_TABLE_SIZE_BYTES: Final = 16 * 1024 * 1024
STRETCHES: Final = tuple(f"S{number}" for number in range(1, 9))
CENTRES: Final = np.array([0, 85, 0, 39, 0, 41, 45, 5], dtype=np.float64)
RANGES: Final = np.array([10, 9, 10, 14, 20, 10, 15, 10], dtype=np.float64)
FEATURES: Final = len(CENTRES)


def parts(members: Members) -> dict[str, Part]:
    """A part for each stretch: 8 features a reading, no target."""
    table = _table(members[MEMBER])
    time, x, anomaly = table[:, 0], scaled(table[:, 1:-1]), table[:, -1] > 0
    usual = np.flatnonzero(~anomaly)
    stretches = np.array_split(usual[np.argsort(time[usual], kind="stable")], len(STRETCHES))
    unusual = np.flatnonzero(anomaly)
    return {
        name: _part(x[np.sort(rows)], x[unusual[number :: len(STRETCHES)]])
        for number, (name, rows) in enumerate(zip(STRETCHES, stretches, strict=True))
    }


def scaled(readings: NDArray[np.float64]) -> NDArray[np.float32]:
    """`[n, 8]`: inverse hyperbolic sines of readings in ranges from their centres."""
    return np.arcsinh((readings - CENTRES) / RANGES).astype(np.float32)


def _part(usual: NDArray[np.float32], unusual: NDArray[np.float32]) -> Part:
    """The rows of the table are in no order, so that the first are a fair draw."""
    train, test, judged = np.split(usual, [len(usual) * 3 // 5, len(usual) * 4 // 5])
    both = np.concatenate([judged, unusual])
    return Part(
        train,
        _nothing(train),
        test,
        _nothing(test),
        both,
        _nothing(both),
        np.arange(len(both)) >= len(judged),
    )


def _nothing(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.zeros((len(x), 0), dtype=np.float32)


def _table(packed: bytes) -> NDArray[np.float64]:
    """`[n, 10]`. Raises ValueError where the table is larger than it should be."""
    with gzip.open(io.BytesIO(packed)) as file:
        text = file.read(MAX_TABLE_SIZE_BYTES + 1)
    if len(text) > MAX_TABLE_SIZE_BYTES:
        raise ValueError(f"{MEMBER}: more than {MAX_TABLE_SIZE_BYTES} bytes unpacked")
    rows = csv.reader(io.StringIO(text.decode()))
    next(rows)
    return np.array([[float(cell) for cell in row] for row in rows])
