"""Law: a node's page tells of each round what it gave, how fast, and how much of the whole that was."""

from typing import Final, Literal

from headwater.dashboard.view.fold import SAME_WITHIN_S
from headwater.dashboard.view.state import Fleet, Happening, RoundName, Turn
from headwater.dashboard.view.table import Line, line, mark, run
from headwater.dashboard.view.words import count, duration, number, numbered, percent, size

MAX_LINES: Final = 25

Part = Literal["nobody", "leads", "takes part"]


def part_of(fleet: Fleet, node: str, is_recorded: bool) -> Part:
    """What a node has to do with rounds: the cloud leads them; of nobody neither a broker nor the history knows."""
    if node == fleet.cloud:
        return "leads"
    is_heard = node in fleet.nodes or node in fleet.turns or node in fleet.rounds
    return "takes part" if is_heard or is_recorded else "nobody"


def turns_of(fleet: Fleet, node: str, recorded: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """Its rounds, oldest first: those that the history tells of, and those that were heard; each once."""
    heard = fleet.turns.get(node, ())
    known = {_about(turn, fleet.cloud): turn for turn in recorded} | {_about(turn, fleet.cloud): turn for turn in heard}
    return tuple(sorted(known.values(), key=lambda turn: turn.at))


def of_newest_run(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """Those of the run that it worked on last, in the order of their rounds: what can be drawn along one axis."""
    newest = turns[-1].round.run if turns else ""
    return tuple(sorted((turn for turn in turns if turn.round.run == newest), key=lambda turn: turn.round[2:]))


def _about(turn: Turn, cloud: str) -> RoundName:
    """The history calls the cloud nobody's name."""
    return turn.round if turn.round.parent else turn.round._replace(parent=cloud)


def turn_lines(turns: tuple[Turn, ...]) -> tuple[Line, ...]:
    """Its newest rounds, newest first."""
    return tuple(_line(turn) for turn in reversed(turns[-MAX_LINES:]))


def _line(turn: Turn) -> Line:
    name = turn.round
    return line(
        "/".join(map(str, name)),
        numbered(name.round, name.step) + (f" try {name.attempt + 1}" if name.attempt else ""),
        run(name.run),
        turn.task,
        mark(turn.state),
        count(turn.examples or None),
        percent(turn.share),
        number(turn.loss),
        duration(turn.after_s),
        duration(turn.train_s),
        size(turn.size_bytes or None),
    )


def refusals_of(fleet: Fleet, node: str, recorded: tuple[Happening, ...]) -> tuple[Happening, ...]:
    """What was refused of this node, or it declined, newest first: as it was heard, and before that by the history."""
    heard = tuple(
        told
        for told in reversed(fleet.happenings)
        if told.node == node and told.kind.split(".")[0] in ("delta", "plan")
    )
    first = heard[-1].at if heard else float("inf")
    return (*heard, *(told for told in recorded if told.at < first - SAME_WITHIN_S))


def strip(turns: tuple[Turn, ...]) -> tuple[tuple[str, str], ...]:
    """Its participation, oldest first: a mark for each round, and the words for it."""
    return tuple((turn.state, f"round {turn.round.round}: {turn.state}") for turn in turns if turn.task == "train")
