"""Codecs: what comes back is what the papers say, in the shapes that were asked for, and any bytes at all are safe."""

import contextlib
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.core.compress import (
    ACTIVE,
    DENSE,
    DRAWN,
    ENTRIES,
    FACTORS,
    GAPS,
    Header,
    _payload,
    bases,
    decode,
    encode,
    layouts,
    lowrank,
    sparse,
    values,
)
from headwater.core.compress.coder import Decoder, Encoder, Number, Tree
from headwater.core.compress.positions import Turn, drawn, in_turn, largest
from headwater.schemas.learning import CODECS, Compression
from headwater.schemas.tensors import Spec, TensorError

TURN = Turn(seed=1, number=3)
LARGEST = float(np.finfo(np.float32).max)


def specs_of(*shapes: tuple[int, ...]) -> tuple[Spec, ...]:
    return tuple((f"t{place}", shape, "float32") for place, shape in enumerate(shapes))


SPECS = specs_of((40, 30), (30,), (30, 3, 3), (), (0, 4))


def normal(specs: tuple[Spec, ...] = SPECS, seed: int = 0, scale: float = 1.0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [(scale * rng.standard_normal(shape)).astype(np.float32) for _, shape, _ in specs]


def there_and_back(
    update: list[np.ndarray], compression: Compression, specs: tuple[Spec, ...] = SPECS, seed: int = 0
) -> tuple[np.ndarray, ...]:
    return decode(encode(update, specs, compression, np.random.default_rng(seed), TURN), specs)


def flat(update: object) -> np.ndarray:
    return np.concatenate([np.ravel(value) for value in update])


# ── known answers ───────────────────────────────────────────────────────────────────────────────────────────────────

THREE = specs_of((3,))


@pytest.mark.parametrize(
    ("compression", "first", "second"),
    [
        pytest.param(Compression(layers=0.5), [4.0, -1.0, 0.5], [0.0, 3.0, -2.0], id="fp32"),
        pytest.param(Compression(codec="fp16"), [4.0, -1.0, 0.5], [0.0, 3.0, -2.0], id="fp16"),
        pytest.param(Compression(codec="sign"), [1.8359375, -1.8359375, 1.8359375], [1.671875, 1.671875, -1.671875], id="sign"),
        pytest.param(Compression(codec="topk", fraction=0.3, values="fp32"), [4.0, 0, 0], [0, 3.0, 0], id="topk"),
        pytest.param(Compression(codec="stc", fraction=0.6), [2.5, -2.5, 0], [0, 2.5, -2.5], id="stc"),
        pytest.param(Compression(codec="randk", fraction=1.0, values="fp32"), [4.0, -1.0, 0.5], [0.0, 3.0, -2.0], id="randk"),
    ],
)  # fmt: skip
def test_two_devices_three_parameters(compression: Compression, first: list[float], second: list[float]) -> None:
    """Signs: the means of |v| are 11/6 and 5/3, rounded up to the 8 bits of a scale: 235/128 and 107/64.
    STC: the mean of the two largest, (4 + 1)/2 and (3 + 2)/2."""
    for update, expected in (([4.0, -1.0, 0.5], first), ([0.0, 3.0, -2.0], second)):
        (decoded,) = there_and_back([np.array(update, np.float32)], compression, THREE)
        assert decoded.tolist() == expected


def test_ternary_is_one_of_two_neighbours_and_right_on_average() -> None:
    """s = max |v| = 4: 1 is 4 with probability 1/4, else 0; −2 is −4 in half of the draws."""
    update = [np.array([4.0, 1.0, -2.0], np.float32)]
    drawn_values = np.array(
        [there_and_back(update, Compression(codec="ternary"), THREE, seed)[0] for seed in range(500)]
    )
    assert set(drawn_values[:, 1]) == {0.0, 4.0}
    assert set(drawn_values[:, 2]) == {0.0, -4.0}
    np.testing.assert_allclose(drawn_values.mean(axis=0), [4.0, 1.0, -2.0], atol=0.35)


def test_rank_one_is_exact_where_the_matrix_is() -> None:
    left, right = np.array([1.0, 2.0, 2.0]), np.array([3.0, 0.0, 4.0, 1.0])
    (decoded,) = there_and_back(
        [np.multiply.outer(left, right).astype(np.float32)],
        Compression(codec="lowrank", rank=1, values="fp32"),
        specs_of((3, 4)),
    )
    np.testing.assert_allclose(decoded, np.multiply.outer(left, right), rtol=1e-6)


def test_low_rank_goes_on_from_the_last_round() -> None:
    """With one matrix again and again the subspace converges to the best one (Eckart & Young 1936)."""
    (matrix,) = normal(specs_of((40, 30)), 3)
    best = np.linalg.svd(matrix)[1]
    specs, compression, start = specs_of((40, 30)), Compression(codec="lowrank", rank=2, values="fp32"), ()
    errors = []
    for _ in range(20):
        payload = encode([matrix], specs, compression, np.random.default_rng(0), TURN, start)
        start = bases(payload, specs)
        errors.append(float(np.square(matrix - decode(payload, specs)[0]).sum()))
    assert errors[-1] == pytest.approx(np.square(best[2:]).sum(), rel=1e-3)
    assert errors[-1] < errors[0]


# ── the laws of values ──────────────────────────────────────────────────────────────────────────────────────────────

UNBIASED = [
    Compression(codec="int8"),
    Compression(codec="int4", block=64),
    Compression(codec="ternary", block=256),
    Compression(codec="randk", fraction=0.3, values="fp32", feedback=False),
    Compression(codec="randk", fraction=0.3, values="int4", feedback=False),
]


@pytest.mark.parametrize("compression", UNBIASED, ids=lambda c: f"{c.codec} {c.values}")
def test_what_rounds_by_chance_is_right_on_average(compression: Compression) -> None:
    update, trials = normal(), 300
    rng, total, squares = np.random.default_rng(0), 0.0, 0.0
    for trial in range(trials):
        one = flat(decode(encode(update, SPECS, compression, rng, Turn(1, trial)), SPECS)).astype(np.float64)
        total, squares = total + one, squares + one**2
    error = np.sqrt(np.maximum(squares / trials - (total / trials) ** 2, 1e-12) / trials)
    # What seldom rounds the other way is skewed over so few trials: no error is taken to be that small.
    off = (total / trials - flat(update)) / np.maximum(error, 0.6 * error.max())
    # Of 1,500 normal deviates one is past 5 in a thousand times, and their mean is near 0.
    assert np.abs(off).max() < 5.5
    assert abs(off.mean()) < 0.15


@pytest.mark.parametrize("form", ["int8", "int4", "ternary"])
def test_an_error_is_less_than_a_step(form: values.Form) -> None:
    (update,) = normal(specs_of((1000,)), 2)
    coded = values.quantised(update, form, 128, np.random.default_rng(0))
    steps = np.repeat(coded.scales, 128)[:1000]
    assert (np.abs(values.restored(coded, 128) - update) <= steps * 1.0001).all()


def test_fp16_holds_what_half_precision_does_not() -> None:
    update = [np.array([1e30, -3e29, 1e26], np.float32)]
    (decoded,) = there_and_back(update, Compression(codec="fp16"), THREE)
    np.testing.assert_allclose(decoded, update[0], rtol=1e-3)


# ── positions ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_largest_of_all_or_of_each() -> None:
    update = [np.array([5.0, -4.0, 0.1, 0.0]), np.array([0.3, 0.2, 0.0, 0.0])]
    assert [p.tolist() for p in largest(update, 0.25, per_layer=False)] == [[0, 1], []]
    assert [p.tolist() for p in largest(update, 0.25, per_layer=True)] == [[0], [0]]


def test_all_under_a_plan_draw_the_same_and_the_next_round_draws_others() -> None:
    assert drawn(TURN.draw, 1000, 10).tolist() == drawn(Turn(1, 3).draw, 1000, 10).tolist()
    assert drawn(TURN.draw, 1000, 10).tolist() != drawn(Turn(1, 4).draw, 1000, 10).tolist()
    assert drawn(TURN.draw, 50, 50).tolist() == list(range(50))


@pytest.mark.parametrize(("tensors", "fraction"), [(6, 0.5), (5, 0.4), (4, 1.0), (3, 0.1), (7, 0.9)])
def test_tensors_take_turns(tensors: int, fraction: float) -> None:
    """After as many rounds as there are tensors each has travelled alike often, and no round has more than its share."""
    turns = [in_turn(Turn(5, number), tensors, fraction) for number in range(tensors)]
    assert len({sum(turn) for turn in turns}) == 1
    assert len(set(np.sum(turns, axis=0))) == 1


def test_who_waits_for_its_turn_is_nothing() -> None:
    decoded = there_and_back(normal(), Compression(layers=0.4))
    there = in_turn(TURN, len(SPECS), 0.4)
    assert sum(there) == 2
    for value, update, is_there in zip(decoded, normal(), there, strict=True):
        np.testing.assert_array_equal(value, update if is_there else np.zeros_like(update))


# ── the arithmetic coder and the layout of few entries ──────────────────────────────────────────────────────────────


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 2**23), st.integers(1, 50), st.integers(0, 2**23)), max_size=60))
def test_symbols_come_back(symbols: list[tuple[int, int, int]]) -> None:
    encoder = Encoder()
    for start, size, rest in symbols:
        encoder.put(start, size, start + size + rest)
    decoder = Decoder(encoder.finish())
    for start, size, rest in symbols:
        assert start <= decoder.peek(start + size + rest) < start + size
        decoder.take(start, size)


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**32 - 2), max_size=30), st.lists(st.integers(0, 127), max_size=30))
def test_numbers_come_back(numbers: list[int], small: list[int]) -> None:
    encoder, number, tree = Encoder(), Number(), Tree(7)
    for value in numbers:
        number.put(encoder, value)
    for value in small:
        tree.put(encoder, value)
    decoder, number, tree = Decoder(encoder.finish()), Number(), Tree(7)
    assert [number.get(decoder) for _ in numbers] == numbers
    assert [tree.get(decoder) for _ in small] == small


