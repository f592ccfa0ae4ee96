"""Law: the view shows what the round topics say, live on a terminal, a line a round without one."""

from collections.abc import Iterable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text
from rich.tree import Tree as RichTree

from headwater.core.figures import in_words
from headwater.schemas.statuses import RoundStatus
from headwater.testbed.observer import Observer
from headwater.testbed.tree import Tree

_MARKS = {"received": ("●", "green"), "waiting": ("◌", "yellow"), "left": ("○", "red"), "refused": ("✗", "red")}


class View:
    """A run as it goes by. Use as a context manager; call `look` at every change."""

    def __init__(self, tree: Tree, observer: Observer, rounds: int, console: Console) -> None:
        self._tree = tree
        self._observer = observer
        self._console = console
        self._told = 0
        self._losses: list[float] = []
        self._progress = Progress(
            TextColumn("round"), BarColumn(40), MofNCompleteColumn(), TextColumn("{task.fields[left]}")
        )
        self._task = self._progress.add_task("rounds", total=rounds, left="")
        self._live = Live(console=console, refresh_per_second=8, transient=True) if console.is_terminal else None

    def __enter__(self) -> "View":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def look(self) -> None:
        closed = self._observer.closed
        for round_ in closed[self._told :]:
            if round_.task == "train" and "train/loss" in round_.metrics:
                self._losses.append(round_.metrics["train/loss"])
            if not self._live:
                self._console.print(line(round_), highlight=False, soft_wrap=True)
        self._told = len(closed)
        if self._live:
            self._live.update(self._picture())

    def _picture(self) -> RenderableType:
        run = self._observer.run
        left = f"{run.remaining_s:.0f} s left" if run and run.remaining_s is not None else ""
        self._progress.update(self._task, completed=run.round if run else 0, left=left)
        return Panel(
            Group(
                self._tree_picture(),
                Text(),
                self._figures(),
                Text(sparkline(self._losses), style="cyan"),
                self._progress,
            ),
            title="[bold]Headwater[/bold]: the tree learns",
            border_style="blue",
        )

    def _tree_picture(self) -> RichTree:
        root = RichTree(_node("cloud", self._observer.round))
        for gateway, devices in self._tree.clusters.items():
            status = self._observer.clusters.get(gateway)
            branch = root.add(_node(gateway, status)) if gateway else root
            states = {member.node: member.state for member in (status.members if status else ())}
            branch.add(Text("  ").join(_device(device, states.get(device, "idle")) for device in devices))
        return root

    def _figures(self) -> Table:
        table = Table.grid(padding=(0, 3))
        run, round_ = self._observer.run, self._observer.round
        loss = f"{run.loss:.3f}" if run and run.loss is not None else "–"
        accuracy = f"{run.accuracy:.1%}" if run and run.accuracy is not None else "–"
        cohort = f"{round_.received}/{round_.cohort}" if round_ else "–"
        table.add_row(
            f"loss [bold]{loss}[/]", f"accuracy [bold]{accuracy}[/] on the devices' test parts", f"cohort {cohort}"
        )
        closed = self._observer.closed
        spread = in_words(closed[-1].figures) if closed else ""
        if spread:
            table.add_row(spread)
        return table


def line(round_: RoundStatus) -> str:
    """One round for a log: what a person without a terminal sees."""
    accuracy = round_.metrics.get("test/correct")
    loss = round_.metrics.get("train/loss")
    parts = [
        f"round {round_.round:>3} {round_.task:<10} {round_.state}",
        f"{round_.received}/{round_.cohort} in, {round_.devices} devices",
        f"loss {loss:.4f}" if loss is not None else "",
        f"accuracy {accuracy:.4f}" if accuracy is not None else "",
        in_words(round_.figures),
        f"{_size(round_.bytes_down)} down, {_size(round_.bytes_up)} up",
        f"{round_.elapsed_s:.2f} s",
    ]
    return "  ".join(part for part in parts if part)


def sparkline(values: Iterable[float]) -> str:
    """The losses so far, newest right, in one line of blocks."""
    shown = list(values)[-60:]
    if not shown:
        return "loss"
    low, high = min(shown), max(shown)
    return "loss " + "".join("▁▂▃▄▅▆▇█"[int((value - low) / ((high - low) or 1.0) * 7)] for value in shown)


def _node(name: str, status: RoundStatus | None) -> Text:
    if status is None:
        return Text(name, style="dim")
    text = Text(name, style="bold")
    text.append(f"  {_doing(status)}  {status.received}/{status.cohort} in", style="default not bold")
    text.append(f"  ↓{_size(status.bytes_down)} ↑{_size(status.bytes_up)}", style="dim not bold")
    return text


def _doing(status: RoundStatus) -> str:
    """A round of training by its number, with its edge rounds; the one behind a run's last has no number there."""
    if status.task == "train":
        return f"round {status.round}.{status.step}" if status.step else f"round {status.round}"
    return "measures the model" if status.task == "evaluate" else "gathers statistics"


def _device(name: str, state: str) -> Text:
    mark, style = _MARKS.get(state, ("·", "dim"))
    return Text(f"{mark} {name}", style=style)


def _size(size_bytes: int) -> str:
    return (
        f"{size_bytes} B"
        if size_bytes < 1000
        else f"{size_bytes / 1000:.1f} kB"
        if size_bytes < 1e6
        else f"{size_bytes / 1e6:.1f} MB"
    )
