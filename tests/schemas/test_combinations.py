"""Every combination that makes no sense is refused with its reason; and no row of the table is idle."""

from typing import Any

import pytest
from pydantic import ValidationError

from headwater.schemas.combinations import CONFLICTS, first_conflict
from headwater.schemas.run import RunDescription

BASE: dict[str, Any] = {"name": "n", "data": "d", "rounds": 9, "model": {"kind": "mlp", "features": 2, "classes": 2}}
WITH_HEAD = {"model": {**BASE["model"], "personal": ("head.*",)}}

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"strategy": {"name": "fedadam"}, "aggregation": {"mode": "asynchronous"}}, "no mean to make a step of"),
    ({"strategy": {"name": "fednova"}, "aggregation": {"mode": "asynchronous"}}, "no mean to make a step of"),
    ({"strategy": {"name": "feddyn", "server": "adam"}}, "a step of its own"),
    ({"strategy": {"name": "scaffold"}, "local": {"optimiser": "adam"}}, "mean gradient of plain steps"),
    ({"strategy": {"name": "scaffold"}, "local": {"clip_norm": 1.0}}, "mean gradient of plain steps"),
    ({"strategy": {"name": "fednova"}, "local": {"optimiser": "adamw"}}, "no closed form"),
    ({"strategy": {"name": "fednova"}, "clusters": {"by": "likeness"}}, "not behind each model"),
    ({"strategy": {"name": "fednova"}, "clusters": {"by": "place", "shared": ("body.*",)}}, "not behind each model"),
    ({"strategy": {"name": "scaffold"}, "uplink": {"codec": "sign"}}, "arrives in part"),
    ({"strategy": {"name": "scaffold"}, "gateway_uplink": {"codec": "topk"}}, "arrives in part"),
    ({"strategy": {"name": "scaffold"}, "uplink": {"layers": 0.5}}, "arrives in part"),
    ({"strategy": {"name": "scaffold"}, "downlink": {"codec": "int8"}}, "goes down whole"),
    ({"uplink": {"codec": "sketch"}, "edge_rounds": 2}, "cannot step by a sketch"),
    ({"uplink": {"codec": "sketch"}, "strategy": {"name": "fedavgm"}}, "kept in the sketch"),
    ({"uplink": {"codec": "sketch"}, "aggregation": {"mode": "asynchronous"}}, "of a sketch there is none"),
    ({"uplink": {"codec": "sketch"}, "clusters": {"by": "place"}}, "do not add up"),
    ({"uplink": {"codec": "sketch"}, "personal": {"method": "mocha"}}, "do not add up"),
    ({"uplink": {"codec": "sketch"}, "pruning": {"sparsity": 0.5}}, "do not add up"),
    ({"uplink": {"codec": "sketch", "feedback": True}}, "made up for at the cloud"),
    ({"uplink": {"codec": "sketch"}, "gateway_uplink": {"codec": "int8"}}, "adds sketches up as they are"),
    ({"downlink": {"codec": "sketch"}}, "a sketch is for sums"),
    ({"uplink": {"codec": "int8", "momentum": 0.9}}, "there none wait"),
    ({"uplink": {"codec": "topk", "momentum": 0.9, "feedback": False}}, "there none wait"),
    ({"downlink": {"codec": "topk", "momentum": 0.9}}, "take fedavgm"),
    ({"clusters": {"by": "likeness"}, "aggregation": {"mode": "asynchronous"}}, "of one model; take buffered"),
    ({"clusters": {"by": "likeness"}, "strategy": {"name": "feddyn"}}, "may change to another"),
    ({"clusters": {"shared": ("body.*",)}}, "with whom would it be shared"),
    ({"personal": {"method": "fedrep"}}, "say which, like head"),
    ({"personal": {"method": "ditto"}, **WITH_HEAD}, "a whole model of each device's own"),
    ({"personal": {"method": "apfl"}, "strategy": {"name": "fedprox"}}, "steps of their own"),
    ({"personal": {"method": "ditto"}, "strategy": {"name": "scaffold"}}, "a correction or an anchor"),
    ({"personal": {"method": "mocha"}, "clusters": {"by": "place"}}, "a model for each place already"),
    ({"personal": {"method": "mocha"}, "aggregation": {"mode": "buffered"}}, "models of one version"),
    ({"personal": {"method": "pfedme"}, "clusters": {"by": "likeness"}}, "not with a changing one"),
    ({"pruning": {"sparsity": 0.5}, "clusters": {"by": "likeness"}}, "a mask belongs to one model"),
    ({"pruning": {"sparsity": 0.5}, "uplink": {"codec": "lowrank"}}, "no places that a mask could leave out"),
    ({"cohort": {"selection": {"by": "loss"}}}, "nobody is selected"),
]

ALLOWED: list[dict[str, Any]] = [
    {},
    {"strategy": {"name": "fedprox", "server": "yogi"}, "uplink": {"codec": "stc"}, "downlink": {"codec": "int8"}},
    {"strategy": {"name": "scaffold"}, "uplink": {"codec": "int8"}, "aggregation": {"mode": "buffered"}},
    {"strategy": {"name": "fednova"}, "pace": {"target_s": 1.0}, "local": {"optimiser": "momentum"}},
    {"clusters": {"by": "likeness", "shared": ("body.*",)}, "personal": {"method": "fine_tune"}},
    {"personal": {"method": "fedrep"}, **WITH_HEAD, "strategy": {"name": "fedadam"}},
    {"personal": {"method": "mocha"}, "uplink": {"codec": "int4"}},
    {"cohort": {"fraction": 0.3, "selection": {"by": "utility", "floor": 0.2}}},
    {"uplink": {"codec": "topk", "momentum": 0.9, "layers": 0.5}, "gateway_uplink": {"codec": "int8"}},
    {"uplink": {"codec": "sketch"}},
    {"pruning": {"sparsity": 0.8, "structured": True}, "uplink": {"codec": "topk"}},
]


@pytest.mark.parametrize(("changes", "reason"), REFUSED)
def test_what_makes_no_sense_is_refused_with_the_reason(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        RunDescription.model_validate(BASE | changes)


@pytest.mark.parametrize("changes", ALLOWED)
def test_what_makes_sense_is_not(changes: dict[str, Any]) -> None:
    assert first_conflict(RunDescription.model_validate(BASE | changes)) is None


def test_every_row_of_the_table_refuses_something_by_itself() -> None:
    """Of each refused example the first conflict counts: a row that none reaches would be one that nobody tried."""
    reached = set()
    for changes, _ in REFUSED:
        with pytest.raises(ValidationError) as refused:
            RunDescription.model_validate(BASE | changes)
        reached |= {place for place, conflict in enumerate(CONFLICTS) if conflict.because in str(refused.value)}
    assert reached == set(range(len(CONFLICTS)))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"strategy": {"name": "fedsgd"}}, "strategy.name"),
        ({"uplink": {"codec": "gzip"}}, "uplink.codec"),
        ({"personal": {"method": "maml"}}, "personal.method"),
        ({"cohort": {"selection": {"by": "luck"}}}, "cohort.selection.by"),
        ({"clusters": {"by": "colour"}}, "clusters.by"),
    ],
)
def test_an_unknown_name_is_refused_with_those_that_there_are(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as refused:
        RunDescription.model_validate(BASE | changes)
    (problem,) = refused.value.errors()
    assert ".".join(map(str, problem["loc"])) == field
    assert "should be" in problem["msg"]
