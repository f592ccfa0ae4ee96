"""What PyTorch makes of the points: gradients by autograd, steps by torch.optim, examples one by one by torch.func."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import points
import torch
from cases import CASES
from points import NAMES, Arrays, Steps
from torch import Tensor
from torch.nn import functional
from torch_model import Run, TorchModel, tensor_of

from headwater.core.graph import Compiled
from headwater.schemas.manifest import Objective
from headwater.schemas.run import LocalTraining


def gradients_of(payload: bytes, made: Compiled, at: points.Point, objective: Objective) -> Arrays:
    """By parameter, and the moved statistics by theirs; only the rows that count are seen."""
    kept = np.flatnonzero(at.mask)
    still = frozenset(p.name for p in made.manifest.parameters if not p.moves)
    run = Run(
        still=still,
        masks={name: tensor_of(m)[kept] for name, m in points.drawn_masks(made, points.feed_of(at)).items()},
    )
    parameters = {
        p.name: tensor_of(at.parameters[p.name]).requires_grad_(p.trainable) for p in made.manifest.parameters
    }
    prediction = TorchModel(payload)(parameters, tensor_of(at.x)[kept], run)
    y = tensor_of(at.y)[kept]
    (functional.mse_loss(prediction, y) if objective == "mse" else functional.cross_entropy(prediction, y)).backward()
    found = {p.name: parameters[p.name].grad for p in made.manifest.trainable}
    values = {name: grad.numpy() for name, grad in found.items() if grad is not None}
    return values | {f"new_{name}": value.numpy() for name, value in run.moved.items()}


def gradients(name: str, objective: Objective) -> Arrays:
    at = points.point(name, objective)
    return gradients_of(CASES[name].model(), points.compiled(name, objective), at, objective)


# ── steps ───────────────────────────────────────────────────────────────────────────────────────────────────────


def steps(scenario: str) -> Arrays:
    """The parameters after each step, `[steps, ...]`."""
    given, what = points.step_inputs(scenario), points.SCENARIOS[scenario]
    parameters = {name: tensor_of(given[name]).requires_grad_() for name in NAMES}
    anchors = {name: tensor_of(given[f"anchor_{name}"]) for name in NAMES}
    rates = {n: what.hyper.get("personal_rate" if n in what.personal else "shared_rate", 1.0) for n in NAMES}
    optimiser = _optimiser([{"params": [parameters[n]], "rate": rates[n]} for n in NAMES], what.local)
    loss, x, y = (
        _loss(what),
        tensor_of(given["x"]),
        tensor_of(given["x" if what.objective == "reconstruction" else "y"]),
    )
    after: dict[str, list[np.ndarray]] = {name: [] for name in NAMES}
    for step, (order, mask) in enumerate(zip(given["order"], given["mask"], strict=True)):
        rows = order[mask > 0]
        for group in optimiser.param_groups:
            group["lr"] = float(given["learning_rate"][step]) * group["rate"]
        optimiser.zero_grad()
        if what.variant == "clipped":
            _clip_examples(parameters, loss, x[rows], y[rows], what, {n: given[f"noise_{n}"][step] for n in NAMES})
        else:
            total = loss(_predicted(parameters, x[rows]), y[rows])
            if what.variant == "proximal":
                distance = sum(((parameters[name] - anchors[name]) ** 2).sum() for name in NAMES)
                total = total + what.hyper["proximal"] / 2 * distance
            total.backward()
        if what.local.clip_norm:
            torch.nn.utils.clip_grad_norm_(parameters.values(), what.local.clip_norm)
        if what.variant == "corrected":
            for name, parameter in parameters.items():
                parameter.grad += tensor_of(given[f"correction_{name}"])
        optimiser.step()
        for name, parameter in parameters.items():
            after[name].append(parameter.detach().numpy().copy())
    return {name: np.stack(values) for name, values in after.items()}


def _predicted(parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
    return torch.tanh(x @ parameters["w1"] + parameters["b1"]) @ parameters["w2"] + parameters["b2"]


def _optimiser(parameters: list[dict[str, Any]], local: LocalTraining) -> torch.optim.Optimizer:
    decay, betas = local.weight_decay, (local.beta1, local.beta2)
    if local.optimiser == "adam":
        return torch.optim.Adam(parameters, betas=betas, eps=local.epsilon, weight_decay=decay)
    if local.optimiser == "adamw":
        return torch.optim.AdamW(parameters, betas=betas, eps=local.epsilon, weight_decay=decay)
    momentum = 0.0 if local.optimiser == "sgd" else local.momentum
    return torch.optim.SGD(
        parameters, lr=1.0, momentum=momentum, nesterov=local.optimiser == "nesterov", weight_decay=decay
    )


def _loss(what: Steps) -> Callable[[Tensor, Tensor], Tensor]:
    weights = torch.tensor(what.loss.class_weights, dtype=torch.float64) if what.loss.class_weights else None
    if what.objective == "cross_entropy":
        return torch.nn.CrossEntropyLoss(weight=weights, label_smoothing=what.loss.label_smoothing)
    if what.objective == "binary_cross_entropy":
        module = torch.nn.BCEWithLogitsLoss(pos_weight=weights)
        return lambda prediction, y: module(prediction, y.to(torch.float64).reshape(prediction.shape))
    return {
        "mse": torch.nn.MSELoss(),
        "reconstruction": torch.nn.MSELoss(),
        "mae": torch.nn.L1Loss(),
        "huber": torch.nn.HuberLoss(delta=what.loss.huber_delta),
    }[what.objective]


def _clip_examples(
    parameters: Mapping[str, Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    what: Steps,
    noise: Mapping[str, np.ndarray],
) -> None:
    """Abadi et al. 2016, algorithm 1, on the gradients that torch.func gives for each example."""

    def one(values: Mapping[str, Tensor], row: Tensor, target: Tensor) -> Tensor:
        return loss(_predicted(values, row[None]), target[None])

    values = {name: parameter.detach() for name, parameter in parameters.items()}
    each = torch.func.vmap(torch.func.grad(one), in_dims=(None, 0, 0))(values, x, y)
    bound, spread = what.hyper["example_norm"], what.hyper.get("noise_multiplier", 0.0)
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in each.values()]).norm(dim=0)
    factors = torch.clamp(bound / norms, max=1.0)
    for name, parameter in parameters.items():
        total = torch.einsum("b,b...->...", factors, each[name]) + spread * bound * tensor_of(noise[name])
        parameter.grad = total / len(x)
