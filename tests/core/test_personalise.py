"""Models of a device's own, worked by hand as in test_local.py; and what is measured, kept, and sent of them."""

from collections.abc import Mapping

import numpy as np
import pytest

from headwater.core.local import Outcome
from headwater.core.personalise import evaluation_of, round_of
from headwater.schemas.learning import PersonalMethod
from headwater.schemas.manifest import Parameter
from support.quadratic import Quadratic, device, manifest, setting

ONE, OTHER = (1.0, 2.0, 0.0), (3.0, -2.0, 4.0)
NOTHING = (0.0, 0.0, 0.0)


def close(found: object, expected: object) -> None:
    np.testing.assert_allclose(np.asarray(found, np.float64), np.asarray(expected), rtol=1e-6, atol=1e-7)


def personal(method: PersonalMethod, **more: object) -> dict[str, object]:
    return {"learning": {"personal": {"method": method, **more}}}


def vector(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


# ── each method's steps ─────────────────────────────────────────────────────────────────────────────────────────


def test_ditto_goes_between_its_data_and_the_global_model() -> None:
    # v − b + 1·(v − w): half a step from anywhere goes to (b + w)/2.
    received, sections = (2.0, 2.0, 2.0), personal("ditto", strength=1.0)
    for b, expected in ((ONE, (1.5, 2.0, 1.0)), (OTHER, (2.5, 0.0, 3.0))):
        asked = device(b)
        outcome = asked.follow(round_of(setting(received, memory={"personal w": vector(9, 9, 9)}, **sections)))
        close(outcome.kept["personal w"], expected)
        # The global model knows nothing of it: half the way from w to b.
        close(outcome.terms[0], (np.array(b) - received) / 2)
        close(asked.told["personal"][0], (9, 9, 9))
        close(asked.told["test"][0], received)


def test_ditto_begins_at_the_received_model() -> None:
    asked = device(ONE)
    outcome = asked.follow(round_of(setting((4.0, 4.0, 4.0), **personal("ditto", strength=0.5, epochs=1))))
    # v = w: the pull is nothing yet.
    close(outcome.kept["personal w"], (2.5, 3.0, 2.0))
    close(asked.told["personal"][0], (4.0, 4.0, 4.0))


def test_pfedme_moves_towards_each_batchs_personal_model() -> None:
    # θ = (b + w)/2, then w ← w − 1/2·(w − θ): a quarter of the way to b; twice.
    sections = personal("pfedme", strength=1.0, steps=3)
    for b in (ONE, OTHER):
        asked = device(b)
        outcome = asked.follow(round_of(setting(NOTHING, epochs=2, **sections)))
        close(outcome.terms[0], 0.4375 * np.array(b))
        close(outcome.kept["personal w"], 0.625 * np.array(b))
        assert [training.batch for training in asked.trainings] == [0, 1]
        assert outcome.trained.steps == 6


def test_pfedme_takes_the_batches_in_turn() -> None:
    asked = device(ONE, OTHER)
    outcome = asked.follow(round_of(setting(NOTHING, batches=2, **personal("pfedme", strength=1.0))))
    # A quarter of the way to the one, then of the rest to the other.
    close(outcome.terms[0], 0.75 * 0.25 * np.array(ONE) + 0.25 * np.array(OTHER))


def test_apfl_by_hand() -> None:
    # v̄ = (.05, .05, 0), η·g = (−.475, −.975, 0), ⟨v − w, η·g⟩ = −.145.
    memory = {"local w": vector(0.1, 0.1, 0.0), "mixing": np.array(0.5)}
    asked = device(ONE)
    outcome = asked.follow(round_of(setting(NOTHING, memory=memory, **personal("apfl"))))
    alpha, v, w = 0.645, np.array((0.1 + 0.645 * 0.475, 0.1 + 0.645 * 0.975, 0.0)), np.array((0.5, 1.0, 0.0))
    close(outcome.kept["mixing"], alpha)
    close(outcome.kept["local w"], v)
    close(outcome.terms[0], w)
    close(outcome.kept["personal w"], alpha * v + (1 - alpha) * w)
    close(asked.told["personal"][0], (0.05, 0.05, 0.0))


@pytest.mark.parametrize(("local", "expected"), [((4.0, 4.0, 4.0), 0.0), ((0.4, 0.4, 0.0), 1.0)])
def test_apfls_proportion_is_a_proportion(local: tuple[float, ...], expected: float) -> None:
    memory = {"local w": vector(*local), "mixing": np.array(0.5)}
    outcome = device(ONE).follow(round_of(setting(NOTHING, memory=memory, **personal("apfl"))))
    assert outcome.kept["mixing"] == expected


def test_apfl_with_a_fixed_proportion_of_the_local_model_is_training_alone() -> None:
    sections = personal("apfl", adaptive=False, mixing=1.0)
    outcome = device(ONE).follow(round_of(setting(NOTHING, epochs=2, **sections)))
    close(outcome.kept["personal w"], (0.75, 1.5, 0.0))
    assert outcome.kept["mixing"] == 1.0


HEADED = manifest(Parameter(name="w", shape=(3,)), Parameter(name="head", shape=(3,), personal=True))


def headed(method: PersonalMethod, memory: Mapping[str, np.ndarray] | None = None) -> tuple[Quadratic, Outcome]:
    asked = Quadratic([(np.array(ONE), np.array(OTHER))], HEADED)
    models = ((vector(*NOTHING), vector(*NOTHING) if memory is None else memory["own head"]),)
    sections = personal(method, epochs=2)
    return asked, asked.follow(round_of(setting(manifest=HEADED, models=models, memory=memory or {}, **sections)))


def test_fedrep_trains_the_head_on_the_body_as_it_came() -> None:
    asked, outcome = headed("fedrep")
    head, body = asked.trainings
    close(body.start[0], NOTHING)
    close(body.start[1], 0.75 * np.array(OTHER))
    close(outcome.terms, [0.5 * np.array(ONE)])
    close(outcome.kept["own head"], 0.75 * np.array(OTHER))
    assert head.epochs == 2


def test_fedper_trains_both_at_once_and_sends_the_body() -> None:
    asked, outcome = headed("fedper")
    assert len(asked.trainings) == 1
    close(outcome.terms, [0.5 * np.array(ONE)])
    close(outcome.kept["own head"], 0.5 * np.array(OTHER))
    assert asked.told["personal"] is asked.told["test"]


def test_fine_tuning_is_the_rounds_own_training_where_that_is_as_long() -> None:
    asked = device(ONE)
    outcome = asked.follow(round_of(setting(NOTHING, epochs=2, **personal("fine_tune", epochs=2))))
    assert len(asked.trainings) == 1
    close(outcome.kept["personal w"], (0.75, 1.5, 0.0))
    close(asked.told["personal"][0], (0.75, 1.5, 0.0))


@pytest.mark.parametrize(
    "differing", [{"personal": {"epochs": 3}}, {"personal": {"learning_rate": 0.25}}, {"strategy": {"name": "fedprox"}}]
)
def test_fine_tuning_goes_its_own_way_where_it_differs(differing: dict[str, dict[str, object]]) -> None:
    learning = {**differing, "personal": {"method": "fine_tune", **differing.get("personal", {})}}
    asked = device(ONE)
    asked.follow(round_of(setting(NOTHING, learning=learning)))
    assert len(asked.trainings) == 2
    assert not asked.trainings[1].hyperparameters


# ── beside all of them ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("method", ["none", "fine_tune", "ditto", "pfedme", "apfl"])
def test_the_one_trained_alone_sees_nothing_of_the_fleet(method: PersonalMethod) -> None:
    """Three rounds, with another model received each time: it has made three rounds' steps of its own."""
    memory: dict[str, np.ndarray] = {}
    for number, received in enumerate((NOTHING, OTHER, ONE)):
        asked = device(ONE)
        outcome = asked.follow(round_of(setting(received, memory=memory, **personal(method, baseline=True))))
        memory |= outcome.kept
        close(asked.told["local"][0], (1 - 0.5**number) * np.array(ONE))
    close(memory["alone w"], 0.875 * np.array(ONE))


def test_without_a_baseline_nothing_is_trained_alone() -> None:
    asked = device(ONE)
    assert "alone w" not in asked.follow(round_of(setting(NOTHING))).kept
    assert set(asked.told) == {"test"}


MEMORY = {"personal w": vector(1, 1, 1), "local w": vector(3, 3, 3), "mixing": np.array(0.5), "alone w": vector(*OTHER)}


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("none", None),
        ("fine_tune", (1.0, 2.0, 1.5)),
        ("fedper", (1.0, 2.0, 3.0)),
        ("ditto", (1.0, 1.0, 1.0)),
        ("pfedme", (1.0, 1.0, 1.0)),
        ("apfl", (2.0, 2.5, 3.0)),
    ],
)
def test_an_evaluation_measures_and_changes_nothing(method: PersonalMethod, expected: tuple[float, ...] | None) -> None:
    asked = device(ONE)
    received = (1.0, 2.0, 3.0)
    assert asked.follow(evaluation_of(setting(received, memory=MEMORY, **personal(method, baseline=True)))) is None
    close(asked.told["test"][0], received)
    close(asked.told["local"][0], OTHER)
    if expected is None:
        assert "personal" not in asked.told
    else:
        close(asked.told["personal"][0], expected)
