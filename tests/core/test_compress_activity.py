"""Dense updates: many lanes code what one would, and rows and columns say how large their numbers are."""

import contextlib
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.core.compress import ACTIVE, DENSE, activity, decode, encode, lanes, layouts
from headwater.core.compress.layouts import Numbers
from headwater.core.compress.positions import Turn
from headwater.core.compress.values import LEVELS
from headwater.schemas.learning import Compression
from headwater.schemas.tensors import Spec, TensorError

TURN = Turn(seed=1, number=3)
SPECS: tuple[Spec, ...] = (("w", (60, 40), "float32"), ("b", (40,), "float32"), ("k", (3, 2, 2), "float32"))


def matrix_of(activity_of_rows: np.ndarray, activity_of_columns: np.ndarray, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((len(activity_of_rows), len(activity_of_columns)))
    return np.asarray(noise * np.outer(activity_of_rows, activity_of_columns), dtype=np.float32)


def update() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    w = matrix_of(np.exp(rng.standard_normal(60)), np.where(rng.random(40) < 0.3, 0.0, 1.0))
    return [w, *(rng.standard_normal(shape).astype(np.float32) for _, shape, _ in SPECS[1:])]


# ── lanes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def tables_of(*shares: list[float]) -> np.ndarray:
    """Frequencies in proportion to these, each at least 1."""
    spare = lanes.TOTAL - len(shares[0])
    tables = np.array([[1 + int(spare * share / sum(of_one)) for share in of_one] for of_one in shares])
    tables[:, 0] += lanes.TOTAL - tables.sum(axis=1)
    return tables


TABLES = tables_of([1, 1, 1], [1000, 1, 0], [0, 0, 1])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=80))
def test_symbols_come_back_whatever_table_each_has(drawn: list[tuple[int, int]]) -> None:
    symbols, which = (np.array([pair[i] for pair in drawn], dtype=np.int64) for i in (0, 1))
    written = lanes.write(symbols, which, TABLES)
    np.testing.assert_array_equal(lanes.read(written, which, TABLES), symbols)


def test_lanes_are_told_in_the_same_bytes_everywhere() -> None:
    """Frozen: a byte that changes is a machine that decodes others' wrongly."""
    symbols, which = np.arange(20) % 3, np.arange(20) % 2
    assert lanes.write(symbols, which, TABLES).hex() == FROZEN_LANES


FROZEN_LANES = (
    "51550900faffc107acaa07002304e20357550300ffff010054550200fdffe003acaa03004300010057550300ffff010054550200fdffe003acaa03"
    "0043000100000000000000"
)


def test_symbols_cost_their_entropy_and_a_lane_three_bytes() -> None:
    rng, count = np.random.default_rng(0), 50_000
    shares = np.array([0.9, 0.08, 0.02])
    symbols, which = rng.choice(3, count, p=shares), np.zeros(count, dtype=np.int64)
    written = lanes.write(symbols, which, tables_of(list(shares)))
    entropy_bytes = -(np.bincount(symbols) * np.log2(np.bincount(symbols) / count)).sum() / 8
    assert lanes.lanes_of(count) == 66
    assert len(written) < 1.002 * entropy_bytes + 3.1 * 66


def test_no_lane_is_longer_than_its_bound() -> None:
    for count in (0, 1, 15, 16, 1000, 100_000, 10_000_000):
        assert lanes.lanes_of(count) * lanes.MAX_STEPS >= count
        assert lanes.lanes_of(count) <= count


@pytest.mark.parametrize("damage", [lambda b: b[:-2], lambda b: b + b"\0\0", lambda b: b[:-1], lambda b: b[:10]])
def test_lanes_that_do_not_end_where_they_began_are_refused(damage: object) -> None:
    symbols, which = np.arange(200) % 3, np.zeros(200, dtype=np.int64)
    assert callable(damage)
    with pytest.raises(TensorError, match="lanes"):
        lanes.read(damage(lanes.write(symbols, which, TABLES)), which, TABLES)


# ── activity ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_table_worked_by_hand() -> None:
    """Half are not 0, and twos are half as frequent as ones: 2 : 1 on each side."""
    assert activity._table(1 << 15, 128, 2).tolist() == [5461, 10_922, 32_770, 10_922, 5461]
    assert (activity._SHARES[15], activity._SHARES[31], max(activity._SHARES)) == (1 << 16, 1 << 15, 1 << 16)
    assert min(activity._SHARES) >= 1


