"""Law: what makes no sense together is refused before anything is sent, with the reason; this table is all there is.

`python -m headwater.schemas.document` prints it into the documentation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from headwater.schemas.learning import CodecName, Compression

if TYPE_CHECKING:
    from headwater.schemas.run import RunDescription

PARTIAL: Final[tuple[CodecName, ...]] = ("sign", "ternary", "topk", "stc", "randk", "lowrank", "sketch")
"""Codecs that give an update only roughly, or in part."""

SPARSE: Final[tuple[CodecName, ...]] = ("topk", "stc", "randk")


@dataclass(frozen=True, slots=True)
class Conflict:
    """`this` is the field that is named, `that` what it does not go with."""

    this: str
    that: str
    because: str
    is_in: "Callable[[RunDescription], bool]"


def first_conflict(description: "RunDescription") -> str | None:
    """The sentence that refuses a run, or None."""
    for conflict in CONFLICTS:
        if conflict.is_in(description):
            return f"{conflict.this}: does not go with {conflict.that}: {conflict.because}"
    return None


def _uplinks(run: "RunDescription") -> tuple[Compression, ...]:
    return (run.uplink,) if run.gateway_uplink is None else (run.uplink, run.gateway_uplink)


def _codecs(run: "RunDescription") -> set[CodecName]:
    return {link.codec for link in _uplinks(run)}


def _is_partial(run: "RunDescription") -> bool:
    return bool(_codecs(run) & set(PARTIAL)) or any(link.layers < 1 for link in _uplinks(run))


def _rule(run: "RunDescription") -> str:
    return run.strategy.local_rule


CONFLICTS: Final[tuple[Conflict, ...]] = (
    Conflict(
        "strategy",
        'aggregation.mode = "asynchronous"',
        "FedAsync mixes each update in by itself, so there is no mean to make a step of; take buffered",
        lambda run: (
            run.aggregation.mode == "asynchronous"
            and (run.strategy.optimiser != "sgd" or _rule(run) not in ("plain", "proximal"))
        ),
    ),
    Conflict(
        "strategy.server",
        'strategy.name = "feddyn"',
        "FedDyn's cloud has a step of its own; take fedprox, or leave server out",
        lambda run: _rule(run) == "dynamic" and run.strategy.optimiser != "sgd",
    ),
    Conflict(
        'strategy.name = "scaffold"',
        "local.optimiser other than sgd",
        "a control variate is the mean gradient of plain steps, (x − y)/(K·η); take sgd, without weight_decay or "
        "clip_norm",
        lambda run: (
            _rule(run) == "scaffold"
            and (run.local.optimiser != "sgd" or bool(run.local.weight_decay or run.local.clip_norm))
        ),
    ),
    Conflict(
        'strategy.name = "fednova"',
        "local.optimiser = adam, adamw or nesterov",
        "by how much such steps add up has no closed form; take sgd or momentum",
        lambda run: _rule(run) == "normalised" and run.local.optimiser not in ("sgd", "momentum"),
    ),
    Conflict(
        'strategy.name = "fednova"',
        'clusters.by = "likeness", or clusters.shared',
        "a delta says how many steps are behind all of it, not behind each model or each part; take fedavg, or place "
        "with nothing shared",
        lambda run: _rule(run) == "normalised" and (run.clusters.by == "likeness" or bool(run.clusters.shared)),
    ),
    Conflict(
        'strategy.name = "scaffold"',
        "uplink or gateway_uplink sign, ternary, topk, stc, randk, lowrank, sketch, or layers below 1",
        "a control variate that arrives in part corrects in a wrong direction; take fp16, int8 or int4",
        lambda run: _rule(run) == "scaffold" and _is_partial(run),
    ),
    Conflict(
        'strategy.name = "scaffold"',
        "downlink",
        "the control variate goes down whole beside the model, which a patch has no room for; leave downlink out",
        lambda run: _rule(run) == "scaffold" and run.downlink.is_on,
    ),
    Conflict(
        'uplink.codec = "sketch"',
        "edge_rounds above 1",
        "a cluster cannot step by a sketch: it is taken apart at the cloud alone; take edge_rounds = 1",
        lambda run: run.uplink.codec == "sketch" and run.edge_rounds > 1,
    ),
    Conflict(
        'uplink.codec = "sketch"',
        "strategy other than fedavg",
        "FetchSGD's momentum and error are kept in the sketch, where no other optimiser can be",
        lambda run: run.uplink.codec == "sketch" and run.strategy.name != "fedavg",
    ),
    Conflict(
        'uplink.codec = "sketch"',
        'aggregation.mode = "asynchronous"',
        "FedAsync mixes models, and of a sketch there is none; take buffered",
        lambda run: run.uplink.codec == "sketch" and run.aggregation.mode == "asynchronous",
    ),
    Conflict(
        'uplink.codec = "sketch"',
        "clusters, mocha or pruning",
        "sketches of different models do not add up; take topk",
        lambda run: (
            run.uplink.codec == "sketch"
            and (run.clusters.by != "none" or run.personal.method == "mocha" or run.pruning.sparsity > 0)
        ),
    ),
    Conflict(
        'uplink.codec = "sketch"',
        "layers below 1, or feedback on the device",
        "what a sketch leaves out is made up for at the cloud; leave them out",
        lambda run: run.uplink.codec == "sketch" and (run.uplink.layers < 1 or bool(run.uplink.feedback)),
    ),
    Conflict(
        "gateway_uplink.codec",
        "a sketch on one link only",
        "a gateway adds sketches up as they are, and can neither make one of updates nor take one apart",
        lambda run: (
            run.gateway_uplink is not None and (run.uplink.codec == "sketch") != (run.gateway_uplink.codec == "sketch")
        ),
    ),
    Conflict(
        'downlink.codec = "sketch"',
        "a model on its way down",
        "a sketch is for sums; take int8, topk or stc",
        lambda run: run.downlink.codec == "sketch",
    ),
    Conflict(
        "momentum of a link",
        "a codec other than topk, stc, randk or sketch, or feedback = false",
        "DGC corrects the momentum of values that wait to be sent, and there none wait",
        lambda run: any(
            link.momentum > 0 and link.codec != "sketch" and (link.codec not in SPARSE or not link.keeps_what_is_left)
            for link in _uplinks(run)
        ),
    ),
    Conflict(
        "downlink.momentum",
        "a model on its way down",
        "the step has its momentum from the strategy; take fedavgm",
        lambda run: run.downlink.momentum > 0,
    ),
    Conflict(
        "clusters",
        'aggregation.mode = "asynchronous"',
        "FedAsync makes a version of each update, of one model; take buffered",
        lambda run: run.clusters.by != "none" and run.aggregation.mode == "asynchronous",
    ),
    Conflict(
        'clusters.by = "likeness"',
        "strategy scaffold or feddyn",
        "what a device remembers is of one model, and it may change to another; take fedavg or fedprox",
        lambda run: run.clusters.by == "likeness" and _rule(run) in ("scaffold", "dynamic"),
    ),
    Conflict(
        "clusters.shared",
        "a single model",
        'with whom would it be shared? Say clusters.by = "place" or "likeness"',
        lambda run: bool(run.clusters.shared) and run.clusters.by == "none",
    ),
    Conflict(
        "personal.method",
        "no model.personal",
        "fedper and fedrep keep the parameters that model.personal names; say which, like head.*",
        lambda run: run.personal.method in ("fedper", "fedrep") and not run.model.personal,
    ),
    Conflict(
        "personal.method",
        "model.personal",
        "ditto, pfedme, apfl, mocha and fine_tune have a whole model of each device's own; leave model.personal out",
        lambda run: (
            run.personal.method in ("ditto", "pfedme", "apfl", "mocha", "fine_tune") and bool(run.model.personal)
        ),
    ),
    Conflict(
        "personal.method",
        "strategy scaffold, fednova, feddyn or fedprox",
        "pfedme, apfl and fedrep make the update by steps of their own; take fedavg, or a server optimiser",
        lambda run: run.personal.method in ("pfedme", "apfl", "fedrep") and _rule(run) != "plain",
    ),
    Conflict(
        'personal.method = "ditto"',
        'strategy.name = "scaffold"',
        "one graph takes a correction or an anchor, not both; take fine_tune, or another strategy",
        lambda run: run.personal.method == "ditto" and _rule(run) == "scaffold",
    ),
    Conflict(
        'personal.method = "mocha"',
        "clusters, or a strategy other than fedavg",
        "MOCHA has a model for each place already, and its relation is the correction",
        lambda run: (
            run.personal.method == "mocha"
            and (run.clusters.by != "none" or run.strategy.optimiser != "sgd" or _rule(run) != "plain")
        ),
    ),
    Conflict(
        'personal.method = "mocha"',
        "aggregation other than synchronous, or downlink",
        "the relation is learned from models of one version, and goes down with them",
        lambda run: run.personal.method == "mocha" and (run.aggregation.mode != "synchronous" or run.downlink.is_on),
    ),
    Conflict(
        'personal.method = "pfedme" or "apfl"',
        'clusters.by = "likeness"',
        "an own model mixes with one global model, not with a changing one; take ditto or fine_tune",
        lambda run: run.personal.method in ("pfedme", "apfl") and run.clusters.by == "likeness",
    ),
    Conflict(
        "pruning",
        "clusters, mocha or scaffold",
        "a mask belongs to one model, and what is remembered beside it has none; prune a run of fedavg",
        lambda run: (
            run.pruning.sparsity > 0
            and (run.clusters.by != "none" or run.personal.method == "mocha" or _rule(run) == "scaffold")
        ),
    ),
    Conflict(
        "pruning",
        "lowrank or sketch",
        "a low rank or a sketch has no places that a mask could leave out; take topk, stc or int8",
        lambda run: run.pruning.sparsity > 0 and bool({*_codecs(run), run.downlink.codec} & {"lowrank", "sketch"}),
    ),
    Conflict(
        "cohort.selection",
        "cohort.fraction = 1",
        "where everyone takes part nobody is selected; give a fraction below 1",
        lambda run: (
            (run.cohort.selection.by != "uniform" or run.cohort.selection.floor > 0) and run.cohort.fraction >= 1
        ),
    ),
)
