"""Law: the software's page shows what devices run, how far a release of new software is, and why it goes no further."""

from html import escape
from typing import Final

from nicegui import ui

from headwater.dashboard.pages.components import Markup, Rows, bars, facts, figures, heading, state
from headwater.dashboard.pages.operate import release_actions
from headwater.dashboard.pages.parts import every_tick
from headwater.dashboard.pages.site import Site, Visitor
from headwater.dashboard.view.software import (
    RELEASES,
    earlier_lines,
    release_facts,
    software_figures,
    stages,
    updates,
    versions,
    why,
)
from headwater.dashboard.view.state import Fleet
from headwater.dashboard.view.table import Column

UPDATES: Final = (Column("device"), Column("state"), Column("version", is_whole=True), Column("detail"))
EARLIER: Final = (
    Column("release"),
    Column("version", is_whole=True),
    Column("state"),
    Column("stage", is_whole=True),
    Column("updated", True),
    Column("failed", True),
    Column("published", is_whole=True),
)
NOBODY: Final = "No device was heard of yet."
QUIET: Final = "No update is under way, and none has failed."
NO_API: Final = "How far a release is, is known by the cloud's HTTP API: --api http://HOST:PORT"
NO_RELEASE: Final = (
    "No release yet. Publish one where its key is: headwater release publish dist/headwater-….whl --key release.key"
)


def page(site: Site, visitor: Visitor) -> None:
    with ui.element("div").classes("hw-head"):
        heading(1, "Software")
        with ui.element("div").classes("hw-side"):
            actions = release_actions(site)
    numbers = Markup("dl", "hw-figures")
    with ui.element("div").classes("hw-grid"):
        with ui.element("section").classes("hw-card").props('aria-label="The release"'):
            with ui.element("div").classes("hw-head"):
                title = heading(2, "Release")
                word = Markup("span")
            reason = ui.label("").classes("hw-reason")
            progress = Markup("ul", "hw-bars")
            about = Markup("dl", "hw-about")
        with ui.element("section").classes("hw-card"):
            heading(2, "What the devices run")
            nobody = ui.label(NOBODY).classes("hw-empty")
            running = Markup("ul", "hw-bars")
    with ui.element("section").classes("hw-card"):
        heading(2, "Updates under way, and failed ones")
        table = Rows("Updates under way, and failed ones", UPDATES, QUIET)
        more = ui.label("").classes("hw-faint")
    with ui.element("section").classes("hw-card") as past:
        heading(2, "Earlier releases")
        earlier = Rows("Earlier releases, newest first", EARLIER, "None yet.")

    def show(fleet: Fleet) -> None:
        releases = site.history.releases()
        current = next((release for release in releases if release.is_current), None)
        told, run = updates(fleet, current), versions(fleet)
        numbers.show(figures(software_figures(fleet, told)))
        running.show(bars(run))
        nobody.set_visibility(not run)
        title.set_content(escape(f"Release {current.counter}, version {current.version}" if current else "Release"))
        word.show(state(*RELEASES[current.state]) if current else "")
        reason.set_text(why(current, visitor.clock) if current else NO_RELEASE if site.history.is_there else NO_API)
        progress.show(bars(stages(current)) if current else "")
        about.show(facts(release_facts(current, visitor.clock)) if current else "")
        table.show(told.lines)
        more.set_text(f"and {told.more} more" if told.more else "")
        more.set_visibility(bool(told.more))
        past.set_visibility(any(not release.is_current for release in releases))
        earlier.show(earlier_lines(releases, visitor.clock))
        actions(current)

    every_tick(site, show, also=lambda: site.history.revision)
