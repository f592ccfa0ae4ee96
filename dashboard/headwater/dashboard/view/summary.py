"""Law: what is said of a fleet, a run or a node in a few figures follows from what was heard of it."""

from headwater.dashboard.view.course import Point, trained
from headwater.dashboard.view.software import counted, update_words
from headwater.dashboard.view.state import Fleet, Seen, Turn
from headwater.dashboard.view.tree import devices_of, parent_of
from headwater.dashboard.view.words import UNKNOWN, ago, count, duration, number, percent, size
from headwater.schemas.statuses import NodeStatus, RunStatus


def fleet_figures(fleet: Fleet) -> dict[str, str]:
    """Who is there, and how the run goes."""
    roles = [seen.status for seen in fleet.nodes.values()]
    gateways = [status for status in roles if status.role == "gateway"]
    offline = sum(status.state == "offline" for status in roles)
    run, round_ = fleet.run, fleet.rounds.get(fleet.cloud)
    return {
        "devices": count(len(devices_of(fleet))),
        "gateways": count(len(gateways)),
        "offline": count(offline),
        "run": run.state if run else "none yet",
        "round": f"{run.round} of {run.rounds}" if run else UNKNOWN,
        "accuracy": percent(run.accuracy if run else None),
        "training loss": number(run.loss if run else None),
        "at the cloud, this round": f"↓ {size(round_.status.bytes_down)} ↑ {size(round_.status.bytes_up)}"
        if round_
        else UNKNOWN,
    }


def run_figures(status: RunStatus | None, course: tuple[Point, ...]) -> dict[str, str]:
    """How far a run is, what it reached, and what it cost at the cloud's links."""
    points = trained(course)
    last = next((point for point in reversed(points) if point.accuracy is not None), None)
    accuracy = status.accuracy if status and status.accuracy is not None else (last.accuracy if last else None)
    worst = next((point.worst for point in reversed(points) if point.worst is not None), None)
    losses = [point.loss for point in points if point.loss is not None]
    epsilons = [point.epsilon for point in course if point.epsilon is not None]
    moved = sum(point.bytes_down + point.bytes_up for point in course)
    told = {
        "round": f"{status.round} of {status.rounds}" if status else str(points[-1].round if points else 0),
        "accuracy": percent(accuracy),
        "worst tenth": percent(worst) if accuracy is not None else number(worst),
        "training loss": number(losses[-1] if losses else (status.loss if status else None)),
        "took": duration(status.elapsed_s if status else sum(point.elapsed_s for point in course)),
        "still to go": duration(status.remaining_s if status else None),
        "at the cloud's links": size(moved),
        "refused": count(sum(point.refused for point in course)),
    }
    if status is None or status.state not in ("running", "paused"):
        del told["still to go"]
    return told | ({"ε spent": number(epsilons[-1], 2)} if epsilons else {})


def node_figures(seen: Seen | None, turns: tuple[Turn, ...], now: float) -> dict[str, str]:
    """How a node did in the rounds that are known."""
    trains = [turn for turn in turns if turn.task == "train"]
    gave = [turn for turn in trains if turn.state == "received"]
    asked = [turn for turn in trains if turn.state != "idle"]
    speeds = sorted(turn.after_s for turn in gave if turn.after_s is not None)
    shares = [turn.share for turn in gave if turn.share is not None]
    alive_at = seen.alive_at if seen else None
    if alive_at is None and gave:
        alive_at = gave[-1].at
    return {
        "rounds with it": f"{count(len(gave))} of {count(len(asked))}",
        "last training loss": number(next((turn.loss for turn in reversed(gave) if turn.loss is not None), None)),
        "update in after (median)": duration(speeds[len(speeds) // 2] if speeds else None),
        "share of its parent's examples": percent(sum(shares) / len(shares) if shares else None),
        "update's size": size(gave[-1].size_bytes or None) if gave else UNKNOWN,
        "last sign of life": ago(now - alive_at if alive_at is not None else None),
    }


def said_of_itself(status: NodeStatus) -> dict[str, str]:
    """A node's own words: software and its update, data, codecs, battery."""
    told = {"software": status.software or UNKNOWN, "codecs": ", ".join(status.codecs) or "plain float32"}
    if status.update is not None:
        told["update"] = update_words(status.update)
    if status.rollout is not None:
        told["release below it"] = counted(status.rollout)
    told |= {
        f"data {name}": f"{count(data.train_examples)} to train on, {count(data.test_examples)} to test on"
        for name, data in status.data.items()
    }
    return told if status.battery_percent is None else told | {"battery": f"{status.battery_percent:.0f} %"}


def found(fleet: Fleet, text: str, most: int) -> list[str]:
    """Nodes whose name has these letters, those that begin with them first."""
    wanted = text.strip().lower()
    if not wanted:
        return []
    names = [name for name in {*fleet.nodes, *fleet.rounds, *fleet.turns} if wanted in name.lower()]
    return sorted(names, key=lambda name: (not name.lower().startswith(wanted), name))[:most]


def place_of(fleet: Fleet, node: str) -> tuple[str, str]:
    """A node's role, and its parent ("" where it has none)."""
    seen = fleet.nodes.get(node)
    role = seen.status.role if seen else ("gateway" if node in fleet.rounds else "device")
    return ("cloud" if node == fleet.cloud else role), parent_of(fleet, node) or ""
