"""Law: a drawing shows what an example goes through: each layer with its shape and its parameters, and nothing twice.

Text for a terminal; Mermaid, which many viewers of Markdown draw; DOT, which Graphviz draws.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Final

from headwater.core.cost import Layer, layers_of
from headwater.core.graph.forward import Forward


def as_text(forward: Forward) -> str:
    """A line for each layer, from the top; a layer that takes from further up says from where."""
    layers = layers_of(forward)
    rows = [("x", "", shape_of(forward.shapes[forward.x][1:]), "", "")]
    above = ""
    for layer in layers:
        far = [name for name in layer.inputs if name != above]
        taken = f"{'and ' if above in layer.inputs else ''}from {', '.join(far)}" if far else ""
        rows.append((layer.name, layer.operator, shape_of(layer.shape), _parameters(forward, layer), taken))
        above = layer.name
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*cells, row[4]]).rstrip())
    return "\n".join(lines)


def as_mermaid(forward: Forward) -> str:
    lines = ["flowchart TD", f'  n0(["x {shape_of(forward.shapes[forward.x][1:])}"])']
    lines += [f'  {name}["{_plain("<br/>".join(label))}"]' for name, label in _labelled(forward).items()]
    lines += [f"  {before} --> {after}" for before, after in _arrows(forward)]
    return "\n".join(lines) + "\n"


def as_dot(forward: Forward) -> str:
    lines = ["digraph model {", '  node [shape=box, style=rounded, fontname="sans-serif", fontsize=11];']
    lines.append(f'  n0 [label="x {shape_of(forward.shapes[forward.x][1:])}", shape=oval];')
    lines += [f'  {name} [label="{_plain(chr(92) + "n").join(label)}"];' for name, label in _labelled(forward).items()]
    lines += [f"  {before} -> {after};" for before, after in _arrows(forward)]
    return "\n".join([*lines, "}"]) + "\n"


FORMS: Final[Mapping[str, Callable[[Forward], str]]] = {".txt": as_text, ".mmd": as_mermaid, ".dot": as_dot}
"""By a file's ending."""


def shape_of(shape: Sequence[int | None]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _labelled(forward: Forward) -> dict[str, list[str]]:
    """What stands in each layer's box, by its short name."""
    labels = {}
    for place, layer in enumerate(layers_of(forward), 1):
        parameters = _parameters(forward, layer)
        label = [layer.name, f"{layer.operator} {shape_of(layer.shape)}", *([parameters] if parameters else [])]
        labels[f"n{place}"] = [_plain(line) for line in label]
    return labels


def _arrows(forward: Forward) -> list[tuple[str, str]]:
    layers = layers_of(forward)
    places = {layer.name: f"n{place}" for place, layer in enumerate(layers, 1)}
    return [
        (places.get(name, "n0"), places[layer.name]) for layer in layers for name in (*layer.inputs, *_from_x(layer))
    ]


def _from_x(layer: Layer) -> tuple[str, ...]:
    """x is no layer: who has none before it takes x."""
    return () if layer.inputs else ("x",)


def _parameters(forward: Forward, layer: Layer) -> str:
    shapes = {parameter.name: parameter.shape for parameter in forward.parameters}
    if not layer.parameters:
        return ""
    each = [f"{name.rpartition('.')[2]} {shape_of(shapes[name])}" for name in layer.parameters]
    return f"{', '.join(each)} = {sum(prod(shapes[name]) for name in layer.parameters)}"


def _plain(text: str) -> str:
    return text.replace('"', "'")
