"""Law: a step gathers its rows, runs forward, asks the loss for a gradient, walks back, and updates; filler is nothing.

Variants differ in one place each: proximal adds μ·(w − anchor) to a gradient (Li et al. 2020, FedProx), corrected adds
a control variate (Karimireddy et al. 2020, SCAFFOLD), clipped bounds each example's gradient and adds noise (Abadi et
al. 2016, algorithm 1), alternating has a rate for shared and one for personal parameters (Collins et al. 2021, FedRep).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import onnx
from onnx import helper

from headwater.core.graph.differentiate import gradients, run_forward
from headwater.core.graph.forward import Forward
from headwater.core.graph.objective import Objective
from headwater.core.graph.tape import FLOAT, INT64, Tape, Training, needed, value_info
from headwater.core.graph.update import RATE, RULES, clipped, decayed, hyper, norm, rate_of
from headwater.schemas.manifest import Manifest, Parameter, Variant
from headwater.schemas.run import LocalTraining, Loss

_NOTHING: Final = 1e-30
"""Less than any example's weight."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a train graph is made from. `prediction` is the value that the loss looks at."""

    model: Forward
    row: Objective
    prediction: str
    loss: Loss
    local: LocalTraining
    variant: Variant

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """Those that the prediction needs."""
        return needed(self.model.nodes, [self.prediction])

    @property
    def descends_plainly(self) -> bool:
        """Whether a step is w − η·g and nothing else: then η goes into the loss's gradient, a small value, and not into
        every parameter's."""
        local = self.local
        return self.variant == "plain" and local.optimiser == "sgd" and not (local.weight_decay or local.clip_norm)

    def names(self, moving: Sequence[str] = ()) -> dict[str, str]:
        """Forward values as they are called in a graph, clear of its own names; `moving` parameters change in it."""
        names = {name: f"f_{name}" for node in self.model.nodes for name in node.output if name}
        names |= {name: f"c_{name}" for name in self.model.constants}
        return names | {name: f"w_{name}" for name in moving}

    def tape(self, prefix: str, names: Mapping[str, str], training: Training | None) -> Tape:
        shapes = {names.get(name, name): shape for name, shape in self.model.shapes.items()}
        known = {names.get(name, name): value for name, value in self.model.constants.items()}
        return Tape(prefix, shapes, training, known)


@dataclass(frozen=True, slots=True)
class Step:
    """The body of the scan over steps, its nodes, and the constants that it takes from outside."""

    body: onnx.GraphProto
    nodes: Sequence[onnx.NodeProto]
    constants: dict[str, onnx.TensorProto]


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a look at some examples gives, as names: a mean gradient by parameter, sums, and moved statistics."""

    gradients: dict[str, str]
    sums: list[str]
    moved: dict[str, str]


def renamed(nodes: Sequence[onnx.NodeProto], names: Mapping[str, str]) -> list[onnx.NodeProto]:
    copies = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [names.get(name, name) for name in node.input]
        copy.output[:] = [names.get(name, name) for name in node.output]
        copies.append(copy)
    return copies


# ── the scan's body ─────────────────────────────────────────────────────────────────────────────────────────────


def step_body(recipe: Recipe, manifest: Manifest) -> Step:
    """One step; parameters, slots and the measures' sums are carried along."""
    moving = [parameter.name for parameter in manifest.moving]
    names = recipe.names(moving)
    tape = Tape("step_", {})
    active = _active(tape, "keep")
    training = Training("keep", active, "seed" if manifest.random else None, still=_still(manifest))
    if recipe.variant == "clipped":
        seen, nodes = _each_example(recipe, manifest, names, tape, training)
    else:
        own = recipe.tape("step_on_", names, training)
        seen = _look(recipe, manifest, names, own, "rows", "keep")
        tape.nodes += own.nodes
        tape.constants |= own.constants
        nodes = own.nodes
    carried, new = _carried(recipe, manifest, tape, seen, active)
    sums = [tape.emit("Add", f"sum_{metric}", value) for metric, value in zip(manifest.metrics, seen.sums, strict=True)]
    inputs = [
        *(helper.make_tensor_value_info(f"w_{p.name}", FLOAT, p.shape) for p in manifest.moving),
        *(helper.make_tensor_value_info(f"now_{s.name}", FLOAT, s.shape) for s in manifest.slots),
        *(helper.make_tensor_value_info(f"sum_{metric}", FLOAT, []) for metric in manifest.metrics),
        helper.make_tensor_value_info("rows", INT64, ["batch"]),
        helper.make_tensor_value_info("keep", FLOAT, ["batch"]),
        helper.make_tensor_value_info("rate", FLOAT, []),
        *([helper.make_tensor_value_info("seed", INT64, [])] if manifest.random else []),
        *(
            helper.make_tensor_value_info(f"drawn_{p.name}", FLOAT, p.shape)
            for p in manifest.trainable
            if recipe.variant == "clipped"
        ),
    ]
    outputs = [
        *(helper.make_tensor_value_info(n, FLOAT, p.shape) for n, p in zip(new, manifest.moving, strict=True)),
        *(helper.make_tensor_value_info(n, FLOAT, s.shape) for n, s in zip(carried, manifest.slots, strict=True)),
        *(value_info(name, 0) for name in sums),
    ]
    # The rules also give gradients that nobody asked for, above all that of x.
    kept_nodes = needed(tape.nodes, [value.name for value in outputs])
    return Step(helper.make_graph(kept_nodes, "step", inputs, outputs), nodes, tape.constants)


