"""Law: every page stands in one frame: where one is, what is away, and what can be done from the keyboard."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, Final

from nicegui import app, ui
from nicegui.events import KeyEventArguments

from headwater.dashboard.pages import compare, device, events, run, software, tree
from headwater.dashboard.pages.components import Markup, heading, state
from headwater.dashboard.pages.operate import operator_button
from headwater.dashboard.pages.site import Site, Visitor
from headwater.dashboard.view.banner import problems

TICK_S: Final = 0.5
"""How often a browser is told what changed."""

PRIMARY: Final = "#2476b4"
"""Of what the toolkit colours by itself: it bears white text, and stands out from a light page and from a dark one."""

TAB_KEPT_S: Final = 8 * 3600.0
"""What is kept for a tab, an operator's token, is forgotten so long after it was seen last."""

ASKED_TIMEOUT_S: Final = 3.0
ASKED_TIMES: Final = 3
SURROUNDINGS: Final = "return hw.surroundings()"
_STATIC: Final = Path(__file__).parent / "static"
_THEMES: Final = {"auto": ("◐", "as the system"), "light": ("☀", "light"), "dark": ("☾", "dark")}
_MARK: Final = (
    '<svg viewBox="0 0 24 24" aria-hidden="true" fill="none" stroke="currentColor" stroke-width="2.2" '
    'stroke-linecap="round"><path d="M4 3c0 7 8 5 8 12M20 3c0 7-8 5-8 12M12 3v18"/></svg>'
)


@dataclass(frozen=True, slots=True)
class Place:
    """A page that the navigation leads to; `key` goes there after g."""

    path: str
    name: str
    key: str


PLACES: Final = (
    Place("/", "Tree", "t"),
    Place("/run", "Run", "r"),
    Place("/compare", "Compare", "c"),
    Place("/software", "Software", "s"),
    Place("/events", "Events", "e"),
)
_SHORTCUTS: Final[Mapping[str, str]] = {
    **{f"g {place.key}": f"go to {place.name.lower()}" for place in PLACES},
    "/": "find a node",
    "d": "light, dark, or as the system",
    "?": "this list",
    "Esc": "close what is open",
}


def register(site: Site) -> Callable[[], Any]:
    """The function that builds the one page, of which all others are parts."""
    app.storage.max_tab_storage_age = TAB_KEPT_S
    for script in ("theme.js", "patience.js"):
        ui.add_head_html(f"<script>{(_STATIC / script).read_text(encoding='utf-8')}</script>", shared=True)
    ui.add_css((_STATIC / "style.css").read_text(encoding="utf-8"), shared=True)

    async def root() -> None:
        visitor = Visitor()
        frame = Frame(site, visitor)
        client = ui.context.client
        await client.connected()
        told = await _surroundings()
        # Whoever only fetched the page, or left, has no page to be built.
        if not client.is_deleted:
            frame.begin(told)

    return root


async def _surroundings() -> Mapping[str, Any] | None:
    """What the browser says of itself; None where it does not, and a page for anybody has to do."""
    for _ in range(ASKED_TIMES):
        try:
            told: Mapping[str, Any] | None = await ui.run_javascript(SURROUNDINGS, timeout=ASKED_TIMEOUT_S)
        except TimeoutError:
            continue
        return told
    return None


