"""Law: a node's page says what it is, where it hangs, how it took part, and why it was refused."""

import time
from html import escape
from typing import Final

from nicegui import ui

from headwater.dashboard.pages.components import Markup, Rows, chart, facts, figures, heading, state
from headwater.dashboard.pages.events import COLUMNS
from headwater.dashboard.pages.parts import every_tick
from headwater.dashboard.pages.site import Site, Visitor
from headwater.dashboard.view import charts
from headwater.dashboard.view.device import of_newest_run, part_of, refusals_of, strip, turn_lines, turns_of
from headwater.dashboard.view.events import lines
from headwater.dashboard.view.state import Fleet, Seen
from headwater.dashboard.view.summary import node_figures, place_of, said_of_itself
from headwater.dashboard.view.table import Column

TURNS: Final = (
    Column("round"),
    Column("run"),
    Column("task"),
    Column("state"),
    Column("examples", True),
    Column("share", True),
    Column("training loss", True),
    Column("in after", True),
    Column("of that at work", True),
    Column("size", True),
)
NOT_YET: Final = "It comes with the first round that it takes part in while somebody listens."
NOBODY: Final = (
    "No node of this name was heard of: is it written as in the tree? A device whose broker this dashboard does not "
    "listen to is known from the first round that it takes part in."
)


def page(site: Site, visitor: Visitor, name: str) -> None:
    with ui.element("div").classes("hw-head"):
        heading(1, name)
        word = Markup("span")
        place = Markup("span", "hw-faint")
    nobody = ui.label(NOBODY).classes("hw-empty")
    with ui.element("div").classes("hw-column") as parts:
        numbers = Markup("dl", "hw-figures")
        with ui.element("section").classes("hw-card"):
            heading(2, "Its rounds of the newest run, oldest first")
            marks = Markup("div", "hw-strip", 'role="img"')
    with ui.element("div").classes("hw-grid"):
        loss = chart("Training loss", NOT_YET)
        speed = chart("Speed", NOT_YET)
        share = chart("Share of its parent's examples", NOT_YET)
        with ui.element("section").classes("hw-card") as said:
            heading(2, "What it says of itself")
            about = Markup("dl", "hw-about")
    with ui.element("div").classes("hw-column") as past:
        with ui.element("section").classes("hw-card"):
            heading(2, "Refused, and why")
            refused = Rows("Refusals of this node", COLUMNS, "Nothing of it was refused since somebody listened.")
        with ui.element("section").classes("hw-card"):
            heading(2, "Its newest rounds")
            rows = Rows("Rounds of this node, newest first", TURNS, NOT_YET)

    def show(fleet: Fleet) -> None:
        seen, recorded = fleet.nodes.get(name), site.history.node(name)
        every = turns_of(fleet, name, recorded.turns)
        turns = of_newest_run(every)
        part = part_of(fleet, name, bool(recorded.turns or recorded.refusals))
        nobody.set_visibility(part == "nobody")
        said.set_visibility(part != "nobody")
        for shown in (parts, past, loss.card, speed.card, share.card):
            shown.set_visibility(part == "takes part")
        word.show(state(seen.status.state if seen else ("unknown" if not turns else "online")))
        place.show(_place(fleet, name, seen, visitor) if part != "nobody" else "")
        numbers.show(figures(node_figures(seen, turns, time.time())))
        _strip(marks, strip(turns))
        style = visitor.theme
        loss.show(charts.device_losses(turns, style))
        speed.show(charts.device_speed(turns, style))
        share.show(charts.device_share(turns, style))
        about.show(_about(seen))
        refused.show(lines(refusals_of(fleet, name, recorded.refusals), visitor.clock))
        rows.show(turn_lines(every))

    every_tick(site, show, also=lambda: (site.history.revision, visitor.dark))


def _place(fleet: Fleet, name: str, seen: Seen | None, visitor: Visitor) -> str:
    role, parent = place_of(fleet, name)
    below = f' below <a href="/node/{escape(parent)}">{escape(parent)}</a>' if parent else ""
    below = ', which leads the rounds of the <a href="/run">run</a>' if name == fleet.cloud else below
    since = f", {seen.status.state} since {visitor.clock(seen.since)}" if seen and seen.since is not None else ""
    since = since if seen else ", known from its parent's rounds"
    return f"{escape(role)}{below}{escape(since)}"


def _strip(marks: Markup, told: tuple[tuple[str, str], ...]) -> None:
    cells = (f'<i class="hw-cell {escape(state)}" title="{escape(words)}"></i>' for state, words in told)
    marks.show("".join(cells) or f'<p class="hw-empty">{NOT_YET}</p>')
    gave = sum(state == "received" for state, _ in told)
    marks.element.props(f'aria-label="in {gave} of {len(told)} rounds"')


def _about(seen: Seen | None) -> str:
    if seen is None:
        return "<dt>status</dt><dd>its broker is none of those that this dashboard listens to</dd>"
    return facts(said_of_itself(seen.status))