def _still(manifest: Manifest) -> frozenset[str]:
    return frozenset(parameter.name for parameter in manifest.parameters if not parameter.moves)


def _active(tape: Tape, keep: str) -> str:
    """1 where an example counts, 0 where all is filler."""
    return tape.as_float(tape.emit("Greater", tape.emit("ReduceSum", keep, keepdims=0), tape.constant(0.0)))


def _carried(recipe: Recipe, manifest: Manifest, tape: Tape, seen: _Seen, active: str) -> tuple[list[str], list[str]]:
    """The new slots and the new parameters, each in the manifest's order."""
    rule = RULES[recipe.local.optimiser]
    grads = _adjusted(recipe, tape, seen.gradients, active)
    new = dict(seen.moved)
    if rule.counts:
        new["now_steps"] = tape.emit("Add", "now_steps", active)
    for parameter in manifest.trainable:
        gradient = grads.get(parameter.name)
        # A parameter that the loss does not see stays, and its slots with it.
        if gradient is not None:
            new |= _updated(recipe, tape, parameter, gradient, new.get("now_steps"), active)
    held = [f"now_{slot.name}" for slot in manifest.slots], [f"w_{p.name}" for p in manifest.moving]
    slots, parameters = ([_output(tape, new.get(name, name)) for name in names] for names in held)
    return slots, parameters


def _updated(
    recipe: Recipe, tape: Tape, parameter: Parameter, gradient: str, steps: str | None, active: str
) -> dict[str, str]:
    """The parameter's new value and its slots', by the names of the old ones."""
    rule, weight = RULES[recipe.local.optimiser], f"w_{parameter.name}"
    if recipe.descends_plainly:
        return {weight: tape.emit("Sub", weight, gradient)}
    own = {slot: f"now_{slot}_{parameter.name}" for slot in rule.slots}
    # onnxruntime takes eight times as long for a scalar times [64, 64, 1, 1] as for one times [4096].
    flat = len(parameter.shape) > 1 and parameter.shape[-1] == 1
    taken = (weight, gradient, *own.values())
    shown = {name: tape.emit("Reshape", name, tape.axes([-1])) if flat else name for name in taken}
    # A count of 0 would divide by nothing in a step of filler.
    count = {"steps": tape.emit("Max", steps, tape.constant(1.0))} if steps else {}
    before, step = decayed(tape, recipe.local, shown[weight], shown[gradient], active)
    moved, found = rule.graph(tape, before, step, {slot: shown[name] for slot, name in own.items()} | count, active)
    if recipe.variant == "alternating":
        moved = _part_way(tape, shown[weight], moved, hyper(rate_of(parameter)))
    results = {weight: moved} | {own[slot]: name for slot, name in found.items()}
    shape = tape.axes(parameter.shape) if flat else ""
    return {key: tape.emit("Reshape", name, shape) if flat else name for key, name in results.items()}


