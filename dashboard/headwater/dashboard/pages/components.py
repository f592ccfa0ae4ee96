"""Law: what is drawn anew many times a second has a component of its own, which is told what changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from nicegui import ui
from nicegui.element import Element

from headwater.dashboard.view.charts import Options, is_empty
from headwater.dashboard.view.software import Bar
from headwater.dashboard.view.table import Column, Line, as_columns, as_rows
from headwater.dashboard.view.tree import WORDS, Picture, patch, whole


class FleetView(Element, component="static/fleet.js"):
    """The tree of a fleet. Only differences go to the browser, and a cell that stays keeps its focus."""

    def __init__(self, picture: Picture) -> None:
        super().__init__()
        self._shown = picture
        self._props["words"] = dict(WORDS)
        self._props["picture"] = whole(picture)

    def show(self, picture: Picture) -> None:
        changes = patch(self._shown, picture)
        if changes is None:
            return
        self._shown = picture
        # What a browser is given that comes back after a break; this one is told the difference.
        with self._props.suspend_updates():
            self._props["picture"] = whole(picture)
        self.run_method("patch", changes)


class Rows(Element, component="static/rows.js"):
    """A table. Its region can be scrolled by keyboard, and its caption is read aloud."""

    def __init__(self, caption: str, columns: Sequence[Column], empty: str) -> None:
        super().__init__()
        self._told: Sequence[Line] = ()
        self._props["caption"] = caption
        self._props["columns"] = as_columns(columns)
        self._props["empty"] = empty
        self._props["rows"] = []

    def show(self, lines: Sequence[Line]) -> None:
        if lines != self._told:
            self._told = lines
            self._props["rows"] = as_rows(lines)


@dataclass
class Chart:
    """A chart in a card of its own, which says in words that there is nothing yet."""

    card: ui.element
    empty: ui.label
    chart: ui.echart | None = None
    told: Options | None = None

    def show(self, options: Options) -> None:
        if options == self.told:
            return
        self.told = options
        bare = is_empty(options)
        self.empty.set_visibility(bare)
        if self.chart is None and not bare:
            with self.card:
                self.chart = ui.echart(options).classes("hw-chart")
        elif self.chart is not None:
            self.chart.set_visibility(not bare)
            self.chart.options.clear()
            self.chart.options.update(options)
            self.chart.update()


def chart(title: str, empty: str) -> Chart:
    """A card for a chart; `empty` says what to do where there is nothing to show."""
    with ui.element("section").classes("hw-card").props(f'aria-label="{escape(title)}"') as card:
        heading(2, title)
        label = ui.label(empty).classes("hw-empty")
    return Chart(card, label)


def heading(level: int, text: str) -> ui.html:
    return ui.html(escape(text), sanitize=False, tag=f"h{level}")


class Markup:
    """HTML that was worked out from escaped text; sent anew only where it differs."""

    def __init__(self, tag: str = "div", classes: str = "", props: str = "") -> None:
        self.element = ui.html("", sanitize=False, tag=tag).classes(classes).props(props)

    def show(self, content: str) -> None:
        self.element.set_content(content)


def figures(told: Mapping[str, str]) -> str:
    """Name and value, many beside each other."""
    each = (f'<div class="hw-figure"><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>' for k, v in told.items())
    return "".join(each)


def facts(told: Mapping[str, str]) -> str:
    """Name and value, one below the other."""
    return "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in told.items())


def bars(told: Sequence[Bar]) -> str:
    """A bar each, with its words above it, which say all that the bar shows."""
    return "".join(
        f"<li><b>{escape(bar.label)}</b><span>{escape(bar.words)}</span>"
        f'<div class="hw-bar" aria-hidden="true"><span style="width:{bar.share * 100:.1f}%"></span>'
        f'<span class="failed" style="width:{bar.failed * 100:.1f}%"></span></div></li>'
        for bar in told
    )


def state(word: str, text: str | None = None) -> str:
    """A state's mark with its word."""
    return f'<span class="hw-state {escape(word)}">{escape(text or word)}</span>'


def props(**values: Any) -> str:
    """As NiceGUI takes them."""
    return " ".join(f'{name.replace("_", "-")}="{escape(str(value))}"' for name, value in values.items())
