"""What a device does in a round, worked by hand: two devices, three parameters, and a loss whose steps are halves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.core.aggregate import moved
from headwater.core.local import Memory, Outcome, local_method
from headwater.core.local.fednova import plain_steps
from headwater.core.local.mocha import anchored
from headwater.core.local.pace import epochs_within, measured
from headwater.core.personalise import round_of
from headwater.schemas.manifest import Parameter
from headwater.schemas.messages import RoundKey
from support.quadratic import Quadratic, device, manifest, setting

ONE, OTHER = (1.0, 2.0, 0.0), (3.0, -2.0, 4.0)
NOTHING = (0.0, 0.0, 0.0)


def close(found: object, expected: object) -> None:
    np.testing.assert_allclose(np.asarray(found, np.float64), np.asarray(expected), rtol=1e-6, atol=1e-7)


def mean(*outcomes: Outcome) -> tuple[np.ndarray, ...]:
    """What the cloud makes of devices that weigh alike."""
    return tuple(np.mean(terms, axis=0) for terms in zip(*(outcome.terms for outcome in outcomes), strict=True))


def strategy(name: str, **more: float) -> dict[str, object]:
    return {"strategy": {"name": name, **more}}


# ── FedAvg and FedProx ──────────────────────────────────────────────────────────────────────────────────────────


def test_fedavg_two_steps_go_three_quarters_of_the_way() -> None:
    one, other = (device(b).follow(local_method(setting(NOTHING, epochs=2))) for b in (ONE, OTHER))
    close(one.terms[0], (0.75, 1.5, 0.0))
    close(mean(one, other)[0], (1.5, 0.0, 1.5))
    assert (one.trained.steps, one.local_steps, one.if_taken) == (2, None, {})


def test_fedprox_is_held_back_by_what_was_received() -> None:
    # w − b + 1·(w − 0) = 2·w − b: from 0 half a step goes to b/2, where it is 0.
    learning = strategy("fedprox", mu=1.0)
    one, other = (device(b).follow(local_method(setting(NOTHING, epochs=2, learning=learning))) for b in (ONE, OTHER))
    close(one.terms[0], (0.5, 1.0, 0.0))
    close(other.terms[0], (1.5, -1.0, 2.0))


def test_fedprox_without_mu_is_fedavg() -> None:
    proximal = local_method(setting(ONE, epochs=3, learning=strategy("fedprox", mu=0.0)))
    plain = local_method(setting(ONE, epochs=3))
    close(device(OTHER).follow(proximal).terms, device(OTHER).follow(plain).terms)


# ── SCAFFOLD ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_scaffold_first_round_finds_the_mean_gradients() -> None:
    # The gradients are −b and −b/2, so c_i⁺ = −3/4·b.
    learning = strategy("scaffold")
    one, other = (device(b).follow(local_method(setting(NOTHING, epochs=2, learning=learning))) for b in (ONE, OTHER))
    close(one.terms, [(0.75, 1.5, 0.0), (-0.75, -1.5, 0.0)])
    close(one.if_taken["control w"], (-0.75, -1.5, 0.0))
    close(mean(one, other), [(1.5, 0.0, 1.5), (-1.5, 0.0, -1.5)])


def test_scaffold_second_round_is_corrected() -> None:
    # x − b = (.5, −2, 1.5), and c − c_i = (−.75, 1.5, −1.5): steps of (−.25, −.5, 0)/2 and (−.125, −.25, 0)/2.
    begun = setting(
        (1.5, 0.0, 1.5),
        epochs=2,
        learning=strategy("scaffold"),
        memory={"control w": np.array((-0.75, -1.5, 0.0), np.float32)},
        companions=(np.array((-1.5, 0.0, -1.5), np.float32),),
    )
    outcome = device(ONE).follow(local_method(begun))
    close(outcome.trained.parameters[0], (1.6875, 0.375, 1.5))
    close(outcome.terms, [(0.1875, 0.375, 0.0), (1.3125, -0.375, 1.5)])
    close(outcome.if_taken["control w"], (0.5625, -1.875, 1.5))
    assert not outcome.kept


def test_scaffold_stays_where_the_fleet_is_best() -> None:
    """With c_i = ∇F_i(x*) and c = 0 no device moves from x*, as with FedAvg each would."""
    best = np.mean((ONE, OTHER), axis=0)
    for b in (ONE, OTHER):
        memory = {"control w": (best - b).astype(np.float32)}
        begun = setting(best, epochs=5, learning=strategy("scaffold"), memory=memory)
        close(device(b).follow(local_method(begun)).terms, np.zeros((2, 3)))


def test_scaffold_does_not_correct_what_is_personal() -> None:
    of = manifest(Parameter(name="head", shape=(2,), personal=True), Parameter(name="w", shape=(3,)))
    received = (np.ones(2, np.float32), np.zeros(3, np.float32))
    companions = (np.ones(3, np.float32),)
    asked = Quadratic([(np.zeros(2), np.zeros(3))], of)
    begun = setting(manifest=of, models=(received,), learning=strategy("scaffold"), companions=companions)
    outcome = asked.follow(local_method(begun))
    assert [tensor.shape for tensor in outcome.terms] == [(3,), (3,)]
    assert asked.trainings[0].corrections is not None
    close(asked.trainings[0].corrections[0], (0.0, 0.0))
    close(asked.trainings[0].corrections[1], (1.0, 1.0, 1.0))
    assert set(outcome.if_taken) == {"control w"}


# ── FedNova ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_fednova_tells_an_update_by_the_step() -> None:
    # One makes a step, b/2; the other three, 7/8·b, of which a step is 7/24·b.
    one = device(ONE).follow(local_method(setting(NOTHING, epochs=1, learning=strategy("fednova"))))
    other = device(OTHER).follow(local_method(setting(NOTHING, epochs=3, learning=strategy("fednova"))))
    close(one.terms[0], (0.5, 1.0, 0.0))
    close(other.terms[0], (0.875, -7 / 12, 7 / 6))
    assert (one.local_steps, other.local_steps) == (1.0, 3.0)
    # The cloud's step is τ_eff = 2 times the mean of the two.
    close(moved([np.zeros(3, np.float32)], [2.0 * mean(one, other)[0]])[0], (1.375, 5 / 12, 7 / 6))


@given(st.integers(1, 40), st.floats(0, 0.95))
@settings(max_examples=30)
def test_plain_steps_are_how_far_momentum_goes(steps: int, momentum: float) -> None:
    velocity = way = 0.0
    for _ in range(steps):
        velocity = momentum * velocity + 1.0
        way += velocity
    assert plain_steps(steps, momentum) == pytest.approx(way)


def test_fednova_knows_the_graphs_momentum() -> None:
    of = manifest(momentum=0.5)
    begun = setting(NOTHING, epochs=2, manifest=of, learning=strategy("fednova"))
    outcome = device(ONE, of=of, momentum=0.5).follow(local_method(begun))
    # v = −b, then −b/2 − b/2: two steps, to b. ‖a‖₁ = 1 + 1.5.
    assert outcome.local_steps == pytest.approx(2.5)
    close(outcome.terms[0], np.array(ONE) / 2.5)


# ── FedDyn ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_feddyn_by_hand() -> None:
    # α = 1, h = (1, 0, 0): the gradient is w − b + (w − h), so half a step from 0 goes to (b + h)/2, and stays.
    memory = {"dynamic w": np.array((1.0, 0.0, 0.0), np.float32)}
    begun = setting(NOTHING, epochs=3, learning=strategy("feddyn", alpha=1.0), memory=memory)
    outcome = device(ONE).follow(local_method(begun))
    close(outcome.terms[0], (1.0, 1.0, 0.0))
    close(outcome.if_taken["dynamic w"], (0.0, -1.0, 0.0))


def test_feddyn_stays_where_the_fleet_is_best() -> None:
    best = np.mean((ONE, OTHER), axis=0)
    for b in (ONE, OTHER):
        memory = {"dynamic w": (best - b).astype(np.float32)}
        begun = setting(best, epochs=4, learning=strategy("feddyn", alpha=0.5), memory=memory)
        outcome = device(b).follow(local_method(begun))
        close(outcome.terms[0], NOTHING)
        close(outcome.if_taken["dynamic w"], memory["dynamic w"])


def test_feddyn_finds_the_fleets_optimum_which_fedavg_misses() -> None:
    """With a step for one device and many for the other FedAvg is drawn to the second; FedDyn's terms make up for it."""
    alpha, w, h = 1.0, np.zeros(3, np.float32), np.zeros(3)
    memories: list[dict[str, np.ndarray]] = [{}, {}]
    for _ in range(60):
        outcomes = []
        for place, (b, epochs) in enumerate(((ONE, 2), (OTHER, 8))):
            begun = setting(w, epochs=epochs, learning=strategy("feddyn", alpha=alpha), memory=memories[place])
            outcomes.append(device(b).follow(local_method(begun)))
            memories[place] = dict(outcomes[-1].if_taken)
        step = mean(*outcomes)[0]
        h = h - alpha * step
        w = (w + step - h / alpha).astype(np.float32)
    np.testing.assert_allclose(w, np.mean((ONE, OTHER), axis=0), atol=1e-4)