def _part_way(tape: Tape, old: str, new: str, share: str) -> str:
    """old + share·(new − old): where the share is 0, old to the bit."""
    return tape.emit("Add", old, tape.emit("Mul", tape.emit("Sub", new, old), share))


def _output(tape: Tape, name: str) -> str:
    """A body's output may not be its own input."""
    return tape.emit("Identity", name) if name.startswith(("w_", "now_")) else name


def _adjusted(recipe: Recipe, tape: Tape, grads: dict[str, str], active: str) -> dict[str, str]:
    """The gradients after what the variant and clipping make of them; what is added is nothing in a step of filler."""
    if recipe.variant == "proximal":
        pull = tape.emit("Mul", hyper("proximal"), active)
        grads = {
            name: tape.emit("Add", g, tape.emit("Mul", tape.emit("Sub", f"w_{name}", f"anchor_{name}"), pull))
            for name, g in grads.items()
        }
    if recipe.local.clip_norm and grads:
        grads = clipped(tape, grads, hyper("clip_norm"))
    if recipe.variant == "corrected":
        grads = {name: tape.emit("Add", g, tape.emit("Mul", f"correction_{name}", active)) for name, g in grads.items()}
    return grads


# ── a look at some examples ─────────────────────────────────────────────────────────────────────────────────────


def _look(recipe: Recipe, manifest: Manifest, names: Mapping[str, str], tape: Tape, rows: str, keep: str) -> _Seen:
    """Forward and backward over the rows: gradients of the weighted mean loss, times the learning rate where a step is
    plain descent; and sums of the measures."""
    names = {**names, recipe.model.x: "f_x"}
    tape.shapes["f_x"] = recipe.model.shapes[recipe.model.x]
    tape.emit("Gather", "x", rows, name="f_x", axis=0)
    target = tape.emit("Gather", "y", rows, axis=0) if manifest.y is not None else "f_x"
    nodes = renamed(recipe.nodes, names)
    run_forward(tape, nodes)
    output = names.get(recipe.prediction, recipe.prediction)
    share = tape.emit("Div", keep, _divisor(recipe, tape, target, keep))
    if recipe.descends_plainly:
        share = tape.emit("Mul", share, RATE)
    seed = recipe.row.gradient(tape, output, target, share, recipe.loss)
    trainable = {names.get(p.name, p.name): p.name for p in manifest.trainable}
    found = gradients(tape, nodes, {output: seed}, set(trainable))
    return _Seen(
        {trainable[name]: gradient for name, gradient in found.items()},
        _sums(recipe, tape, output, target, keep),
        dict(tape.moved),
    )


def _divisor(recipe: Recipe, tape: Tape, target: str, keep: str) -> str:
    """Σ of the weights that a mean divides by; never 0, where all is filler and nothing over nothing is 0."""
    total = tape.emit("ReduceSum", recipe.row.norm(tape, target, keep, recipe.loss), keepdims=0)
    return tape.emit("Max", total, tape.constant(_NOTHING))


def _sums(recipe: Recipe, tape: Tape, output: str, target: str, keep: str) -> list[str]:
    return [tape.emit("MatMul", value, keep) for value in recipe.row.values(tape, output, target, recipe.loss)]


# ── example by example ──────────────────────────────────────────────────────────────────────────────────────────


