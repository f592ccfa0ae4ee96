"""Law: the first page shows the whole fleet at a glance, and whoever is in it one step away."""

from html import escape
from typing import Final

from nicegui import ui

from headwater.dashboard.pages.components import FleetView, Markup, Rows, chart, figures, heading
from headwater.dashboard.pages.parts import every_tick
from headwater.dashboard.pages.site import Site, Visitor
from headwater.dashboard.view import charts
from headwater.dashboard.view.events import AT_FIRST, chosen, short_lines
from headwater.dashboard.view.runs import course_of
from headwater.dashboard.view.state import Fleet
from headwater.dashboard.view.summary import fleet_figures, found
from headwater.dashboard.view.table import Column
from headwater.dashboard.view.tree import WORDS, Picture, tally

MAX_FOUND: Final = 12
MAX_NEWS: Final = 8
NEWS: Final = (Column("time", is_whole=True), Column("what"), Column("about"))

NOBODY: Final = (
    "Nobody was heard of yet. Start a cloud, gateways and devices of this fleet at these brokers, or say which fleet "
    "is meant: headwater dashboard --fleet NAME."
)


def page(site: Site, visitor: Visitor) -> None:
    with ui.element("div").classes("hw-head"):
        heading(1, "The fleet")
        with ui.element("div").classes("hw-side"):
            _finder(site)
    numbers = Markup("dl", "hw-figures")
    with ui.element("div").classes("hw-sides"):
        with ui.element("section").classes("hw-card").props('aria-label="The tree"'):
            legend = Markup("div", "hw-legend")
            empty = ui.label(NOBODY).classes("hw-empty")
            view = FleetView(Picture())
        with ui.element("div").classes("hw-column"):
            learning = chart("How it learns", "It comes with the first round that is over.")
            with ui.element("section").classes("hw-card"):
                heading(2, "Newest events")
                news = Rows("Newest events", NEWS, "Nothing yet: refusals, and nodes that come and go, show up here.")
                ui.link("All events", "/events")

    def show(fleet: Fleet) -> None:
        picture = site.feed.picture
        view.show(picture)
        legend.show(_legend(picture))
        empty.set_visibility(not picture.rows)
        numbers.show(figures(fleet_figures(fleet)))
        run = fleet.run.run if fleet.run else ""
        learning.show(charts.learning(course_of(fleet, run, site.history.course(run) if run else ()), visitor.theme))
        news.show(short_lines(chosen(fleet.happenings, AT_FIRST, "", MAX_NEWS), visitor.clock))

    every_tick(site, show, also=lambda: (site.history.revision, visitor.dark))


def _legend(picture: Picture) -> str:
    """What each mark means, with how many there are of it."""
    return "".join(
        f'<span><i class="hw-cell {state}" aria-hidden="true"></i>{escape(WORDS[state])} <b>{number}</b></span>'
        for state, number in tally(picture).items()
        if number
    )


def _finder(site: Site) -> None:
    """A node by the letters of its name."""

    def look(text: str) -> None:
        names = found(site.feed.fleet, text, MAX_FOUND)
        box.set_options(names) if names != box.options else None

    box = (
        ui.select([], label="Find a node", with_input=True, on_change=lambda event: _go(event.value))
        .props('dense outlined options-dense hide-dropdown-icon input-debounce="100" data-find')
        .on("input-value", lambda event: look(str(event.args)))
    )


def _go(name: str | None) -> None:
    if name:
        ui.navigate.to(f"/node/{name}")