def test_entries_are_told_in_the_same_bytes_everywhere() -> None:
    """Frozen: the arithmetic is exactly rounded, so a byte that changes is a machine that decodes others' wrongly."""
    shapes = [(6, 5), (7,)]
    entries = [
        sparse.Entries(np.array([2, 7, 8, 17, 22, 27]), np.array([1, -1, 3, 2, -4, 1])),
        sparse.Entries(np.array([0, 6]), np.array([5, -7])),
    ]
    assert sparse.write(entries, shapes, 3).hex() == FROZEN_ENTRIES


FROZEN_ENTRIES = "dd696b23117d9de186ea"


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_entries_come_back(data: st.DataObject) -> None:
    shapes = data.draw(st.lists(st.lists(st.integers(0, 9), max_size=3).map(tuple), max_size=4))
    entries = []
    for shape in shapes:
        places = data.draw(st.sets(st.integers(0, prod(shape) - 1)) if prod(shape) else st.just(set()))
        codes = [data.draw(st.integers(-127, 127)) for _ in places]
        entries.append(sparse.Entries(np.array(sorted(places), dtype=np.int64), np.array(codes, dtype=np.int64)))
    read = sparse.read(sparse.write(entries, shapes, 7), shapes, 7, coded=True)
    for one, other in zip(entries, read, strict=True):
        assert one.positions.tolist() == other.positions.tolist()
        assert one.codes.tolist() == other.codes.tolist()


