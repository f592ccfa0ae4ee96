"""Law: what a run is compared with is trained by the same graphs and the same trainer, in this process, without a wire.

One device alone is an average of one; all data in one place are one device that has them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from headwater.cloud.preparation import compiled_for, forward_model
from headwater.core.aggregate import WeightedSum, difference, shared, stepped, weighted
from headwater.core.normalise import normalised
from headwater.core.schedule import learning_rate
from headwater.device.runtime.steps import Course
from headwater.device.runtime.trainer import Trainer, statistics
from headwater.device.sources.dataset import Dataset
from headwater.schemas.messages import RoundKey
from headwater.schemas.run import RunDescription
from headwater.schemas.tensors import Array

LIMIT_S: Final = 600.0
Parameters = tuple[Array, ...]


def trainer_of(description: RunDescription) -> tuple[Trainer, Parameters]:
    """The graphs of a run, and the parameters that it begins with."""
    compiled = compiled_for(description, forward_model(description, None))
    return Trainer(compiled.bundle), compiled.initial


def averaged(
    trainer: Trainer,
    initial: Parameters,
    description: RunDescription,
    devices: Mapping[str, Dataset],
    *,
    look: Callable[[int, Parameters], None] = lambda number, parameters: None,
    halted: Callable[[], bool] = lambda: False,
) -> Parameters:
    """FedAvg (McMahan et al. 2017, algorithm 1) over all of the devices in each round: the description's rounds, edge
    rounds as further epochs. `look` is shown the model after each round."""
    model = _normalised(trainer, initial, list(devices.values()))
    for number in range(1, description.rounds + 1):
        if halted():
            break
        terms = WeightedSum([value.shape for value in shared(trainer.manifest, model)])
        for node, data in devices.items():
            trained = trainer.train(
                model, data, course=_course(description, number, node), time_limit_s=LIMIT_S
            ).parameters
            delta = difference(shared(trainer.manifest, trained), shared(trainer.manifest, model))
            terms.add(weighted(delta, data.weight), data.weight)
        model = stepped(trainer.manifest, model, terms.mean())
        look(number, model)
    return model


def together(parts: Sequence[Dataset]) -> Dataset:
    """The parts as one data set; the testbed may do what no node can."""
    return Dataset(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("train_x", "train_y", "test_x", "test_y")
        )
    )


def _normalised(trainer: Trainer, initial: Parameters, parts: Sequence[Dataset]) -> Parameters:
    """The first model with the normaliser, if it has one, of all the parts."""
    sums = [statistics(part) for part in parts]
    total = [sum(of_part[place] for of_part in sums) for place in (0, 1)]
    examples = float(sum(len(part.train_x) for part in parts))
    return normalised(trainer.manifest, initial, [np.asarray(value) for value in total], examples)


def _course(description: RunDescription, number: int, node: str) -> Course:
    local = description.local
    return Course(
        batch_size=local.batch_size,
        epochs=local.epochs * description.edge_rounds,
        learning_rate=learning_rate(
            local.learning_rate, local.schedule, local.warmup_rounds, number, description.rounds
        ),
        seed=description.seed,
        key=RoundKey(run="alone", round=number),
        node=node,
    )
