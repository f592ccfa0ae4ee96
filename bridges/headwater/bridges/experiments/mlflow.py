"""Law: an experiment a fleet, a run a run, found again by its tag; only rounds that were not told yet are told."""

import logging
import os
from collections.abc import Iterable
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from headwater.bridges.experiments.experiment import Experiment, Scalar
from headwater.schemas.errors import ConfigError

if TYPE_CHECKING:
    from mlflow import MlflowClient

TAG: Final = "headwater.run"
MAX_BATCH: Final = 1_000
"""Metrics, and 100 parameters, are what a tracking server takes at once."""

MAX_PARAMETERS: Final = 100
MAX_VALUE_LENGTH: Final = 6_000
_STATES: Final = {
    "finished": "FINISHED",
    "failed": "FAILED",
    "stopped": "KILLED",
    "running": "RUNNING",
    "paused": "RUNNING",
    "queued": "SCHEDULED",
}


def write(experiment: Experiment, uri: str) -> str:
    """Tell a run to the MLflow at `uri` (a server's URL, or `sqlite:///file`); returns MLflow's own id of it.

    Raises:
        ConfigError: there is no MLflow, or it does not take it; in MLflow's words.
    """
    # One that is not there is asked for a bounded time, not for the library's several minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        return _told(experiment, MlflowClient(tracking_uri=uri))
    except (MlflowException, OSError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"--target: {uri}: {first}; give the URL of an MLflow server, or sqlite:///FILE") from None


def _told(experiment: Experiment, client: "MlflowClient") -> str:
    id_, is_new = _found_or_made(experiment, client)
    if is_new:
        _set(client, id_, experiment)
    _log_scalars(client, id_, experiment.scalars)
    if experiment.model is not None:
        with TemporaryDirectory() as folder:
            path = os.path.join(folder, f"{experiment.run}-{experiment.version}.onnx")
            with open(path, "wb") as file:
                file.write(experiment.model)
            client.log_artifact(id_, path, "model")
    status = _STATES[experiment.state]
    if status in ("RUNNING", "SCHEDULED"):
        client.update_run(id_, status=status)
    else:
        ended = experiment.ended_at or experiment.started_at
        client.set_terminated(id_, status=status, end_time=_milliseconds(ended.timestamp()))
    return id_


def _found_or_made(experiment: Experiment, client: "MlflowClient") -> tuple[str, bool]:
    known = client.get_experiment_by_name(experiment.fleet)
    where = known.experiment_id if known else client.create_experiment(experiment.fleet)
    same = client.search_runs([where], f"tags.`{TAG}` = '{experiment.run}'", max_results=1)
    if same:
        return str(same[0].info.run_id), False
    made = client.create_run(
        where,
        start_time=_milliseconds(experiment.started_at.timestamp()),
        tags={TAG: experiment.run},
        run_name=experiment.run,
    )
    return str(made.info.run_id), True


def _set(client: "MlflowClient", id_: str, experiment: Experiment) -> None:
    from mlflow.entities import Param

    parameters = [Param(name, value[:MAX_VALUE_LENGTH]) for name, value in sorted(experiment.settings.items())]
    for start in range(0, len(parameters), MAX_PARAMETERS):
        client.log_batch(id_, params=parameters[start : start + MAX_PARAMETERS])


def _log_scalars(client: "MlflowClient", id_: str, scalars: Iterable[Scalar]) -> None:
    from mlflow.entities import Metric

    by_name: dict[str, list[Scalar]] = {}
    for scalar in scalars:
        by_name.setdefault(scalar.name, []).append(scalar)
    new = []
    for name, of_name in by_name.items():
        told = {point.step for point in client.get_metric_history(id_, name)}
        new += [
            Metric(name, one.value, _milliseconds(one.at.timestamp()), one.round)
            for one in of_name
            if one.round not in told
        ]
    for start in range(0, len(new), MAX_BATCH):
        client.log_batch(id_, metrics=new[start : start + MAX_BATCH])


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)
