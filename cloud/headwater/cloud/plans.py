"""Law: the plan of a round follows from the run's description and the round's number, without a look at the clock."""

from headwater.core.schedule import learning_rate
from headwater.schemas.base import Task
from headwater.schemas.messages import Errors, ObjectRef, PatchRef, Plan, RoundKey
from headwater.schemas.run import Normalising, RunDescription


def needs_statistics(description: RunDescription) -> bool:
    """Whether a pass for the normaliser comes before the first round."""
    return (
        isinstance(description.model, Normalising) and description.model.normalise and description.initial == "random"
    )


def evaluates(description: RunDescription, round_: int) -> bool:
    """Whether the model that `round_` begins with is measured in it; version 0 always is."""
    every = description.evaluate_every
    return bool(every) and (round_ - 1) % every == 0


def plan(
    run: str,
    description: RunDescription,
    task: Task,
    round_: int,
    attempt: int,
    *,
    model: ObjectRef,
    bundle: ObjectRef,
    patch: PatchRef | None = None,
    mask: ObjectRef | None = None,
    errors: tuple[Errors, ...] = (),
) -> Plan:
    """What is asked of the cloud's children.

    Only training takes late updates, or goes on without the slow: the others are about all who are asked. Statistics
    are asked of everyone, whatever the fraction, for the normaliser that they make stays for the whole run.
    """
    local, cohort, aggregation = description.local, description.cohort, description.aggregation
    trains = task == "train"
    return Plan(
        key=RoundKey(run=run, round=round_, attempt=attempt),
        task=task,
        data=description.data,
        model=model,
        bundle=bundle,
        local_epochs=local.epochs,
        edge_rounds=description.edge_rounds,
        batch_size=local.batch_size,
        learning_rate=learning_rate(
            local.learning_rate, local.schedule, local.warmup_rounds, round_, description.rounds
        ),
        seed=description.seed,
        evaluate=trains and evaluates(description, round_),
        deadline_s=cohort.deadline_s,
        quorum=cohort.quorum,
        cohort=1.0 if task == "statistics" else cohort.fraction,
        max_staleness=aggregation.staleness_cap if trains else 0,
        staleness_exponent=aggregation.staleness_exponent,
        buffer=aggregation.updates_a_version if trains else 0,
        over_selection=cohort.over_selection if trains else 0.0,
        adaptive_deadline=trains and cohort.adaptive_deadline,
        learning=description.learning,
        patch=patch,
        mask=mask,
        errors=errors,
    )
