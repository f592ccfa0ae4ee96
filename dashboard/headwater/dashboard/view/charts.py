"""Law: a chart is a function of the points that it shows and of the theme; never colour alone tells two lines apart.

Colours are those of Okabe and Ito, which people of every colour vision can tell; lines differ in dash and mark too.
Options are of Apache ECharts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from headwater.dashboard.view.course import Point, thinned, trained
from headwater.dashboard.view.state import Turn

Options = dict[str, Any]
Axis = Literal["round", "seconds", "bytes"]

AXES: Final[Mapping[Axis, str]] = {"round": "by round", "seconds": "by seconds", "bytes": "by megabytes"}
MAX_BARS: Final = 120
"""Beside each other, so that each can be seen; of two for each round half as many."""

_DASHES: Final = ("solid", "dashed", "dotted", "solid", "dashed", "dotted")
_MARKS: Final = ("circle", "triangle", "rect", "diamond", "emptyCircle", "emptyRect")
MAX_COMPARED: Final = 6
"""Runs in one picture: as many as there are colours that can be told apart."""


@dataclass(frozen=True, slots=True)
class Theme:
    """What a canvas is drawn with; `page` behind it, `series` in the order of use."""

    ink: str
    faint: str
    line: str
    page: str
    series: tuple[str, ...]
    spent: Mapping[str, str]


_SPENT_LIGHT: Final = {"train": "#0072B2", "transfer": "#E69F00", "wait": "#8B4E9F", "aggregate": "#009E73"}
_SPENT_DARK: Final = {"train": "#56B4E9", "transfer": "#E69F00", "wait": "#CC8FC0", "aggregate": "#2FBF9B"}
LIGHT: Final = Theme(
    "#1c2733",
    "#5b6b7b",
    "#dfe5ec",
    "#ffffff",
    ("#0072B2", "#D55E00", "#009E73", "#8B4E9F", "#8A6D00", "#000000"),
    _SPENT_LIGHT,
)
DARK: Final = Theme(
    "#e6edf3",
    "#96a3b0",
    "#2a333e",
    "#141a21",
    ("#56B4E9", "#F0813A", "#2FBF9B", "#CC8FC0", "#F0E442", "#ffffff"),
    _SPENT_DARK,
)


def theme(dark: bool) -> Theme:
    return DARK if dark else LIGHT


# ── a run ───────────────────────────────────────────────────────────────────────────────────────────────────────


def losses(course: Sequence[Point], style: Theme) -> Options:
    """The training loss of each round, and the test loss of the model that it made."""
    points = thinned(trained(course))
    series = [
        _line("training loss", _xy(points, lambda point: point.loss), style, 0),
        _line("test loss", _xy(points, lambda point: point.test_loss), style, 1),
    ]
    return _framed(style, series, x="round", y="loss")


def accuracies(course: Sequence[Point], style: Theme) -> Options:
    """Accuracy over all test examples, and over devices a band from the worst tenth of them up to their mean."""
    points = thinned(trained(course))
    worst, mean = _xy(points, lambda point: point.worst), _xy(points, lambda point: point.mean)
    series = [
        *_band(worst, mean, style, 0),
        _line("all examples", _xy(points, lambda point: point.accuracy), style, 0),
        _line("worst tenth of devices", worst, style, 1),
        _line("personal, mean", _xy(points, lambda point: point.personal_mean), style, 2),
        _line("personal, worst tenth", _xy(points, lambda point: point.personal_worst), style, 3),
    ]
    return _framed(style, series, x="round", y="accuracy", most=_top(points))


def learning(course: Sequence[Point], style: Theme) -> Options:
    """How it goes in one small picture: accuracy where it is measured, else the loss."""
    points = thinned(trained(course))
    accuracy = _line("accuracy", _xy(points, lambda point: point.accuracy), style, 0)
    worst = _line("worst tenth of devices", _xy(points, lambda point: point.worst), style, 1)
    loss = _line("training loss", _xy(points, lambda point: point.loss), style, 0)
    return _framed(style, [accuracy, worst] if accuracy["data"] else [loss], x="round", y="")


def _top(points: Sequence[Point]) -> float | None:
    """1 where it is accuracies that are shown."""
    return 1.0 if any(point.accuracy is not None for point in points) else None


def round_times(course: Sequence[Point], style: Theme) -> Options:
    """Each round's seconds, in parts where its children told them; an attempt that failed stands in its place."""
    points = thinned(tuple(course), MAX_BARS)
    names = [_label(point) for point in points]
    parts = [
        _bar(f"{part}", [_part(point, part) for point in points], style.spent[part])
        for part in ("train", "transfer", "wait", "aggregate")
    ]
    untold = [_rounded(point.elapsed_s) if point.times is None else None for point in points]
    series = [bar for bar in (*parts, _bar("in all", untold, style.faint)) if any(bar["data"])]
    options = _framed(style, series, x="round", y="seconds", least=0.0)
    options["xAxis"] |= {"type": "category", "data": names}
    return options


