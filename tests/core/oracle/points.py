"""What both sides are given, the graphs and PyTorch: parameters, examples and steps, the same on every machine."""

import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).parents[1]))

from cases import CASES
from graphs import forward, node

from headwater.core.graph import Compiled, compile_bundle
from headwater.core.graph.execution import Runnable
from headwater.core.graph.gate import verify
from headwater.schemas.manifest import Objective, Variant
from headwater.schemas.run import LocalTraining, Loss

RECORD = Path(__file__).parent / "record.npz"
Arrays = dict[str, np.ndarray]


def worst_error(got: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> float:
    """The largest distance, relative to the expected value's norm; where it is next to 0 to a tenth of all, or to what
    float32 can tell of values around 1."""
    assert got.keys() == expected.keys(), (sorted(got), sorted(expected))
    norms = {name: float(np.linalg.norm(value)) for name, value in expected.items()}
    smallest = max(0.1 * sum(norm**2 for norm in norms.values()) ** 0.5, 0.01)
    return max(
        float(np.linalg.norm(got[name] - value)) / max(norms[name], smallest) for name, value in expected.items()
    )


# ── the gradient of each case ───────────────────────────────────────────────────────────────────────────────────

ROWS, KEPT = 8, 6
"""The last rows of a batch are filler: PyTorch never sees them."""


@dataclass(frozen=True)
class Point:
    parameters: Arrays
    x: np.ndarray
    y: np.ndarray
    mask: np.ndarray
    seed: int


def pairs() -> list[tuple[str, Objective]]:
    """Every case under mse, and under cross-entropy where it says something of classes."""
    fits: list[tuple[str, Objective]] = [(name, "mse") for name in CASES]
    return fits + [(name, "cross_entropy") for name, case in CASES.items() if len(case.outputs) == 1 < case.outputs[0]]


@cache
def compiled(name: str, objective: Objective) -> Compiled:
    case = CASES[name]
    return compile_bundle(case.model(), objective=objective, name="m", frozen=case.frozen)


def point(name: str, objective: Objective) -> Point:
    case, made = CASES[name], compiled(name, objective)
    rng = np.random.default_rng(zlib.crc32(f"{name} {objective}".encode()))
    parameters = {p.name: value for p, value in zip(made.manifest.parameters, made.initial, strict=True)}
    x = rng.normal(0, 1, (ROWS, *case.features)).astype(np.float32)
    if objective == "mse":
        y = rng.normal(0, 1, (ROWS, *case.outputs)).astype(np.float32)
    else:
        y = rng.integers(0, case.outputs[0], ROWS)
    return Point(parameters, x, y, (np.arange(ROWS) < KEPT).astype(np.float32), int(rng.integers(2**31)))


def feed_of(at: Point) -> dict[str, Any]:
    return {**at.parameters, "x": at.x, "y": at.y, "mask": at.mask, "seeds": np.array(at.seed)}


@cache
def graph_gradients(name: str, objective: Objective) -> Arrays:
    """As the gradient graph has them: by parameter, and the moved statistics by theirs."""
    found = Runnable(compiled(name, objective).proofs["gradient"]).run(feed_of(point(name, objective)))
    return {name.removeprefix("gradient_"): value for name, value in found.items()}


def drawn_masks(made: Compiled, feed: Mapping[str, Any]) -> Arrays:
    """What the gradient graph multiplies each Dropout's input with, by the node's name in the owner's model."""
    proof = onnx.load_from_string(made.proofs["gradient"])
    nodes = {node.output[0]: node for node in proof.graph.node}
    dropouts = [node for node in made.forward.nodes if node.op_type == "Dropout"]
    masks = {node.name: nodes[f"f_{node.output[0]}"].input[1] for node in dropouts}
    del proof.graph.output[:]
    proof.graph.output.extend(onnx.ValueInfoProto(name=mask) for mask in masks.values())
    found = Runnable(proof.SerializeToString()).run(feed) if masks else {}
    return {name: found[mask] for name, mask in masks.items()}


def finite_error(name: str, objective: Objective) -> float:
    """What the gate says of a case."""
    return verify(compiled(name, objective), rng=np.random.default_rng(3), points=1).worst


# ── steps ───────────────────────────────────────────────────────────────────────────────────────────────────────

EXAMPLES, BATCH, EPOCHS, FEATURES, HIDDEN, OUTPUTS = 10, 4, 2, 6, 5, 3
NAMES = ("w1", "b1", "w2", "b2")


@dataclass(frozen=True)
class Steps:
    """A few steps of a small network; `hyper` takes the place of the manifest's hyperparameters."""

    objective: Objective = "cross_entropy"
    local: LocalTraining = field(default_factory=LocalTraining)
    loss: Loss = field(default_factory=Loss)
    variant: Variant = "plain"
    outputs: int = OUTPUTS
    rate: float = 0.1
    hyper: Mapping[str, float] = field(default_factory=dict)
    personal: tuple[str, ...] = ()


def local(**values: Any) -> LocalTraining:
    return LocalTraining(**values)


SCENARIOS: dict[str, Steps] = {
    # ── optimisers ──
    "sgd": Steps(),
    "sgd, decay": Steps(local=local(weight_decay=0.1)),
    "sgd, clipped": Steps(local=local(clip_norm=0.3)),
    "momentum": Steps(local=local(optimiser="momentum")),
    "momentum, decay, clipped": Steps(local=local(optimiser="momentum", momentum=0.7, weight_decay=0.1, clip_norm=0.3)),
    "nesterov": Steps(local=local(optimiser="nesterov")),
    "nesterov, decay": Steps(local=local(optimiser="nesterov", momentum=0.5, weight_decay=0.2)),
    "adam": Steps(local=local(optimiser="adam"), rate=0.01),
    "adam, decay": Steps(local=local(optimiser="adam", weight_decay=0.3), rate=0.01),
    "adam, decay, clipped": Steps(
        local=local(optimiser="adam", weight_decay=0.1, clip_norm=0.2, beta1=0.8, beta2=0.99, epsilon=1e-3), rate=0.02
    ),
    "adamw": Steps(local=local(optimiser="adamw"), rate=0.01),
    "adamw, decay": Steps(local=local(optimiser="adamw", weight_decay=0.5), rate=0.02),
    "adamw, decay, clipped": Steps(local=local(optimiser="adamw", weight_decay=0.5, clip_norm=0.1), rate=0.02),
    # ── losses ──
    "mse": Steps("mse"),
    "mae": Steps("mae"),
    "huber": Steps("huber"),
    "huber, delta": Steps("huber", loss=Loss(huber_delta=0.4)),
    "binary, one output": Steps("binary_cross_entropy", outputs=1),
    "binary, one output, positives weigh": Steps("binary_cross_entropy", loss=Loss(class_weights=(3.0,)), outputs=1),
    "binary, three outputs": Steps("binary_cross_entropy"),
    "binary, three outputs, positives weigh": Steps("binary_cross_entropy", loss=Loss(class_weights=(0.3,))),
    "cross-entropy, class weights": Steps(loss=Loss(class_weights=(0.5, 1.0, 3.0))),
    "cross-entropy, smoothed": Steps(loss=Loss(label_smoothing=0.2)),
    "cross-entropy, smoothed, class weights": Steps(loss=Loss(label_smoothing=0.2, class_weights=(0.5, 1.0, 3.0))),
    "reconstruction": Steps("reconstruction", outputs=FEATURES),
    # ── variants ──
    "proximal": Steps(variant="proximal", hyper={"proximal": 0.8}),
    "proximal, adam, clipped": Steps(
        variant="proximal", hyper={"proximal": 0.8}, local=local(optimiser="adam", clip_norm=0.5), rate=0.01
    ),
    "corrected": Steps(variant="corrected"),
    "corrected, momentum, clipped": Steps(variant="corrected", local=local(optimiser="momentum", clip_norm=0.3)),
    "alternating": Steps(
        variant="alternating", hyper={"shared_rate": 0.5, "personal_rate": 2.0}, personal=("w2", "b2")
    ),
    "alternating, momentum, decay, the head alone": Steps(
        variant="alternating",
        hyper={"shared_rate": 0.0},
        personal=("w2", "b2"),
        local=local(optimiser="momentum", weight_decay=0.1),
    ),
    "alternating, adam, the body alone": Steps(
        variant="alternating",
        hyper={"personal_rate": 0.0},
        personal=("w2", "b2"),
        local=local(optimiser="adam"),
        rate=0.01,
    ),
    "clipped examples": Steps(variant="clipped", hyper={"example_norm": 0.8}),
    "clipped examples, none over the bound": Steps(variant="clipped", hyper={"example_norm": 1e4}),
    "clipped examples with noise": Steps(variant="clipped", hyper={"example_norm": 0.8, "noise_multiplier": 0.7}),
    "clipped examples with noise, mse, adam, decay": Steps(
        "mse",
        variant="clipped",
        hyper={"example_norm": 0.5, "noise_multiplier": 0.3},
        local=local(optimiser="adam", weight_decay=0.1),
        rate=0.01,
    ),
}


def step_inputs(scenario: str) -> Arrays:
    """Parameters, examples, order, mask (the last batch of an epoch is ragged), rates, and what a variant takes."""
    steps, rng = SCENARIOS[scenario], np.random.default_rng(zlib.crc32(scenario.encode()))

    def normal(*shape: int, scale: float = 0.5) -> np.ndarray:
        return rng.normal(0, scale, shape).astype(np.float32)

    given = {
        "w1": normal(FEATURES, HIDDEN),
        "b1": normal(HIDDEN),
        "w2": normal(HIDDEN, steps.outputs),
        "b2": normal(steps.outputs),
        "x": normal(EXAMPLES, FEATURES, scale=1.0),
        "y": normal(EXAMPLES, steps.outputs, scale=1.0),
    }
    if steps.objective == "cross_entropy" or (steps.objective == "binary_cross_entropy" and steps.outputs == 1):
        given["y"] = rng.integers(0, max(2, steps.outputs), EXAMPLES)
    elif steps.objective == "binary_cross_entropy":
        given["y"] = rng.uniform(0, 1, (EXAMPLES, steps.outputs)).astype(np.float32).round()
    batches = -(-EXAMPLES // BATCH)
    order, mask = np.zeros((EPOCHS * batches, BATCH), np.int64), np.zeros((EPOCHS * batches, BATCH), np.float32)
    for epoch in range(EPOCHS):
        rows = rng.permutation(EXAMPLES)
        for batch in range(batches):
            own = rows[batch * BATCH : (batch + 1) * BATCH]
            order[epoch * batches + batch, : len(own)] = own
            mask[epoch * batches + batch, : len(own)] = 1.0
    given |= {"order": order, "mask": mask}
    given["learning_rate"] = (steps.rate * np.linspace(1.0, 0.5, len(order))).astype(np.float32)
    for name in NAMES:
        given[f"anchor_{name}"] = given[name] + normal(*given[name].shape, scale=0.2)
        given[f"correction_{name}"] = normal(*given[name].shape, scale=0.1)
        given[f"noise_{name}"] = normal(len(order), *given[name].shape, scale=1.0)
    return given


def network(given: Mapping[str, np.ndarray]) -> bytes:
    nodes = [
        node("Gemm", "x", "w1", "b1", out="s"),
        node("Tanh", "s", out="h"),
        node("Gemm", "h", "w2", "b2", out="y"),
    ]
    return forward(nodes, {name: given[name] for name in NAMES}, features=(FEATURES,), outputs=given["b2"].shape)


def compiled_steps(scenario: str) -> Compiled:
    steps = SCENARIOS[scenario]
    return compile_bundle(
        network(step_inputs(scenario)),
        objective=steps.objective,
        name="m",
        loss=steps.loss,
        local=steps.local,
        variant=steps.variant,
        personal=steps.personal,
    )


def graph_steps(scenario: str) -> Arrays:
    """The parameters after each step, `[steps, ...]`: the graph is given its own last parameters and slots."""
    made, given = compiled_steps(scenario), step_inputs(scenario)
    train = Runnable(made.bundle.graphs["train"])
    hyper = {**made.manifest.hyperparameters, **SCENARIOS[scenario].hyper}
    feed: dict[str, Any] = given | {f"hyper_{name}": np.array(value, np.float32) for name, value in hyper.items()}
    feed |= {f"slot_{slot.name}": np.zeros(slot.shape, np.float32) for slot in made.manifest.slots}
    by_step = ["order", "mask", "learning_rate", *(f"noise_{name}" for name in NAMES)]
    after: dict[str, list[np.ndarray]] = {name: [] for name in NAMES}
    for step in range(len(given["order"])):
        new = train.run(feed | {name: given[name][step : step + 1] for name in by_step})
        feed |= {name.removeprefix("new_"): value for name, value in new.items() if name.startswith("new_")}
        for name in NAMES:
            after[name].append(new[f"new_{name}"])
    return {name: np.stack(values) for name, values in after.items()}


# ── the record ──────────────────────────────────────────────────────────────────────────────────────────────────


def key(*parts: str) -> str:
    return " / ".join(parts)


def save(record: Mapping[str, np.ndarray]) -> None:
    """All numbers in one vector: an archive's entry for each would be larger than they are."""
    arrays = list(record.values())
    np.savez_compressed(
        RECORD,
        names=np.array("\n".join(record)),
        shapes=np.array("\n".join(" ".join(map(str, array.shape)) for array in arrays)),
        values=np.concatenate([array.astype(np.float32).ravel() for array in arrays]),
    )


@cache
def load() -> dict[str, np.ndarray]:
    stored = np.load(RECORD)
    record, start = {}, 0
    for name, text in zip(str(stored["names"]).split("\n"), str(stored["shapes"]).split("\n"), strict=True):
        shape = tuple(map(int, text.split()))
        size = int(np.prod(shape, dtype=int))
        record[name] = stored["values"][start : start + size].reshape(shape)
        start += size
    return record


def recorded(*parts: str) -> Arrays:
    """All that is below a key, by its last part."""
    stem = key(*parts) + " / "
    return {name.removeprefix(stem): value for name, value in load().items() if name.startswith(stem)}


def recorded_errors(name: str) -> tuple[float, float]:
    """The largest of a case over its objectives: against differences, against PyTorch."""
    found = [load()[key("errors", objective, name)] for case, objective in pairs() if case == name]
    return max(float(errors[0]) for errors in found), max(float(errors[1]) for errors in found)