# ── several models, and related tasks ───────────────────────────────────────────────────────────────────────────


def test_ifca_trains_the_model_that_fits_best() -> None:
    learning = {"clusters": {"by": "likeness", "count": 2}}
    asked = device(OTHER)
    outcome = asked.follow(round_of(setting(NOTHING, (3.0, -2.0, 3.0), learning=learning)))
    assert outcome.chosen == 1
    close(outcome.terms[0], (0.0, 0.0, 0.5))
    close(asked.told["test"][0], (3.0, -2.0, 3.0))
    assert len(asked.trainings) == 1
    assert device(ONE).follow(round_of(setting(NOTHING, (3.0, -2.0, 3.0), learning=learning))).chosen == 0


def test_a_task_is_pulled_towards_its_anchor() -> None:
    # w − b + 1·(w − a): half a step from 0 goes to (b + a)/2.
    learning = {"personal": {"method": "mocha", "strength": 1.0}}
    anchor = (np.array((1.0, 1.0, 1.0), np.float32),)
    outcome = device(ONE).follow(anchored(setting(NOTHING, learning=learning, companions=anchor)))
    close(outcome.terms[0], (1.0, 1.5, 0.5))


# ── what is kept ────────────────────────────────────────────────────────────────────────────────────────────────

K1, K2 = RoundKey(run="r", round=1), RoundKey(run="r", round=2)
A, B, C = (np.full(1, value) for value in (1.0, 2.0, 3.0))
PENDING = Memory({"c": A, "v": A}).after(K1, {"v": B}, {"c": C})


