"""Feedback: nothing that an update leaves out is lost, whether or not the update is taken."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.core.compress import decode
from headwater.core.compress.feedback import Memory, code
from headwater.core.compress.positions import Turn
from headwater.schemas.learning import Compression
from headwater.schemas.tensors import Spec

THREE: tuple[Spec, ...] = (("w", (3,), "float32"),)
SPECS: tuple[Spec, ...] = (("w", (20, 15), "float32"), ("b", (15,), "float32"))
TOPK = Compression(codec="topk", fraction=0.3, values="fp32")
RNG = np.random.default_rng(0)

BIASED = [
    Compression(codec="sign"),
    Compression(codec="topk", fraction=0.05),
    Compression(codec="topk", fraction=0.05, values="int4", per_layer=True),
    Compression(codec="stc", fraction=0.05),
    Compression(codec="randk", fraction=0.2),
    Compression(codec="lowrank", rank=1),
    Compression(layers=0.5),
    Compression(codec="int4", layers=0.5),
]


def update_of(seed: int, scale: float = 1.0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [(scale * rng.standard_normal(shape)).astype(np.float32) for _, shape, _ in SPECS]


def one(values: list[float]) -> list[np.ndarray]:
    return [np.array(values, np.float32)]


def test_two_rounds_worked_by_hand() -> None:
    """Largest of (4, 3, 1) is sent; (0, 3, 1) stays, and with (0, 1, 2) makes (0, 4, 3), of which 4 is sent."""
    first = code(Memory(), one([4, 3, 1]), THREE, TOPK, RNG, Turn(0, 1))
    assert decode(first.payload, THREE)[0].tolist() == [4, 0, 0]
    second = code(first.if_taken, one([0, 1, 2]), THREE, TOPK, RNG, Turn(0, 2))
    assert decode(second.payload, THREE)[0].tolist() == [0, 4, 0]
    assert second.if_taken.residual[0].tolist() == [0, 0, 3]


def test_what_is_not_taken_is_sent_again() -> None:
    first = code(Memory(), one([4, 3, 1]), THREE, TOPK, RNG, Turn(0, 1))
    second = code(first.if_not, one([0, 0.5, 2]), THREE, TOPK, RNG, Turn(0, 2))
    assert decode(second.payload, THREE)[0].tolist() == [4, 0, 0]
    assert second.if_taken.residual[0].tolist() == [0, 3.5, 3]


def test_momentum_correction_worked_by_hand() -> None:
    """m = 1/2. u = (4, 2, 0), 4 is sent: u = (0, 2, 0), e = (0, 2, 0). Then u = (0, 1, 1), c = (0, 3, 1)."""
    compression = TOPK.model_copy(update={"momentum": 0.5})
    first = code(Memory(), one([4, 2, 0]), THREE, compression, RNG, Turn(0, 1))
    assert first.if_taken.velocity[0].tolist() == [0, 2, 0]
    assert first.if_not.velocity[0].tolist() == [4, 2, 0]
    second = code(first.if_taken, one([0, 0, 1]), THREE, compression, RNG, Turn(0, 2))
    assert decode(second.payload, THREE)[0].tolist() == [0, 3, 0]
    assert second.if_taken.velocity[0].tolist() == [0, 0, 1]
    assert second.if_taken.residual[0].tolist() == [0, 0, 1]


@pytest.mark.parametrize("compression", BIASED, ids=lambda c: f"{c.codec} {c.values} {c.layers}")
@settings(max_examples=10)
@given(st.lists(st.tuples(st.booleans(), st.floats(1e-3, 1e3)), min_size=1, max_size=6))
def test_what_was_sent_and_what_is_left_are_what_there_was(
    compression: Compression, rounds: list[tuple[bool, float]]
) -> None:
    memory, given_, sent = Memory(), [0.0, 0.0], [0.0, 0.0]
    for number, (is_taken, scale) in enumerate(rounds):
        update = update_of(number, scale)
        coded = code(memory, update, SPECS, compression, np.random.default_rng(number), Turn(1, number))
        given_ = [total + value.astype(np.float64) for total, value in zip(given_, update, strict=True)]
        if is_taken:
            sent = [total + value for total, value in zip(sent, decode(coded.payload, SPECS), strict=True)]
        memory = coded.if_taken if is_taken else coded.if_not
    for total, gone, left in zip(given_, sent, memory.residual, strict=True):
        np.testing.assert_allclose(gone + left, total, rtol=1e-5, atol=1e-5 * max(scale for _, scale in rounds) * 10)


def test_one_update_and_its_rest_are_exact_in_float32() -> None:
    update = update_of(1)
    for compression in BIASED:
        coded = code(Memory(), update, SPECS, compression, np.random.default_rng(0), Turn(1, 1))
        for value, sent, left in zip(update, decode(coded.payload, SPECS), coded.if_taken.residual, strict=True):
            largest = np.maximum(np.abs(value), np.maximum(np.abs(sent), np.abs(left)))
            assert (np.abs((sent.astype(np.float64) + left) - value) <= np.spacing(largest)).all()


@pytest.mark.parametrize("compression", [Compression(codec="int8"), Compression(codec="topk", feedback=False)])
def test_without_feedback_nothing_is_kept(compression: Compression) -> None:
    coded = code(Memory(), update_of(0), SPECS, compression, RNG, Turn(0, 1))
    assert coded.if_taken == coded.if_not == Memory()


def test_a_memory_of_another_model_is_forgotten() -> None:
    other = code(Memory(), one([4, 3, 1]), THREE, TOPK, RNG, Turn(0, 1)).if_taken
    fresh, stale = (
        code(memory, update_of(0), SPECS, TOPK, np.random.default_rng(0), Turn(0, 2)) for memory in (Memory(), other)
    )
    assert fresh.payload == stale.payload


def descended(compression: Compression, rounds: int = 250) -> float:
    """How far from the minimum of Σ a_i·(x_i − 1)² an update of one in 20 values comes; 0 at the start is 1."""
    specs: tuple[Spec, ...] = (("x", (40,), "float32"),)
    steep = np.linspace(0.2, 1.0, 40)
    x, memory = np.zeros(40), Memory()
    for number in range(rounds):
        step = (0.1 * steep * (1 - x)).astype(np.float32)
        coded = code(memory, [step], specs, compression, np.random.default_rng(number), Turn(1, number))
        x, memory = x + decode(coded.payload, specs)[0], coded.if_taken
    return float(np.square(1 - x).mean())


@pytest.mark.parametrize("codec", ["sign", "topk", "stc", "randk"])
def test_with_feedback_descent_arrives(codec: str) -> None:
    assert descended(Compression(codec=codec, fraction=0.1)) < 0.01


def test_planted_bug_a_residual_that_is_dropped_is_seen() -> None:
    """Had `code` forgotten its residual, the law of the rounds above would not hold."""
    first = code(Memory(), one([4, 3, 1]), THREE, TOPK, RNG, Turn(0, 1))
    forgotten = code(Memory(), one([0, 1, 2]), THREE, TOPK, RNG, Turn(0, 2))
    sent = decode(first.payload, THREE)[0] + decode(forgotten.payload, THREE)[0]
    assert (sent + forgotten.if_taken.residual[0]).tolist() != [4, 4, 3]
