"""Records what PyTorch makes of a few steps, for those who have no PyTorch.

python tests/core/oracle/record.py        writes steps.npz beside it; needs the extra `oracle`
"""

from pathlib import Path

import numpy as np

RECORD = Path(__file__).parent / "steps.npz"
CASES = [
    (objective, activation) for objective in ("cross_entropy", "mse") for activation in ("relu", "tanh", "sigmoid")
]
WIDTHS, EXAMPLES, BATCH, EPOCHS, RATE = (6, 5, 3), 10, 4, 2, 0.1


def inputs(objective: str, activation: str) -> dict[str, np.ndarray]:
    """Parameters, examples and order of a case; the last batch of each epoch is ragged."""
    rng = np.random.default_rng(CASES.index((objective, activation)))
    order = np.concatenate([rng.permutation(EXAMPLES) for _ in range(EPOCHS)])
    y = rng.integers(0, 3, EXAMPLES) if objective == "cross_entropy" else rng.normal(0, 1, (EXAMPLES, 3))
    return {
        "w1": rng.normal(0, 0.5, WIDTHS[:2]).astype(np.float32),
        "b1": rng.normal(0, 0.5, WIDTHS[1]).astype(np.float32),
        "w2": rng.normal(0, 0.5, WIDTHS[1:]).astype(np.float32),
        "b2": rng.normal(0, 0.5, WIDTHS[2]).astype(np.float32),
        "x": rng.normal(0, 1, (EXAMPLES, WIDTHS[0])).astype(np.float32),
        "y": y if objective == "cross_entropy" else y.astype(np.float32),
        "order": order,
    }


def torch_steps(objective: str, activation: str) -> dict[str, np.ndarray]:
    """The parameters after each step of plain SGD, [steps, ...] each."""
    import torch

    given = inputs(objective, activation)
    parameters = [torch.tensor(given[name], requires_grad=True) for name in ("w1", "b1", "w2", "b2")]
    loss_of = torch.nn.CrossEntropyLoss() if objective == "cross_entropy" else torch.nn.MSELoss()
    optimiser = torch.optim.SGD(parameters, lr=RATE)
    x, y = torch.tensor(given["x"]), torch.tensor(given["y"])
    after: dict[str, list[np.ndarray]] = {name: [] for name in ("w1", "b1", "w2", "b2")}
    for epoch in given["order"].reshape(EPOCHS, EXAMPLES):
        for start in range(0, EXAMPLES, BATCH):
            rows = epoch[start : start + BATCH]
            w1, b1, w2, b2 = parameters
            hidden = getattr(torch, activation)(x[rows] @ w1 + b1)
            optimiser.zero_grad()
            loss_of(hidden @ w2 + b2, y[rows]).backward()
            optimiser.step()
            for name, value in zip(after, parameters, strict=True):
                after[name].append(value.detach().numpy().copy())
    return {name: np.stack(values) for name, values in after.items()}


def main() -> None:
    record = {
        f"{objective}.{activation}.{name}": values
        for objective, activation in CASES
        for name, values in torch_steps(objective, activation).items()
    }
    np.savez_compressed(RECORD, **record)


if __name__ == "__main__":
    main()