class Frame:
    """What stands around the page."""

    def __init__(self, site: Site, visitor: Visitor) -> None:
        self._site, self._visitor, self._client = site, visitor, ui.context.client
        ui.colors(primary=PRIMARY)
        self._dark = ui.dark_mode(None)
        self._links: dict[str, ui.element] = {}
        self._prefix = False
        self._help = self._help_dialog()
        self._top()
        self._banner = Markup("div", "hw-banner", 'role="alert"')
        self._banner.element.set_visibility(False)
        self._main = ui.element("div").classes("hw-main").props('tabindex="-1"')
        with self._main:
            self._waiting = ui.label("Asking the fleet …").classes("hw-empty hw-waiting")
        ui.skip_link("Skip to the page", target=self._main)
        ui.on("scheme", lambda event: self._surround(event.args))

    def begin(self, told: Mapping[str, Any] | None) -> None:
        """Show the page, once the browser has said what it looks like there."""
        self._note(told)
        self._waiting.delete()
        router = ui.context.client.sub_pages_router
        router.on_path_changed(self._went)
        self._went(router.current_path, moved=False)
        site, visitor = self._site, self._visitor
        with self._main:
            ui.sub_pages(
                {
                    "/": partial(tree.page, site, visitor),
                    "/run": partial(run.page, site, visitor, name=""),
                    "/run/{name}": partial(run.page, site, visitor),
                    "/node/{name}": partial(device.page, site, visitor),
                    "/compare": partial(compare.page, site, visitor),
                    "/software": partial(software.page, site, visitor),
                    "/events": partial(events.page, site, visitor),
                }
            )
        ui.timer(TICK_S, self._tick)

    # ── parts ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _top(self) -> None:
        with ui.element("header").classes("hw-top"):
            ui.html(
                f"{_MARK}<span>Headwater <small>{escape(self._site.fleet)}</small></span>", sanitize=False, tag="a"
            ).classes("hw-brand").props('href="/"')
            with ui.element("nav").classes("hw-nav").props('aria-label="Pages"'):
                for place in PLACES:
                    link = ui.html(escape(place.name), sanitize=False, tag="a").props(f'href="{place.path}"')
                    self._links[place.path] = link
            with ui.element("div").classes("hw-side"):
                self._state = Markup("span", "hw-link", 'role="status"')
                if self._site.history.is_there:
                    operator_button(self._site)
                self._theme = ui.element("button").classes("hw-icon").on("click", self._turn)
                ui.html("?", sanitize=False, tag="button").classes("hw-icon").props(
                    'aria-label="Keyboard shortcuts"'
                ).on("click", self._help.open)
        self._keyboard = ui.keyboard(self._pressed, ignore=["input", "select", "textarea"])
        self._switch.bind_value_to(self._keyboard, "active")

    def _help_dialog(self) -> ui.dialog:
        with ui.dialog() as dialog, ui.element("div").classes("q-card hw-dialog"):
            heading(2, "From the keyboard")
            each = (f"<dt><kbd>{escape(k)}</kbd></dt><dd>{escape(v)}</dd>" for k, v in _SHORTCUTS.items())
            ui.html("".join(each), sanitize=False, tag="dl")
            self._switch = ui.checkbox("These shortcuts are on", value=True)
            ui.html("Close", sanitize=False, tag="button").classes("hw-button").on("click", dialog.close)
        return dialog

    # ── what the browser says ───────────────────────────────────────────────────────────────────────────────────

    async def _turn(self) -> None:
        order = tuple(_THEMES)
        following = order[(order.index(self._visitor.choice) + 1) % len(order)]
        self._surround(await ui.run_javascript(f"return hw.choose('{following}')", timeout=ASKED_TIMEOUT_S))

    def _surround(self, told: Mapping[str, Any] | None) -> None:
        was = self._visitor.dark
        self._note(told)
        if was != self._visitor.dark:
            # Canvases are drawn with their colours; what stands in the document changes by itself.
            self._tick()

    def _note(self, told: Mapping[str, Any] | None) -> None:
        if told is not None:
            choice = told["choice"] if told["choice"] in _THEMES else "auto"
            self._visitor.told(choice, bool(told["dark"]), str(told.get("zone")))
        self._dark.set_value(self._visitor.dark)
        sign, words = _THEMES[self._visitor.choice]
        self._theme.props(f'aria-label="Colours: {words}" title="Colours: {words}"')
        self._theme.clear()
        with self._theme:
            ui.html(sign, sanitize=False, tag="span")

    def _pressed(self, event: KeyEventArguments) -> None:
        if not event.action.keydown or event.modifiers.ctrl or event.modifiers.meta or event.modifiers.alt:
            return
        key, prefixed = event.key.name, self._prefix
        self._prefix = key == "g" and not prefixed
        place = next((place for place in PLACES if prefixed and place.key == key), None)
        if place:
            ui.navigate.to(place.path)
        elif key == "?":
            self._help.open()
        elif key == "d":
            self._theme.run_method("click")
        elif key == "/":
            ui.run_javascript("document.querySelector('[data-find] input, input[data-find]')?.focus()")

    def _went(self, path: str, *, moved: bool = True) -> None:
        bare = path.split("?")[0]
        here = next((place for place in PLACES[1:] if bare.startswith(place.path)), PLACES[0])
        for where, link in self._links.items():
            if where == here.path and not bare.startswith("/node/"):
                link.props('aria-current="page"')
            else:
                link.props(remove="aria-current")
        name = bare.rsplit("/", 1)[-1] if bare.count("/") > 1 else here.name
        ui.page_title(f"{name} · Headwater")
        if moved:
            # Whoever reads by ear, or walks by Tab, goes on at the new page's beginning.
            ui.run_javascript(f"getHtmlElement({self._main.id}).focus(); window.scrollTo(0, 0)")

    # ── as time goes by ─────────────────────────────────────────────────────────────────────────────────────────

    def _tick(self) -> None:
        if not self._client.has_socket_connection:
            return
        fleet, history = self._site.feed.fleet, self._site.history
        said = problems(fleet, history.trouble, self._visitor.zone, time.time())
        self._banner.show("\n".join(map(escape, said)))
        self._banner.element.set_visibility(bool(said))
        links = fleet.links.values()
        up = sum(link.state == "up" for link in links)
        worst = next((link.state for link in links if link.state != "up"), "up")
        words = "live" if up == len(links) else f"{up} of {len(links)} brokers"
        self._state.show(state(worst, words) if links else state("connecting", "connecting"))