def _part(point: Point, part: str) -> float | None:
    return None if point.times is None else _rounded(getattr(point.times, f"{part}_s"))


def _label(point: Point) -> str:
    attempt = f" try {point.attempt + 1}" if point.attempt else ""
    return f"{point.round}{attempt}{' failed' if point.state == 'failed' else ''}"


def transfers(course: Sequence[Point], style: Theme) -> Options:
    """Kilobytes that crossed the cloud's links in each round."""
    points = thinned(tuple(course), MAX_BARS // 2)
    series = [
        _bar("down", [_rounded(point.bytes_down / 1000) for point in points], style.series[0], stack=""),
        _bar("up", [_rounded(point.bytes_up / 1000) for point in points], style.series[1], stack=""),
    ]
    options = _framed(style, series, x="round", y="kB", least=0.0)
    options["xAxis"] |= {"type": "category", "data": [_label(point) for point in points]}
    return options


def budget(course: Sequence[Point], style: Theme) -> Options:
    """The privacy budget that was spent by each round."""
    points = thinned(tuple(point for point in course if point.epsilon is not None))
    return _framed(style, [_line("ε spent", _xy(points, lambda point: point.epsilon), style, 3)], x="round", y="ε")


# ── a device ────────────────────────────────────────────────────────────────────────────────────────────────────


def device_losses(turns: Sequence[Turn], style: Theme) -> Options:
    return _framed(style, [_line("training loss", _of(turns, lambda turn: turn.loss), style, 0)], x="round", y="loss")


def device_speed(turns: Sequence[Turn], style: Theme) -> Options:
    """When its update was in, and how much of that it worked."""
    series = [
        _line("update was in after", _of(turns, lambda turn: turn.after_s), style, 0),
        _line("of that it worked", _of(turns, lambda turn: turn.train_s), style, 1),
    ]
    return _framed(style, series, x="round", y="seconds", least=0.0)


def device_share(turns: Sequence[Turn], style: Theme) -> Options:
    """Its part of its parent's round, in per cent of the examples; nothing where it gave nothing."""
    shares = _of(turns, lambda turn: 0.0 if turn.share is None else turn.share * 100)
    steps = _line("share of the round's examples", shares, style, 0)
    steps |= {"step": "middle", "areaStyle": {"opacity": 0.18}}
    return _framed(style, [steps], x="round", y="%", least=0.0)


def _of(turns: Sequence[Turn], value: Callable[[Turn], float | None]) -> list[list[float]]:
    told = [(turn, value(turn)) for turn in turns if turn.task == "train"]
    return [[turn.round.round + turn.round.step / 100, _rounded(found)] for turn, found in told if found is not None]


# ── runs beside each other ──────────────────────────────────────────────────────────────────────────────────────


def compared(
    courses: Mapping[str, Sequence[Point]], style: Theme, *, axis: Axis, value: Literal["accuracy", "loss", "worst"]
) -> Options:
    """A line for each run, over rounds, over seconds of rounds, or over the bytes that its rounds cost."""
    series = [
        _line(name, _along(trained(course), axis, value), style, place)
        for place, (name, course) in enumerate(list(courses.items())[:MAX_COMPARED])
    ]
    units = {"round": "round", "seconds": "seconds", "bytes": "MB"}
    options = _framed(style, series, x=units[axis], y={"worst": "worst tenth of devices"}.get(value, value))
    if axis != "round":
        # What a run cost begins with nothing; the axis ends at a number that can be read.
        options["xAxis"] |= {"min": 0, "max": None}
    return options


def _along(points: Sequence[Point], axis: Axis, value: str) -> list[list[float]]:
    seconds = transferred = 0.0
    line: list[list[float]] = []
    for point in points:
        seconds += point.elapsed_s
        transferred += (point.bytes_down + point.bytes_up) / 1e6
        found = getattr(point, value)
        if found is not None:
            place = {"round": float(point.round), "seconds": seconds, "bytes": transferred}[axis]
            line.append([_rounded(place), _rounded(found)])
    return line


# ── parts of a chart ────────────────────────────────────────────────────────────────────────────────────────────


def is_empty(options: Options) -> bool:
    """Whether nothing would be drawn."""
    return not any(value is not None for series in options["series"] for value in series["data"])


def _xy(points: Sequence[Point], value: Callable[[Point], float | None]) -> list[list[float]]:
    return [[point.round, _rounded(found)] for point in points if (found := value(point)) is not None]


def _rounded(value: float) -> float:
    """Six digits: what a screen can show, in fewer bytes."""
    return float(f"{value:.6g}")


def _line(name: str, data: list[list[float]], style: Theme, place: int) -> Options:
    colour = style.series[place % len(style.series)]
    return {
        "type": "line",
        "name": name,
        "data": data,
        "color": colour,
        "lineStyle": {"width": 2, "type": _DASHES[place % len(_DASHES)]},
        "symbol": _MARKS[place % len(_MARKS)],
        "symbolSize": 6,
        "showSymbol": len(data) < 60,
        "animation": False,
    }


def _band(low: list[list[float]], high: list[list[float]], style: Theme, place: int) -> list[Options]:
    """An area between two lines, without a name of its own: nothing up to the lower, and the difference on it."""
    floors = {point[0]: point[1] for point in low}
    area = [[x, _rounded(y - floors[x])] for x, y in high if x in floors]
    bare = {"lineStyle": {"opacity": 0}, "showSymbol": False, "stack": "band", "tooltip": {"show": False}}
    fill = {"areaStyle": {"opacity": 0.18}}
    base = _line("", [[x, floors[x]] for x, _ in area], style, place) | bare
    return [base, _line("", area, style, place) | bare | fill]


def _bar(name: str, data: Sequence[float | None], colour: str, *, stack: str = "all") -> Options:
    bar: Options = {
        "type": "bar",
        "name": name,
        "data": list(data),
        "color": colour,
        "barMaxWidth": 28,
        "animation": False,
    }
    return bar | ({"stack": stack} if stack else {})


def _framed(
    style: Theme,
    series: list[Options],
    *,
    x: str,
    y: str,
    least: float | None = None,
    most: float | None = None,
) -> Options:
    text = {"color": style.faint, "fontSize": 11}
    axis: Options = {
        "nameTextStyle": text | {"align": "left"},
        "axisLabel": text | {"hideOverlap": True},
        "axisLine": {"lineStyle": {"color": style.line}},
        "axisTick": {"show": False},
        "splitLine": {"lineStyle": {"color": style.line}},
    }
    told = [one for one in series if one["data"]]
    return {
        "aria": {"enabled": True},
        "animation": False,
        "textStyle": {"fontFamily": "system-ui, sans-serif"},
        "grid": {"left": 8, "right": 14, "top": 52 if y else 36, "bottom": 24, "containLabel": True},
        "legend": {
            "top": 0,
            "left": 0,
            "itemHeight": 9,
            "padding": [4, 0, 4, 2],
            "itemWidth": 22,
            "textStyle": text | {"color": style.ink},
            "data": [one["name"] for one in told if one["name"]],
        },
        "tooltip": {
            "trigger": "axis",
            "confine": True,
            "backgroundColor": style.page,
            "borderColor": style.line,
            "textStyle": {"color": style.ink, "fontSize": 12},
        },
        "xAxis": axis
        | {
            # The last one would be cut off by the chart's edge.
            "axisLabel": axis["axisLabel"] | {"alignMaxLabel": "right"},
            "type": "value",
            "name": x,
            "nameLocation": "middle",
            "nameGap": 24,
            "min": "dataMin",
            "max": "dataMax",
            "minInterval": 1 if x == "round" else 0,
            "splitLine": {"show": False},
        },
        "yAxis": axis | {"type": "value", "name": y, "nameGap": 8, "scale": least is None, "min": least, "max": most},
        "series": told,
    }
