"""The learning rate's way through a run, worked by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.cloud.plans import plan
from headwater.core.schedule import Schedule, learning_rate
from headwater.schemas.messages import ObjectRef
from headwater.schemas.run import RunDescription


@pytest.mark.parametrize(
    ("schedule", "warmup_rounds", "rates"),
    [
        ("constant", 0, [1, 1, 1, 1]),
        ("constant", 3, [0.25, 0.5, 0.75, 1]),
        ("constant", 9, [0.1, 0.2, 0.3, 0.4]),
        ("linear", 0, [1, 0.75, 0.5, 0.25]),
        ("linear", 2, [1 / 3, 2 / 3, 1, 0.5]),
        ("cosine", 0, [1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]),
        ("cosine", 2, [1 / 3, 2 / 3, 1, 0.5]),
    ],
)
def test_four_rounds_worked_by_hand(schedule: Schedule, warmup_rounds: int, rates: list[float]) -> None:
    found = [learning_rate(1.0, schedule, warmup_rounds, round_, 4) for round_ in range(1, 5)]
    assert found == pytest.approx(rates)


@given(
    st.sampled_from(["constant", "cosine", "linear"]),
    st.integers(0, 50),
    st.integers(0, 60),
    st.integers(1, 50),
)
def test_every_round_has_a_rate_up_to_the_base(schedule: Schedule, warmup: int, round_: int, rounds: int) -> None:
    assert 0 < learning_rate(0.1, schedule, warmup, round_, rounds) <= 0.1


def test_the_plan_of_a_round_has_its_rate() -> None:
    description = RunDescription.model_validate(
        {
            "name": "n",
            "data": "d",
            "rounds": 4,
            "model": {"kind": "mlp", "features": 2, "classes": 2},
            "local": {"learning_rate": 0.8, "schedule": "linear", "warmup_rounds": 1},
        }
    )
    ref = ObjectRef(sha256=bytes(32), size_bytes=1)

    def rate(task: str, round_: int) -> float:
        return plan("r", description, task, round_, 0, model=ref, bundle=ref).learning_rate  # type: ignore[arg-type]

    assert [rate("train", round_) for round_ in range(1, 5)] == pytest.approx([0.4, 0.8, 0.8 * 2 / 3, 0.8 / 3])
    assert rate("statistics", 0) == rate("train", 1)
    assert rate("evaluate", 5) == rate("train", 4)
