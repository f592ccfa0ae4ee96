"""Law: runs are compared on the same axes: by rounds, by seconds, by what they cost in bytes."""

from typing import Final, get_args

from nicegui import PageArguments, ui

from headwater.dashboard.pages.components import Rows, chart, heading
from headwater.dashboard.pages.parts import every_tick
from headwater.dashboard.pages.site import Site, Visitor
from headwater.dashboard.view import charts
from headwater.dashboard.view.charts import AXES, MAX_COMPARED, Axis
from headwater.dashboard.view.course import Point
from headwater.dashboard.view.runs import all_runs, course_of, outcome_lines
from headwater.dashboard.view.state import Fleet
from headwater.dashboard.view.table import Column

COLUMNS: Final = (
    Column("run"),
    Column("state"),
    Column("rounds", True),
    Column("accuracy", True),
    Column("worst tenth", True),
    Column("training loss", True),
    Column("took", True),
    Column("at the cloud's links", True),
)
EMPTY: Final = "Choose runs above. Runs that are over are known by the cloud's HTTP API: --api http://HOST:PORT"


def page(site: Site, visitor: Visitor, args: PageArguments) -> None:
    """`?runs=ID,ID` chooses from the beginning, and `&along=` seconds or bytes."""
    given = [run for run in args.query_parameters.get("runs", "").split(",") if run]
    heading(1, "Compare runs")
    with ui.element("div").classes("hw-filters"):
        box = (
            ui.select({run: run for run in given}, label=f"Runs, up to {MAX_COMPARED}", multiple=True, value=given)
            .props(f'dense outlined options-dense use-chips max-values="{MAX_COMPARED}"')
            .classes("hw-wide")
        )
        along = along_of(args.query_parameters.get("along"))
        axis = ui.toggle(dict(AXES), value=along).props('no-caps unelevated aria-label="Along"')
    with ui.element("div").classes("hw-grid three"):
        accuracy = chart("Accuracy", EMPTY)
        loss = chart("Training loss", EMPTY)
        worst = chart("Worst tenth of devices", EMPTY)
    with ui.element("section").classes("hw-card"):
        heading(2, "What came of them")
        rows = Rows("Runs that are compared", COLUMNS, EMPTY)

    def show(fleet: Fleet) -> None:
        known = all_runs(site.history.runs(), fleet)
        options = {row.id: f"{row.id} · {row.state}" for row in known} | {
            run: run for run in given if all(run != row.id for row in known)
        }
        if options != box.options:
            box.set_options(options, value=box.value or [row.id for row in known[:2]])
        courses: dict[str, tuple[Point, ...]] = {
            run: course_of(fleet, run, site.history.course(run)) for run in (box.value or [])[:MAX_COMPARED]
        }
        along = along_of(axis.value)
        accuracy.show(charts.compared(courses, visitor.theme, axis=along, value="accuracy"))
        loss.show(charts.compared(courses, visitor.theme, axis=along, value="loss"))
        worst.show(charts.compared(courses, visitor.theme, axis=along, value="worst"))
        rows.show(outcome_lines(known, courses))

    every_tick(site, show, also=lambda: (site.history.revision, visitor.dark, tuple(box.value or ()), axis.value))


def along_of(asked: object) -> Axis:
    """By rounds, where it is none that there is."""
    return next((axis for axis in get_args(Axis) if axis == asked), "round")