def test_long_rows_are_told_in_pieces() -> None:
    """Wider than any piece, dense to the last column, beside a row without anything."""
    shape = (3, 1000)
    places = np.concatenate([np.arange(1000), 2000 + np.arange(0, 1000, 37)])
    entries = [sparse.Entries(places, np.where(places % 3, 1, -1))]
    (read,) = sparse.read(sparse.write(entries, [shape], 0), [shape], 0, coded=True)
    assert read.positions.tolist() == places.tolist()
    assert (read.codes == entries[0].codes).all()


def test_structure_is_what_makes_positions_cheap() -> None:
    """Entries in few rows cost less than uniform ones, and uniform ones hardly more than their entropy."""
    rng, shape = np.random.default_rng(0), (200, 200)
    uniform = np.sort(rng.choice(40_000, 400, replace=False))
    rows = rng.choice(12, 400) * 16 * 200 + rng.choice(200, 400)
    told = [len(sparse.write([sparse.Entries(np.unique(places))], [shape], 0)) for places in (uniform, rows)]
    entropy_bytes = 400 * np.log2(40_000 * np.e / 400) / 8
    assert told[0] < 1.07 * entropy_bytes
    assert told[1] < 0.75 * told[0]


# ── all codecs, any update, any bytes ───────────────────────────────────────────────────────────────────────────────

ALL = [
    *(Compression(codec=codec) for codec in CODECS),
    *(Compression(codec="topk", fraction=fraction, values=kept) for fraction in (0.05, 1.0) for kept in ("fp32", "fp16", "int8", "int4")),
    Compression(codec="stc", fraction=0.3, per_layer=True),
    Compression(codec="topk", fraction=0.3, per_layer=True, layers=0.5),
    Compression(codec="lowrank", rank=1, values="fp16"),
    Compression(codec="int4", block=8, zstd=False),
    Compression(codec="ternary", layers=0.4),
]  # fmt: skip

shapes = st.lists(st.lists(st.integers(0, 6), max_size=3).map(tuple), min_size=1, max_size=4)
kinds = st.sampled_from(["normal", "zero", "huge", "denormal", "one", "mixed"])


