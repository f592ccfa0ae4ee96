"""The server's steps, worked by hand: two rounds of three parameters; and what strategies and clusters keep right."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from headwater.core import optimise
from headwater.core.aggregate import Sums, WeightedSum
from headwater.core.compress.sketch import Hashes, sketch
from headwater.core.optimise import cluster, server, strategy
from headwater.schemas.learning import Clusters, Compression, Learning, Strategy
from headwater.schemas.manifest import LOCAL_STEPS, Example, Manifest, Parameter
from headwater.schemas.messages import Metric

ROUNDS = ([1.0, -2.0, 0.0], [3.0, 2.0, -1.0])
TAU = 0.1


def manifest(*names: str, state: str = "") -> Manifest:
    return Manifest(
        model="m",
        objective="mse",
        parameters=tuple(Parameter(name=n, shape=(3,), trainable=n != state, state=n == state) for n in names),
        x=Example(shape=(1,), dtype="float32"),
        y=Example(shape=(), dtype="float32"),
        metrics=("loss",),
    )


ONE = manifest("w")


def steps(rule: Strategy) -> list[list[float]]:
    state, made = server.init(rule, [(3,)]), []
    for delta in ROUNDS:
        state, (step,) = server.apply(rule, state, [np.array(delta)])
        made.append(step.tolist())
    return made


# Δ₁ = (1, −2, 0), Δ₂ = (3, 2, −1); β = 1/2, β₂ = 3/4, τ = 1/10, v₀ = τ².
# m₁ = Δ₁/2 = (.5, −1, 0), m₂ = m₁/2 + Δ₂/2 = (1.75, .5, −.5) of the adaptive ones.
V = TAU**2
ADAGRAD = ([V + 1, V + 4, V], [V + 10, V + 8, V + 1])
ADAM = ([0.75 * V + 0.25, 0.75 * V + 1, 0.75 * V], [0.5625 * V + 2.4375, 0.5625 * V + 1.75, 0.5625 * V + 0.25])
# v − (1 − β₂)·Δ²·sign(v − Δ²): up by a quarter of Δ² where that is larger, down by it where it is smaller.
YOGI = ([V + 0.25, V + 1, V], [V + 0.25 + 2.25, V + 1 + 1, V + 0.25])
M = ([0.5, -1.0, 0.0], [1.75, 0.5, -0.5])


def adaptive(second: tuple[list[float], list[float]]) -> list[list[float]]:
    return [[2.0 * m / (v**0.5 + TAU) for m, v in zip(ms, vs, strict=True)] for ms, vs in zip(M, second, strict=True)]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"name": "fedavg"}, [list(ROUNDS[0]), list(ROUNDS[1])]),
        ({"name": "fedavg", "learning_rate": 0.5}, [[0.5, -1.0, 0.0], [1.5, 1.0, -0.5]]),
        ({"name": "fedavgm", "momentum": 0.5}, [[1.0, -2.0, 0.0], [3.5, 1.0, -1.0]]),
        ({"name": "signsgd", "learning_rate": 0.5}, [[0.5, -0.5, 0.0], [0.5, 0.5, -0.5]]),
        ({"name": "fedadagrad"}, adaptive(ADAGRAD)),
        ({"name": "fedadam"}, adaptive(ADAM)),
        ({"name": "fedyogi"}, adaptive(YOGI)),
        ({"name": "fedprox", "server": "yogi"}, adaptive(YOGI)),
    ],
)
def test_two_steps_of_a_server_optimiser(rule: dict[str, Any], expected: list[list[float]]) -> None:
    shaped = {"momentum": 0.5, "beta2": 0.75, "tau": TAU, "learning_rate": 2.0}
    given = rule if rule["name"] in ("fedavg", "fedavgm", "signsgd") else {**shaped, **rule}
    np.testing.assert_allclose(steps(Strategy(**given)), expected, rtol=1e-12)


def test_scaffold_moves_its_control_by_the_share_of_the_fleet_that_was_heard() -> None:
    rule = Strategy(name="scaffold", learning_rate=0.5)
    state = strategy.init(rule, ONE)
    heard = strategy.Update((np.array([2.0, 0.0, -2.0]), np.array([4.0, 0.0, 8.0])), fleet_share=0.25)
    state, (step,) = strategy.apply(rule, ONE, state, heard)
    assert step.tolist() == [1.0, 0.0, -1.0]
    assert state["control"][0].tolist() == [1.0, 0.0, 2.0]
    state, _ = strategy.apply(rule, ONE, state, heard)
    assert state["control"][0].tolist() == [2.0, 0.0, 4.0]


def test_feddyn_keeps_the_fleets_drift_and_takes_it_off_the_mean() -> None:
    rule = Strategy(name="feddyn", alpha=0.5)
    state = strategy.init(rule, ONE)
    # h = 0 − 1/2·1/2·Δ, x' = x + Δ − h/α = x + Δ + Δ/2
    state, (step,) = strategy.apply(rule, ONE, state, strategy.Update((np.array([4.0, 0.0, -8.0]),), fleet_share=0.5))
    assert state["drift"][0].tolist() == [-1.0, 0.0, 2.0]
    assert step.tolist() == [6.0, 0.0, -12.0]


def test_fednova_gives_back_the_mean_number_of_steps_and_no_running_statistic_is_touched() -> None:
    """Two devices of weight 1 and 3 that went 2 and 10 steps: τ_eff = 8 times the mean of Δ/a."""
    both = manifest("w", "mean", state="mean")
    total = WeightedSum([(3,), (3,)])
    for weight, local_steps, delta in ((1.0, 2.0, 4.0), (3.0, 10.0, 10.0)):
        metrics = [Metric(split="train", name=LOCAL_STEPS, total=weight * local_steps, weight=weight)]
        total.add([np.full(3, weight * delta / local_steps), np.full(3, weight * 7.0)], weight, metrics)
    (told,) = optimise.heard(total, Learning(), fleet_weight=16.0)
    assert told is not None
    assert (told.update.local_steps, told.update.fleet_share) == (8.0, 0.25)
    # (1·2 + 3·1)/4 = 1.25, times 8
    _, step = strategy.apply(Strategy(name="fednova"), both, {}, told.update)
    assert [tensor.tolist() for tensor in step] == [[10.0] * 3, [7.0] * 3]


def test_of_places_each_goes_its_own_devices_steps() -> None:
    """Two places of one device, that went 2 and 10 steps to 4 and to 30: each model goes where its device went."""
    total = WeightedSum([(3,)], models=2)
    for place, (weight, local_steps, delta) in enumerate(((1.0, 2.0, 4.0), (3.0, 10.0, 30.0))):
        metrics = [Metric(split="train", name=LOCAL_STEPS, total=weight * local_steps, weight=weight)]
        shares = [weight if place == model else 0.0 for model in range(2)]
        total.add([np.full(3, weight * delta / local_steps)], weight, metrics, shares=shares)
    learning = Learning(strategy=Strategy(name="fednova"), clusters=Clusters(by="place"))
    models = optimise.begin(learning, ONE, [(np.zeros(3, np.float32),)] * 2, ("a", "b"))
    _, steps_of = optimise.apply(learning, ONE, models, optimise.heard(total, learning, fleet_weight=4.0))
    assert [step[0].tolist() for step in steps_of] == [[4.0] * 3, [30.0] * 3]


def test_of_places_each_control_moves_by_the_share_of_its_own_devices() -> None:
    """Of two places one is heard, all of it: its control is that of its devices, though half of the fleet is away."""
    learning = Learning(strategy=Strategy(name="scaffold"), clusters=Clusters(by="place"))
    total = WeightedSum([(3,), (3,)], models=2)
    total.add([np.zeros(3), np.full(3, 2.0 * 5.0)], 2.0, shares=(2.0, 0.0))
    models = optimise.begin(learning, ONE, [(np.zeros(3, np.float32),)] * 2, ("a", "b"))
    after, _ = optimise.apply(learning, ONE, models, optimise.heard(total, learning, 4.0, of_places=(2.0, 2.0)))
    assert [state["control"][0].tolist() for state in after.states] == [[5.0] * 3, [0.0] * 3]


@pytest.mark.parametrize("name", ["fedadam", "feddyn", "scaffold", "fedavgm"])
def test_a_running_statistic_is_averaged_whatever_the_strategy(name: Any) -> None:
    both = manifest("w", "variance", state="variance")
    rule = Strategy(name=name)
    state = strategy.init(rule, both)
    mean: Sums = (np.ones(3), np.full(3, -0.25), *([np.ones(3)] if name == "scaffold" else []))
    for _ in range(2):
        state, step = strategy.apply(rule, both, state, strategy.Update(mean))
        assert step[1].tolist() == [-0.25] * 3


# ── several models ──────────────────────────────────────────────────────────────────────────────────────────────


def test_fetchsgd_with_momentum_goes_as_far_as_without() -> None:
    """Every round brings (1, −2, 4), ρ = 1/2. If all is taken, and so the cells are emptied, each step is half of it. With
    k = 1 the others wait: u = (3/2, −3, 4) and e = (5/2, −5, 4) in the second round, and half of the −5 is taken."""
    for fraction, expected in ((1.0, [[0.5, -1.0, 2.0]] * 2), (0.3, [[0.0, 0.0, 2.0], [0.0, -2.5, 0.0]])):
        uplink = Compression(codec="sketch", rows=5, columns=4096, fraction=fraction, momentum=0.5)
        learning = Learning(uplink=uplink)
        models = optimise.begin(learning, ONE, [(np.zeros(3, np.float32),)], ())
        mean = (sketch([np.array([1.0, -2.0, 4.0])], Hashes(5, 4096, 7)),)
        for step in expected:
            told = [optimise.Heard(strategy.Update(mean, 1.0, 1.0), 1.0)]
            models, ((made,),) = optimise.apply(learning, ONE, models, told, seed=7)
            np.testing.assert_allclose(made, step)


def two_models(shared: tuple[str, ...] = (), name: Any = "fedavg") -> tuple[Learning, Manifest, optimise.Models]:
    learning = Learning(strategy=Strategy(name=name), clusters=Clusters(by="likeness", shared=shared))
    about = manifest("body", "head")
    parameters = [tuple(np.full(3, value, np.float32) for value in values) for values in ((0.0, 1.0), (0.0, 5.0))]
    return learning, about, optimise.begin(learning, about, parameters, ("a", "b"))


def after_a_round(
    learning: Learning, about: Manifest, models: optimise.Models, *given: tuple[float, tuple[float, float]]
) -> list[list[float]]:
    """The first element of each parameter of each model, after devices gave (Δ, shares)."""
    total = WeightedSum([(3,), (3,)], models=2)
    for delta, shares in given:
        weight = sum(shares)
        total.add([np.full(3, delta * weight)] * 2, weight, shares=shares)
    moved, step = optimise.apply(learning, about, models, optimise.heard(total, learning, 0.0))
    return [[float(value[0]) for value in one] for one in optimise.moved(about, moved, step).parameters]


def test_each_model_moves_by_its_own_devices() -> None:
    learning, about, models = two_models()
    moved = after_a_round(learning, about, models, (1.0, (1.0, 0.0)), (4.0, (2.0, 0.0)), (7.0, (0.0, 1.0)))
    assert moved == [[3.0, 4.0], [7.0, 12.0]]


def test_a_model_that_nobody_trained_stays_but_for_what_all_share() -> None:
    learning, about, models = two_models()
    assert after_a_round(learning, about, models, (2.0, (1.0, 0.0))) == [[2.0, 3.0], [0.0, 5.0]]
    learning, about, models = two_models(shared=("body",))
    assert after_a_round(learning, about, models, (2.0, (1.0, 0.0))) == [[2.0, 3.0], [2.0, 5.0]]


def test_what_all_share_moves_by_everyones_mean() -> None:
    learning, about, models = two_models(shared=("body",), name="fedavgm")
    # body: (1·1 + 3·5)/4 = 4; the heads by their own
    assert after_a_round(learning, about, models, (1.0, (1.0, 0.0)), (5.0, (0.0, 3.0))) == [[4.0, 2.0], [4.0, 10.0]]


def test_a_new_place_begins_with_the_mean_of_those_that_there_are() -> None:
    learning, about, models = two_models()
    grown = optimise.grown(learning, about, models, {"c", "a", "b"})
    assert grown.clusters == ("a", "b", "c")
    assert [float(value[0]) for value in grown.parameters[2]] == [0.0, 3.0]
    assert optimise.grown(learning, about, grown, {"a"}) is grown
    alone = optimise.begin(learning, about, [models.parameters[1]], ())
    assert [len(optimise.grown(learning, about, alone, {"x", "y"}).parameters)] == [2]


def rounds_without_the_second(learning: Learning, models: optimise.Models, *fleet_shares: float) -> optimise.Models:
    for share in fleet_shares:
        update = optimise.Update((np.zeros(3), np.zeros(3)), fleet_share=share)
        models = optimise.counted(learning, models, (optimise.Heard(update, 1.0), None))
    return models


def anew(learning: Learning, about: Manifest, models: optimise.Models, round_: int = 5) -> optimise.Models | None:
    told = (optimise.Heard(optimise.Update((np.zeros(3), np.zeros(3))), 1.0), None)
    return optimise.filled(learning, about, models, told, seed=1, round_=round_)


def test_a_model_that_nobody_chose_for_two_fleets_begins_anew_beside_the_one_that_most_train() -> None:
    learning, about, models = two_models(shared=("body",))
    assert anew(learning, about, rounds_without_the_second(learning, models, 1.0, 0.9)) is None
    empty = rounds_without_the_second(learning, models, 1.0, 0.9, 0.1)
    found = anew(learning, about, empty)
    assert found is not None
    (body, head), (new_body, new_head) = found.parameters
    np.testing.assert_array_equal(found.parameters[0], empty.parameters[0])
    np.testing.assert_array_equal(new_body, body)
    assert 0 < np.abs(new_head - head).max() < 0.1
    # Its count begins anew too, and other rounds draw other noise.
    assert anew(learning, about, rounds_without_the_second(learning, found, 1.0)) is None
    other = anew(learning, about, empty, round_=6)
    assert other is not None
    assert not np.array_equal(other.parameters[1][1], new_head)


def test_a_model_that_is_heard_of_once_in_two_fleets_is_left_alone() -> None:
    learning, about, models = two_models()
    models = rounds_without_the_second(learning, models, 1.0, 0.9)
    heard = optimise.Heard(optimise.Update((np.zeros(3), np.zeros(3))), 1.0)
    models = optimise.counted(learning, models, (heard, heard))
    assert anew(learning, about, rounds_without_the_second(learning, models, 1.0)) is None


def test_places_are_never_split() -> None:
    _, about, models = two_models()
    places = Learning(clusters=Clusters(by="place"))
    assert anew(places, about, rounds_without_the_second(places, models, 1.0, 1.0, 1.0)) is None


def test_of_two_groups_that_share_a_model_each_fits_one_of_its_two_copies_better() -> None:
    """Two groups whose targets are t and −t train one model, which stands at their mean: noise on a copy, whatever it
    is, brings the copy nearer to one of them and further from the other."""
    learning, about, models = two_models()
    target = np.arange(6.0) - 2.2
    models = replace(models, parameters=((np.zeros(3, np.float32) + 1e-3, np.zeros(3, np.float32) + 1e-3),) * 2)
    for round_ in range(20):
        found = anew(learning, about, rounds_without_the_second(learning, models, 1.0, 1.0), round_)
        assert found is not None
        loss = [[np.square(np.concatenate(m) - side * target).sum() for m in found.parameters] for side in (1, -1)]
        assert {int(np.argmin(of_group)) for of_group in loss} == {0, 1}


# ── a cluster ───────────────────────────────────────────────────────────────────────────────────────────────────


def edge_round(delta: list[float], weight: float, local_steps: float = 0.0, *companions: list[float]) -> WeightedSum:
    total = WeightedSum([(3,)] * (1 + len(companions)))
    metrics = (
        [Metric(split="train", name=LOCAL_STEPS, total=weight * local_steps, weight=weight)] if local_steps else []
    )
    total.add([weight * np.array(tensor) for tensor in (delta, *companions)], weight, metrics)
    return total


def test_of_more_places_than_models_may_coexist_the_last_have_none() -> None:
    about = Learning(clusters=Clusters(by="place"))
    models = optimise.begin(about, ONE, [(np.zeros(3, np.float32),)], ())
    names = [f"gw{number:03}" for number in range(70)]
    most = optimise.grown(about, ONE, models, names[1:])
    assert most.clusters == tuple(names[1:65])
    assert optimise.grown(about, ONE, most, names) is most


def test_the_edge_rounds_of_fednova_are_one_normalised_update() -> None:
    """2 steps of (1, 0, 0), then 3 of (0, 2, 0): the cluster is at (2, 6, 0) after 5 steps, of weight 4 on average."""
    learning = Learning(strategy=Strategy(name="fednova"))
    base = (np.zeros(3, np.float32),)
    edge = cluster.begin([base])
    edge = cluster.after(learning, ONE, edge, edge_round([1.0, 0.0, 0.0], 3.0, 2.0))
    edge = cluster.after(learning, ONE, edge, edge_round([0.0, 2.0, 0.0], 5.0, 3.0))
    assert edge.models[0][0].tolist() == [2.0, 6.0, 0.0]
    total = cluster.total(learning, ONE, edge, [base])
    assert (total.weight, total.local_steps, total.shares) == (4.0, 5.0, ())
    np.testing.assert_allclose(total.terms[0], [4 * 2 / 5, 4 * 6 / 5, 0.0])


def test_a_cluster_adds_up_the_changes_of_its_control_variates() -> None:
    learning = Learning(strategy=Strategy(name="scaffold"))
    base = (np.zeros(3, np.float32),)
    edge = cluster.begin([base])
    for change in ([1.0, 0.0, 0.0], [1.0, 3.0, 0.0]):
        edge = cluster.after(learning, ONE, edge, edge_round([0.5, 0.0, 0.0], 2.0, 0.0, change))
    total = cluster.total(learning, ONE, edge, [base])
    assert [term.tolist() for term in total.terms] == [[2.0, 0.0, 0.0], [4.0, 6.0, 0.0]]


def test_a_model_trained_in_one_of_two_edge_rounds_has_half_the_weight() -> None:
    learning, about, models = two_models()
    edge = cluster.begin(models.parameters)
    for shares in ((2.0, 0.0), (0.0, 6.0)):
        total = WeightedSum([(3,), (3,)], models=2)
        total.add([np.ones(3) * sum(shares)] * 2, sum(shares), shares=shares)
        edge = cluster.after(learning, about, edge, total)
    told = cluster.total(learning, about, edge, models.parameters)
    assert (told.shares, told.weight, len(told.terms)) == ((1.0, 3.0), 4.0, 4)
    assert [float(term[0]) for term in told.terms] == [1.0, 1.0, 3.0, 3.0]
