"""Law: a run's page shows how well it learns, for whom, how its time and its bytes are spent, and who is at it now."""

from collections.abc import Callable
from html import escape
from typing import Final

from nicegui import ui

from headwater.dashboard.pages.components import Markup, Rows, chart, figures, heading, state
from headwater.dashboard.pages.operate import run_actions
from headwater.dashboard.pages.parts import every_tick
from headwater.dashboard.pages.site import Site, Visitor
from headwater.dashboard.view import charts
from headwater.dashboard.view.runs import RunRow, all_runs, course_of, link_lines, member_lines, status_of
from headwater.dashboard.view.state import Fleet
from headwater.dashboard.view.summary import run_figures
from headwater.dashboard.view.table import Column
from headwater.dashboard.view.words import percent

NO_RUN: Final = "No run was heard of yet. Start one: headwater run start docs/examples/run.toml"
NO_SUCH_RUN: Final = (
    "No run of this name is known. Choose another above; those from before this dashboard began to listen are known by "
    "the cloud's HTTP API: --api http://HOST:PORT"
)
NO_ROUND: Final = "No round of this run was heard; it may be over."
LINKS: Final = (
    Column("between"),
    Column("round", True),
    Column("down", True),
    Column("up", True),
    Column("down a second", True),
    Column("up a second", True),
)
MEMBERS: Final = (
    Column("node"),
    Column("state"),
    Column("in the round of"),
    Column("examples", True),
    Column("training loss", True),
    Column("in after", True),
    Column("of that at work", True),
    Column("size", True),
)


def page(site: Site, visitor: Visitor, name: str) -> None:
    """The run of that name; of none the one that is worked on, or was last."""
    with ui.element("div").classes("hw-head"):
        title = heading(1, "Run")
        word = Markup("span")
        with ui.element("div").classes("hw-side"):
            actions = run_actions(site)
            chosen = _chooser()
    bar = Markup("div", "hw-progress", 'role="progressbar" aria-label="rounds that are over" aria-valuemin="0"')
    note = ui.label(NO_RUN).classes("hw-empty")
    numbers = Markup("dl", "hw-figures")
    with ui.element("div").classes("hw-column") as parts:
        with ui.element("div").classes("hw-grid"):
            accuracy = chart(
                "Accuracy, and its spread over devices", "It comes with the first model that was measured."
            )
            loss = chart("Loss by round", "It comes with the first round that is over.")
            spent = chart("How the time of a round was spent", "It comes with the first round that is over.")
            moved = chart("Bytes at the cloud's links", "It comes with the first round that is over.")
        epsilon = chart("Privacy budget", "This run spends none.")
        with ui.element("section").classes("hw-card"):
            heading(2, "Bytes on the links of each parent, in its newest round")
            links = Rows("Bytes on links", LINKS, NO_ROUND)
        with ui.element("section").classes("hw-card"):
            heading(2, "Who is at it now")
            members = Rows("Members of the newest rounds", MEMBERS, NO_ROUND)

    def show(fleet: Fleet) -> None:
        run = name or (fleet.run.run if fleet.run else "")
        rows = all_runs(site.history.runs(), fleet)
        run = run or (rows[0].id if rows else "")
        row = next((row for row in rows if row.id == run), None)
        status, course = status_of(fleet, run), course_of(fleet, run, site.history.course(run))
        title.set_content(escape(run or "No run yet"))
        word.show(state(row.state) if row else "")
        is_known = bool(row or course)
        note.set_text(NO_SUCH_RUN if run else NO_RUN)
        note.set_visibility(not is_known)
        numbers.element.set_visibility(is_known)
        parts.set_visibility(is_known)
        numbers.show(figures(run_figures(status, course) | ({} if status or not row else {"round": _so_far(row)})))
        _progress(bar, row)
        style = visitor.theme
        accuracy.show(charts.accuracies(course, style))
        loss.show(charts.losses(course, style))
        spent.show(charts.round_times(course, style))
        moved.show(charts.transfers(course, style))
        budget = charts.budget(course, style)
        epsilon.card.set_visibility(not charts.is_empty(budget))
        epsilon.show(budget)
        links.show(link_lines(fleet, run))
        members.show(member_lines(fleet, run))
        chosen(rows, run)
        actions(row)

    every_tick(site, show, also=lambda: (site.history.revision, visitor.dark))


def _so_far(row: RunRow) -> str:
    return f"{row.round} of {row.rounds}"


def _progress(bar: Markup, row: RunRow | None) -> None:
    share = min(1.0, row.round / row.rounds) if row and row.rounds else 0.0
    bar.element.set_visibility(row is not None)
    bar.element.props(f'aria-valuenow="{round(share * 100)}" aria-valuemax="100" title="{percent(share, 0)}"')
    bar.show(f'<span style="width:{share * 100:.1f}%"></span>')


def _chooser() -> Callable[[tuple[RunRow, ...], str], None]:
    """Another run; returns what tells it which there are."""
    shown: tuple[tuple[RunRow, ...], str] = ((), "")

    def go(run: str | None) -> None:
        if run and run != shown[1]:
            ui.navigate.to(f"/run/{run}")

    box = ui.select({}, label="Another run", on_change=lambda event: go(event.value)).props(
        "dense outlined options-dense"
    )

    def show(rows: tuple[RunRow, ...], run: str) -> None:
        nonlocal shown
        if (rows, run) != shown:
            shown = (rows, run)
            options = {row.id: f"{row.id} · {row.state}" for row in rows}
            box.set_options(options, value=run if run in options else None)

    return show
