"""Law: what happened can be read without a terminal: what was refused and why, who came and went, how runs ended."""

from typing import Final

from nicegui import PageArguments, ui

from headwater.dashboard.pages.components import Rows, heading
from headwater.dashboard.pages.parts import every_tick
from headwater.dashboard.pages.site import Site, Visitor
from headwater.dashboard.view.events import AT_FIRST, KINDS, MAX_SHOWN, chosen, lines
from headwater.dashboard.view.state import Fleet
from headwater.dashboard.view.table import Column

COLUMNS: Final = (
    Column("time", is_whole=True),
    Column("what"),
    Column("node"),
    Column("run"),
    Column("round", True),
    Column("reason"),
    Column("detail"),
)


def page(site: Site, visitor: Visitor, args: PageArguments) -> None:
    """`?node=NAME` narrows it from the beginning."""
    kinds = set(AT_FIRST)
    heading(1, "Events and refusals")
    with ui.element("div").classes("hw-filters").props('role="group" aria-label="Which events"'):
        for kind in KINDS:
            ui.checkbox(kind, value=kind in kinds, on_change=lambda event, kind=kind: _keep(kinds, kind, event.value))
        text = ui.input("Node, run or words", value=args.query_parameters.get("node", "")).props(
            'dense outlined clearable debounce="200"'
        )
    with ui.element("section").classes("hw-card"):
        rows = Rows(
            "Events, newest first",
            COLUMNS,
            "Nothing of this kind since the dashboard began to listen. Refused updates, nodes that come and go, and "
            "the ends of rounds and runs show up here by themselves.",
        )
        more = ui.label("").classes("hw-faint")

    def show(fleet: Fleet) -> None:
        found = chosen(fleet.happenings, frozenset(kinds), text.value or "")
        rows.show(lines(found, visitor.clock))
        more.set_text(f"The newest {MAX_SHOWN} of them." if len(found) == MAX_SHOWN else "")
        more.set_visibility(len(found) == MAX_SHOWN)

    every_tick(site, show, also=lambda: (frozenset(kinds), text.value))


def _keep(kinds: set[str], kind: str, wanted: bool) -> None:
    (kinds.add if wanted else kinds.discard)(kind)