def _each_example(
    recipe: Recipe, manifest: Manifest, names: Mapping[str, str], outer: Tape, training: Training
) -> tuple[_Seen, Sequence[onnx.NodeProto]]:
    """A scan over the examples of a step, each gradient clipped to `example_norm` before it is added; then noise.

    The sum is divided by the examples that count. Noise of deviation noise_multiplier·example_norm is in the sum.
    """
    tape = recipe.tape("each_", names, None)
    row = tape.emit("Unsqueeze", "row", tape.axes([0]))
    keep = tape.emit("Unsqueeze", "row_keep", tape.axes([0]))
    seed = tape.emit("Add", tape.emit("Mul", "seed", tape.constant(65_537, int)), "row") if training.seed else None
    tape.training = Training(keep, training.active, seed, still=training.still)
    seen = _look(recipe, manifest, names, tape, row, keep)
    bound = tape.emit("Div", hyper("example_norm"), tape.emit("Max", norm(tape, seen.gradients), tape.constant(1e-12)))
    counts = tape.as_float(tape.emit("Greater", "row_keep", tape.constant(0.0)))
    factor = tape.emit("Mul", tape.emit("Min", bound, tape.constant(1.0)), counts)
    order = list(seen.gradients)
    ends = [tape.emit("Add", f"add_{name}", tape.emit("Mul", seen.gradients[name], factor)) for name in order]
    measures = [f"add_sum_{place}" for place in range(len(seen.sums))]
    ends += [tape.emit("Add", name, value) for name, value in zip(measures, seen.sums, strict=True)]
    ranks = [len(p.shape) for name in order for p in manifest.trainable if p.name == name]
    ranks += [0] * len(manifest.metrics)
    starts = [outer.emit("Mul", f"w_{name}", outer.constant(0.0)) for name in order]
    starts += [outer.constant(0.0)] * len(manifest.metrics)
    adding = [*(f"add_{name}" for name in order), *measures]
    body = helper.make_graph(
        needed(tape.nodes, ends),
        "each",
        [
            *(value_info(name, rank) for name, rank in zip(adding, ranks, strict=True)),
            value_info("row", 0, INT64),
            value_info("row_keep", 0),
        ],
        [value_info(name, rank) for name, rank in zip(ends, ranks, strict=True)],
    )
    outer.constants |= tape.constants
    results = outer.emit_many("Scan", *starts, "rows", "keep", outputs=len(ends), body=body, num_scan_inputs=2)
    present = outer.as_float(outer.emit("Greater", "keep", outer.constant(0.0)))
    count = outer.emit("Max", outer.emit("ReduceSum", present, keepdims=0), outer.constant(1.0))
    deviation = outer.emit("Mul", hyper("noise_multiplier"), hyper("example_norm"))
    spread = outer.emit("Mul", deviation, training.active)
    noisy = {
        name: outer.emit("Add", total, outer.emit("Mul", f"drawn_{name}", spread))
        for name, total in zip(order, results, strict=False)
    }
    mean = {name: outer.emit("Div", total, count) for name, total in noisy.items()}
    return _Seen(mean, list(results[len(order) :]), {}), tape.nodes


# ── graphs without steps ────────────────────────────────────────────────────────────────────────────────────────


def measured(recipe: Recipe, manifest: Manifest) -> Tape:
    """The measures over all of x and y, named as the manifest does."""
    names = recipe.names() | {recipe.model.x: "x"}
    tape = recipe.tape("eval_", names, None)
    run_forward(tape, renamed(recipe.nodes, names))
    target = "y" if manifest.y is not None else "x"
    output = names.get(recipe.prediction, recipe.prediction)
    sums = _sums(recipe, tape, output, target, "mask") + list(recipe.row.counts(tape, output, target, "mask"))
    for name, value in zip([*manifest.metrics, *(t.name for t in manifest.tallies)], sums, strict=True):
        tape.emit("Identity", value, name=name)
    return tape


def probe(recipe: Recipe, manifest: Manifest, *, gradient: bool) -> tuple[Tape, list[str]]:
    """A step's loss over all of x and y in training mode, or its gradients and moved statistics; with output names."""
    names = recipe.names() | {recipe.model.x: "x"}
    tape = recipe.tape("probe_", names, None)
    active = _active(tape, "mask")
    seed = "seeds" if manifest.random else None
    tape.training = Training("mask", active, seed, walked=gradient, still=_still(manifest))
    nodes = renamed(recipe.nodes, names)
    run_forward(tape, nodes)
    output, target = names.get(recipe.prediction, recipe.prediction), "y" if manifest.y is not None else "x"
    divisor = _divisor(recipe, tape, target, "mask")
    if not gradient:
        total = _sums(recipe, tape, output, target, "mask")[0]
        tape.emit("Div", total, divisor, name="probe_loss")
        return tape, ["probe_loss"]
    seed = recipe.row.gradient(tape, output, target, tape.emit("Div", "mask", divisor), recipe.loss)
    found = gradients(tape, nodes, {output: seed}, {p.name for p in manifest.trainable})
    for name, value in found.items():
        tape.emit("Identity", value, name=f"gradient_{name}")
    for name, value in tape.moved.items():
        tape.emit("Identity", value, name=f"new_{name}")
    return tape, [*(f"gradient_{name}" for name in found), *(f"new_{name}" for name in tape.moved)]
