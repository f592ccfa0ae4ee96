"""Law: attention is products, a softmax and reshapes, nothing that only one library knows."""

import math

import numpy as np

from headwater.core.models.builder import Builder


def transformer(
    features: int,
    time: int,
    classes: int,
    width: int,
    heads: int,
    blocks: int,
    hidden: int,
    *,
    rng: np.random.Generator,
    activation: str = "gelu",
    dropout: float = 0.0,
    normalise: bool = False,
) -> bytes:
    """A transformer's encoder (Vaswani et al. 2017): x `[batch, time, features]`, its mean into a dense layer.

    Places in time are learned, normal with deviation 0.02 (Devlin et al. 2019); norms stand before each part, so that
    it learns without warm-up (Xiong et al. 2020). Weights are Glorot's.
    """
    build = Builder("transformer", [time, features], rng, normalise=normalise)
    places = build.weight("position.weight", rng.normal(0.0, 0.02, (time, width)))
    value = build.node("Add", build.linear(build.first, features, width, name="embed"), places, name="placed")
    value = build.dropout(value, dropout, name="placed.dropout")
    for block in range(1, blocks + 1):
        name = f"block{block}"
        seen = _attention(
            build, build.layer_norm(value, width, name=f"{name}.norm1"), time, width, heads, name, dropout
        )
        value = build.node("Add", value, seen, name=f"{name}.attended")
        inner = build.layer_norm(value, width, name=f"{name}.norm2")
        inner = _activated(
            build, build.linear(inner, width, hidden, name=f"{name}.expand"), f"{name}.expand", activation
        )
        inner = build.linear(
            build.dropout(inner, dropout, name=f"{name}.expand.dropout"), hidden, width, name=f"{name}.contract"
        )
        value = build.node("Add", value, build.dropout(inner, dropout, name=f"{name}.dropout"), name=f"{name}.end")
    value = build.layer_norm(value, width, name="norm")
    mean = build.node("ReduceMean", value, build.number("time_axis", [1]), name="mean", keepdims=0)
    return build.finished(build.dense(mean, width, classes, name="head"), [classes])


def _attention(build: Builder, value: str, time: int, width: int, heads: int, name: str, dropout: float) -> str:
    """softmax(Q·Kᵀ/√d)·V for each head, side by side, and a last product."""
    each = width // heads
    sizes = build.number(f"{name}.heads", [0, time, heads, each])
    parts = []
    for part, order in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])):
        rows = build.linear(value, width, width, name=f"{name}.{part}")
        split = build.node("Reshape", rows, sizes, name=f"{name}.{part}.split")
        parts.append(build.node("Transpose", split, name=f"{name}.{part}.turned", perm=order))
    query, key, values = parts
    scores = build.node("MatMul", query, key, name=f"{name}.scores")
    scaled = build.node("Mul", scores, build.number(f"{name}.scale", 1.0 / math.sqrt(each)), name=f"{name}.scaled")
    weights = build.node("Softmax", scaled, name=f"{name}.softmax", axis=-1)
    weights = build.dropout(weights, dropout, name=f"{name}.softmax.dropout")
    turned = build.node(
        "Transpose",
        build.node("MatMul", weights, values, name=f"{name}.seen"),
        name=f"{name}.turned",
        perm=[0, 2, 1, 3],
    )
    joined = build.node("Reshape", turned, build.number(f"{name}.width", [0, time, width]), name=f"{name}.joined")
    out = build.linear(joined, width, width, name=f"{name}.project")
    return build.dropout(out, dropout, name=f"{name}.project.dropout")


def _activated(build: Builder, value: str, name: str, activation: str) -> str:
    """ReLU, or Hendrycks & Gimpel 2016: x·Φ(x), said with Erf, for opset 18 has no Gelu."""
    if activation == "relu":
        return build.node("Relu", value, name=f"{name}.relu")
    root = build.number(f"{name}.root", math.sqrt(2.0))
    bell = build.node("Erf", build.node("Div", value, root, name=f"{name}.shrunk"), name=f"{name}.erf")
    raised = build.node("Add", bell, build.number(f"{name}.one", 1.0), name=f"{name}.raised")
    half = build.node("Mul", raised, build.number(f"{name}.half", 0.5), name=f"{name}.halved")
    return build.node("Mul", value, half, name=f"{name}.gelu")
