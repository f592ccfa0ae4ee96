"""Law: what is personal stays: a round trains the shared model, then the device's own, and only the first goes up.

fine_tuning.py   the global model, trained on
fedrep.py        the head first, then the body; FedPer is the model's personal patterns alone
ditto.py         a model pulled towards the global one
pfedme.py        Moreau envelopes
apfl.py          a mixture
baseline.py      what the device would reach alone

Models are measured as they stand when the round's model has come, each by as many rounds' training as the other: the
received one as `test`, the personal one as `personal`, the one trained alone as `local`.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from headwater.core.aggregate import Parameters
from headwater.core.local import local_method
from headwater.core.local.ifca import likeliest
from headwater.core.local.method import Arrays, Method, Outcome, Reply, Request, Setting, kept_own, measure
from headwater.core.local.mocha import anchored
from headwater.core.personalise import apfl, baseline, ditto, fine_tuning, pfedme
from headwater.core.personalise.fedrep import alternating
from headwater.schemas.learning import PersonalMethod


@dataclass(frozen=True, slots=True)
class Personalising:
    """One method: how it trains the received model, where that is not the strategy's way; what it trains besides, and
    keeps; and the personal model as it stands, where it is not trained anew from each received one."""

    local: Callable[[Setting], Method] = local_method
    after: Callable[[Setting, Outcome], Generator[Request, Reply, Arrays]] | None = None
    standing: Callable[[Setting], Parameters] | None = None


def _as_received(setting: Setting) -> Parameters:
    """Shared parameters as they came, and the device's own."""
    return setting.received


METHODS: Final[Mapping[PersonalMethod, Personalising]] = {
    "none": Personalising(),
    "fine_tune": Personalising(after=fine_tuning.after),
    "fedper": Personalising(standing=_as_received),
    "fedrep": Personalising(alternating, standing=_as_received),
    "ditto": Personalising(after=ditto.after, standing=ditto.standing),
    "pfedme": Personalising(pfedme.envelopes, standing=pfedme.standing),
    "apfl": Personalising(apfl.mixture, standing=apfl.standing),
    "mocha": Personalising(anchored, standing=_as_received),
}


def round_of(setting: Setting) -> Method:
    """All that a device does in a round of training."""
    models = len(setting.models)
    chosen, setting = yield from _chosen(setting)
    method = METHODS[setting.learning.personal.method]
    yield from _measured(setting)
    outcome = yield from method.local(setting)
    kept = {**kept_own(setting.manifest, outcome.trained.parameters), **outcome.kept}
    if method.after:
        kept |= yield from method.after(setting, outcome)
    if setting.learning.personal.baseline:
        kept |= yield from baseline.after(setting)
    return replace(outcome, kept=kept, chosen=chosen, of_models=models)


def evaluation_of(setting: Setting) -> Generator[Request, Reply, None]:
    """All that a device does where it only measures."""
    _, setting = yield from _chosen(setting)
    yield from _measured(setting)
    if setting.learning.personal.method == "fine_tune":
        parameters = yield from fine_tuning.tuned(setting)
        yield from measure(parameters, "personal")


def _chosen(setting: Setting) -> Generator[Request, Reply, tuple[int, Setting]]:
    """Which of the models that coexist is this device's, and the setting with that alone."""
    if len(setting.models) == 1:
        return 0, setting
    chosen = yield from likeliest(setting)
    return chosen, setting.with_model(chosen)


def _measured(setting: Setting) -> Generator[Request, Reply, None]:
    standing = METHODS[setting.learning.personal.method].standing
    personal = standing(setting) if standing else None
    if personal is setting.received:
        yield from measure(personal, "test", "personal")
    else:
        yield from measure(setting.received, "test")
        if personal is not None:
            yield from measure(personal, "personal")
    if setting.learning.personal.baseline:
        yield from measure(baseline.standing(setting), "local")