def update_of(shape: tuple[int, ...], kind: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    drawn_values = rng.standard_normal(shape)
    match kind:
        case "zero":
            return np.zeros(shape, np.float32)
        case "huge":
            return np.asarray(np.sign(drawn_values) * LARGEST, dtype=np.float32)
        case "denormal":
            return np.asarray(drawn_values * 1e-44, dtype=np.float32)
        case "one":
            return np.asarray(
                rng.permuted(np.arange(max(1, prod(shape))) == 0)[: prod(shape)].reshape(shape), np.float32
            )
        case "mixed":
            return np.asarray(drawn_values * 10.0 ** rng.integers(-40, 30, shape), dtype=np.float32)
    return np.asarray(drawn_values, dtype=np.float32)


@settings(max_examples=150)
@given(st.sampled_from(ALL), shapes, kinds, st.integers(0, 1000))
def test_every_codec_gives_finite_arrays_of_the_shapes(
    compression: Compression, some: list[tuple[int, ...]], kind: str, seed: int
) -> None:
    specs = specs_of(*some)
    update = [update_of(shape, kind, seed) for shape in some]
    decoded = there_and_back(update, compression, specs, seed)
    assert [value.shape for value in decoded] == some
    assert all(value.dtype == np.float32 and np.isfinite(value).all() for value in decoded)
    if kind == "zero":
        assert not flat(decoded).any()


PAYLOADS = [encode(normal(), SPECS, compression, np.random.default_rng(0), TURN) for compression in ALL]


def test_payloads_are_of_every_layout() -> None:
    many = specs_of((200, 100))
    of_many = [
        encode(normal(many), many, compression, np.random.default_rng(0), TURN)
        for compression in (Compression(codec="topk", fraction=0.5), Compression(codec="int4"))
    ]
    assert {payload[0] & 7 for payload in [*PAYLOADS, *of_many]} == {DENSE, ENTRIES, GAPS, DRAWN, FACTORS, ACTIVE}


@settings(max_examples=300)
@given(st.one_of(st.binary(max_size=60), st.sampled_from(PAYLOADS)), st.data())
def test_any_bytes_are_an_update_or_refused(payload: bytes, data: st.DataObject) -> None:
    damaged = bytearray(payload)
    for _ in range(data.draw(st.integers(0, 3))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)) | st.just(len(damaged)))
    with contextlib.suppress(TensorError):
        decoded = decode(bytes(damaged[:cut]), SPECS)
        assert [value.shape for value in decoded] == [shape for _, shape, _ in SPECS]
        assert all(np.isfinite(value).all() for value in decoded)


@pytest.mark.parametrize("other", [specs_of((40, 30)), specs_of((30, 40), (30,), (30, 3, 3), (), (1, 4)), ()])
def test_an_update_of_another_model_is_refused(other: tuple[Spec, ...]) -> None:
    payload = encode(normal(), SPECS, Compression(codec="int8"), np.random.default_rng(0), TURN)
    with pytest.raises(TensorError, match=r"bytes of values|at most 64"):
        decode(payload, other)


def test_a_frame_is_not_opened_before_its_size_is_known_to_belong() -> None:
    huge = specs_of((4_000_000,))
    bomb = encode([np.zeros(4_000_000, np.float32)], huge, Compression(layers=0.5), np.random.default_rng(0), TURN)
    assert len(bomb) < 3000
    with pytest.raises(TensorError, match="16000000 bytes; at most") as refused:
        decode(bomb, SPECS)
    assert refused.value.reason == "oversized"


def test_many_entries_take_the_vectorised_layout() -> None:
    specs = specs_of((300, 300), (300,))
    update = normal(specs)
    payload = encode(
        update, specs, Compression(codec="topk", fraction=0.4, values="fp32"), np.random.default_rng(0), TURN
    )
    kept = flat(decode(payload, specs))
    assert payload[0] & 7 == GAPS
    assert np.count_nonzero(kept) == 36_120
    assert (kept[kept != 0] == flat(update)[kept != 0]).all()


def test_thin_matrices_are_only_where_they_are_shorter() -> None:
    assert lowrank.factor_lengths([(40, 30), (2, 3), (7,), ()], 2) == [80, 60, 6, 7, 1]


def test_no_few_bytes_ask_for_minutes_of_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """60 bytes in a frame may stand for two matrices of rank 1499, whose product takes minutes."""
    shape, numbers = (3000, 3000), layouts.Numbers("sign", 1)
    body = layouts.write_number(1499) + bytes(values.size_bytes(lowrank.factor_lengths([shape], 1499), "sign", 1))
    payload = _payload(Header(FACTORS, numbers, (True,)), body, True)
    assert len(payload) < 100
    with pytest.raises(TensorError, match="matrices of rank 1499; 1 to 119 here"):
        decode(payload, specs_of(shape))
    # Whoever writes stays within what is read.
    monkeypatch.setattr(lowrank, "MAX_PRODUCTS", 2 * 40 * 30)
    update = [np.random.default_rng(0).standard_normal((40, 30)).astype(np.float32)]
    high = Compression(codec="lowrank", rank=9, values="fp32")
    coded = encode(update, specs_of((40, 30)), high, np.random.default_rng(0), Turn(0, 0))
    assert np.linalg.matrix_rank(decode(coded, specs_of((40, 30)))[0]) == 2
