"""Law: a person reads whether, how and at what cost a model trains; a program reads the same as JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwater.schemas.manifest import Manifest, Parameter

if TYPE_CHECKING:
    from headwater.core.cost import Cost
    from headwater.core.graph import Compiled
    from headwater.core.graph.gate import Verification


def verdict(verification: "Verification") -> str:
    return (
        f"can be trained; {verification.checks} directions of its gradients agree with finite differences, "
        f"worst error {verification.worst:.0e}"
    )


def report(file: Path, compiled: "Compiled", verification: "Verification", price: "Cost") -> str:
    manifest = compiled.manifest
    sizes = _sizes(manifest)
    graphs = ", ".join(f"{name} {in_bytes(size)}" for name, size in price.graph_bytes.items())
    parts = ", ".join(f"{count} {what}" for what, count in sizes.items() if count and what != "all")
    lines = [
        f"{file}: {verdict(verification)}",
        f"  an example  x {list(manifest.x.shape)}, {_target(manifest)}",
        f"  parameters  {sizes['all']}: {parts}",
        f"  a step      {price.batch} examples: {_many(price.step_operations)} operations, about "
        f"{in_bytes(price.step_memory_bytes)} of memory",
        f"  a forecast  {_many(price.forward_operations)} operations for one example",
        f"  a round     {in_bytes(price.up_bytes)} up, {in_bytes(price.down_bytes)} down",
        f"  graphs      {graphs}; sent once a run",
        *(f"  note        {sentence}" for sentence in shared(compiled)),
        "",
        *_table(compiled, price),
    ]
    return "\n".join(lines)


def _table(compiled: "Compiled", price: "Cost") -> list[str]:
    """A row for each layer with parameters."""
    kinds = {p.name: (p.shape, _kind(p)) for p in compiled.manifest.parameters}
    rows = [("layer", "operator", "output", "parameter", "shape", "")]
    for layer in price.layers:
        head = (layer.name, layer.operator, str(list(layer.shape)))
        for name in layer.parameters:
            shape, kind = kinds[name]
            rows.append((*head, name, str(list(shape)), kind))
            head = ("", "", "")
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    return ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _kind(parameter: Parameter) -> str:
    if parameter.personal:
        return "personal"
    if parameter.state:
        return "running statistic"
    return "trains" if parameter.trainable else "frozen"


def _sizes(manifest: Manifest) -> dict[str, int]:
    """How many numbers are of which kind."""
    words = {"trains": "train", "running statistic": "running statistics", "frozen": "frozen", "personal": "personal"}
    sizes = {"all": 0} | dict.fromkeys(words.values(), 0)
    for parameter in manifest.parameters:
        for what in ("all", words[_kind(parameter)]):
            sizes[what] += prod(parameter.shape)
    return sizes


def _target(manifest: Manifest) -> str:
    if manifest.y is None:
        return f"{manifest.objective} of itself"
    if manifest.y.classes:
        return f"a label of {manifest.y.classes} classes ({manifest.objective})"
    return f"y {list(manifest.y.shape)} ({manifest.objective})"


def shared(compiled: "Compiled") -> list[str]:
    from headwater.models import shared_parameters

    return [
        f"parameter {name!r} is one for {', '.join(nodes)}; if it was not meant so, the exporter joined equal values"
        for name, nodes in shared_parameters(compiled.forward).items()
        if not name.startswith("normaliser.")
    ]


def told(compiled: "Compiled", verification: "Verification", price: "Cost") -> dict[str, Any]:
    manifest = compiled.manifest
    return {
        "trains": True,
        "gradients": asdict(verification),
        "x": list(manifest.x.shape),
        "y": manifest.y.model_dump() if manifest.y else None,
        "objective": manifest.objective,
        "parameters": _sizes(manifest),
        "shared": shared(compiled),
    } | _plain(asdict(price))


def _plain(told: Mapping[str, Any]) -> dict[str, Any]:
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in told.items()}


def run_toml(name: str, data: str, rounds: int, objective: str, path: str, manifest: Manifest) -> str:
    """A run's description with a word on what the devices' data must be."""
    classes = f"classes = {manifest.y.classes}\n" if manifest.y and manifest.y.classes else ""
    return (
        f"# Each device's examples: x float32 {list(manifest.x.shape)}, {_target(manifest)}.\n"
        f"name = {json.dumps(name)}\ndata = {json.dumps(data)}\nrounds = {rounds}\n"
        f"objective = {json.dumps(objective)}\n\n"
        f'[model]\nkind = "onnx"\npath = {json.dumps(path)}\n{classes}\n'
        "[local]\nepochs = 1\nbatch_size = 32\nlearning_rate = 0.1\n\n[cohort]\nquorum = 0.5\ndeadline_s = 60.0\n"
    )


def in_bytes(size: int) -> str:
    return f"{size} B" if size < 1000 else f"{size / 1000:.1f} kB" if size < 10**6 else f"{size / 1e6:.1f} MB"


def _many(count: int) -> str:
    return (
        f"{count}" if count < 10**5 else f"{count / 1e6:.2f} million" if count < 10**9 else f"{count / 1e9:.2f} billion"
    )