@pytest.mark.parametrize(
    ("memory", "key", "expected"),
    [
        (PENDING, K2, {"c": C, "v": B}),
        (PENDING.refused(K1), K2, {"c": A, "v": B}),
        (PENDING.refused(K2), K2, {"c": C, "v": B}),
        (PENDING, K1.model_copy(update={"attempt": 1}), {"c": A, "v": B}),
        (PENDING, K1.model_copy(update={"step": 1}), {"c": C, "v": B}),
    ],
    ids=["nothing heard", "refused", "another refused", "tried again", "next edge round"],
)
def test_what_depends_on_the_delta_follows_it(memory: Memory, key: RoundKey, expected: dict[str, np.ndarray]) -> None:
    assert memory.at(key) == expected


def test_a_later_plan_settles_the_one_before() -> None:
    after = PENDING.after(K2, {}, {"c": B})
    assert after.refused(K1) is after
    assert after.refused(K2).at(K2) == {"c": C, "v": B}


# ── pace ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("steps_per_s", "epochs"),
    [(None, 1), (1.0, 1), (5.0, 1), (19.9, 1), (20.0, 2), (100.0, 10), (1e9, 10)],
)
def test_as_many_epochs_as_fit(steps_per_s: float | None, epochs: int) -> None:
    assert epochs_within(2.0, steps_per_s, 20, 10) == epochs


def test_the_pace_follows_what_was_measured() -> None:
    assert measured(None, 30, 2.0) == 15.0
    assert measured(15.0, 10, 2.0) == 10.0