def test_classes_worked_by_hand() -> None:
    """Rows of 0, of ones, and of fours among zeros: log2 of the mean is nothing, 0 and 0; of all it is −0.6."""
    sizes = np.zeros((3, 16), dtype=np.int64)
    sizes[1], sizes[2, :4] = 1, 4
    whole, rows, columns = activity._classes(sizes.ravel(), (3, 16))
    assert (whole.tolist(), rows.tolist(), columns.tolist()) == ([8], [0, 9, 9], [])
    assert activity._tables_of((whole, rows, columns), (3, 16)).tolist() == [0] * 16 + [14] * 32


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([1, 7, 127]), st.lists(st.lists(st.integers(0, 20), max_size=3).map(tuple), max_size=4), st.data()
)
def test_whole_numbers_come_back(levels: int, shapes: list[tuple[int, ...]], data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    likely = data.draw(st.sampled_from([0.0, 0.02, 1.0]))
    tensors = [rng.integers(-levels, levels + 1, prod(shape)) * (rng.random(prod(shape)) < likely) for shape in shapes]
    read = activity.read(*activity.write(tensors, shapes, levels), shapes, levels)
    for one, other in zip(tensors, read, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("codec", ["int8", "int4", "ternary"])
def test_it_is_what_makes_a_layer_cheap_that_does_not_learn_evenly(codec: str) -> None:
    """Units of unequal activity: at least a tenth less than all in one frame."""
    rng = np.random.default_rng(0)
    uneven = matrix_of(np.exp(rng.standard_normal(128)), np.exp(rng.standard_normal(128)))
    specs = (("w", (128, 128), "float32"),)
    payload = encode([uneven], specs, Compression.model_validate({"codec": codec}), rng, TURN)
    framed = _framed(uneven, codec)
    assert payload[0] & 7 == ACTIVE
    assert len(payload) < 0.9 * len(framed)


def _framed(matrix: np.ndarray, form: object) -> bytes:
    from headwater.schemas.packing import pack

    return pack(layouts.write_dense([matrix], Numbers(form, 4096), np.random.default_rng(0)))  # type: ignore[arg-type]


def test_few_values_and_those_that_are_not_rounded_stay_as_they_are() -> None:
    for codec, shape in (("int4", (20, 20)), ("fp16", (60, 60)), ("sign", (60, 60))):
        compression = Compression.model_validate({"codec": codec})
        payload = encode(
            [np.ones(shape, np.float32)], (("w", shape, "float32"),), compression, np.random.default_rng(0), TURN
        )
        assert payload[0] & 7 == DENSE


# ── any bytes ───────────────────────────────────────────────────────────────────────────────────────────────────────

PAYLOADS = [
    encode(update(), SPECS, Compression.model_validate({"codec": codec}), np.random.default_rng(0), TURN)
    for codec in LEVELS
]


def test_what_a_row_and_a_column_of_zeros_holds_is_zero() -> None:
    silent = update()[0] == 0
    for payload in PAYLOADS:
        assert payload[0] & 7 == ACTIVE
        decoded = decode(payload, SPECS)
        assert [value.shape for value in decoded] == [shape for _, shape, _ in SPECS]
        assert not decoded[0][silent].any()


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(PAYLOADS), st.data())
def test_any_bytes_are_an_update_or_refused(payload: bytes, data: st.DataObject) -> None:
    damaged = bytearray(payload)
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(1, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)) | st.just(len(damaged)))
    with contextlib.suppress(TensorError):
        decoded = decode(bytes(damaged[:cut]), SPECS)
        assert all(np.isfinite(value).all() for value in decoded)


@pytest.mark.parametrize("other", [SPECS[:1], (*SPECS, ("more", (40, 40), "float32")), ()])
def test_an_update_of_another_model_is_refused(other: tuple[Spec, ...]) -> None:
    for payload in PAYLOADS:
        with pytest.raises(TensorError, match=r"lanes|tables|ends after"):
            decode(payload, other)


def test_more_lines_than_are_read_are_neither_written_nor_read() -> None:
    shape = (activity.MAX_LINES, activity.LEAST)
    assert not activity.fits([shape])
    with pytest.raises(TensorError, match="rows and columns"):
        activity.read(b"", b"", [shape], 7)
