"""Law: the model of a round leaves as ONNX in one way, whoever asks for it."""

from headwater.cloud.history import History
from headwater.core.graph import export_inference
from headwater.schemas.errors import ConfigError, RunFailed
from headwater.schemas.messages import Model, Tensor
from headwater.schemas.tensors import decode_tensor
from headwater.schemas.wire import decode_object


def exported(history: History, run: str, round_: int | None, cluster: str | None = None) -> tuple[int, bytes]:
    """The inference model of a round (the last by default), as ONNX.

    Raises:
        NotThere: there is none of this round.
        RunFailed: the run has not begun.
        ConfigError: several coexist and `cluster` names none of them.
    """
    version, payload = history.model_of(run, round_)
    forward = history.forward_of(run)
    if forward is None:
        raise RunFailed(f"run {run!r}: has not begun, so there is no model yet")
    tensors = [decode_tensor(tensor) for tensor in _of_cluster(decode_object(payload, Model), cluster)]
    return version, export_inference(forward, tensors)


def clusters_of(history: History, run: str, version: int | None = None) -> tuple[str, ...]:
    """The names of the models that coexist in a version, none where there is one. Raises NotThere."""
    _, payload = history.model_of(run, version)
    return decode_object(payload, Model).clusters


def _of_cluster(model: Model, cluster: str | None) -> tuple[Tensor, ...]:
    """Raises ConfigError."""
    if not model.clusters and cluster is None:
        return model.tensors
    if cluster not in model.clusters:
        given = "not given" if cluster is None else repr(cluster)
        there = f"there are {', '.join(model.clusters)}" if model.clusters else "this run has one model; leave it out"
        raise ConfigError(f"cluster: {given}; {there}")
    each, place = len(model.tensors) // len(model.clusters), model.clusters.index(cluster)
    return model.tensors[place * each : (place + 1) * each]
