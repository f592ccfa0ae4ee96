"""Law: what a device does in a round, besides what it keeps for itself, is one generator for each strategy's rule.

method.py     the requests, the replies, the outcome, and the setting that a round begins with
plain.py      FedAvg, FedProx
scaffold.py   SCAFFOLD
fednova.py    FedNova
feddyn.py     FedDyn
ifca.py       clusters by likeness
mocha.py      tasks that are related
memory.py     what is kept between rounds, and its two futures
pace.py       how many epochs fit
"""

from collections.abc import Callable, Mapping
from typing import Final

from headwater.core.local.feddyn import dynamic
from headwater.core.local.fednova import normalised
from headwater.core.local.memory import Memory
from headwater.core.local.method import (
    Measured,
    Measuring,
    Method,
    Outcome,
    Reply,
    Request,
    Setting,
    Trained,
    Training,
)
from headwater.core.local.plain import plain, proximal
from headwater.core.local.scaffold import scaffold
from headwater.schemas.learning import LocalRule

RULES: Final[Mapping[LocalRule, Callable[[Setting], Method]]] = {
    "plain": plain,
    "proximal": proximal,
    "scaffold": scaffold,
    "normalised": normalised,
    "dynamic": dynamic,
}


def local_method(setting: Setting) -> Method:
    """How the received model is trained."""
    return RULES[setting.learning.strategy.local_rule](setting)


__all__ = [
    "RULES",
    "Measured",
    "Measuring",
    "Memory",
    "Method",
    "Outcome",
    "Reply",
    "Request",
    "Setting",
    "Trained",
    "Training",
    "local_method",
]
