"""Law: who looks changes nothing; who gives an operator's token may, and is asked again before it is done.

The token lives in the server's memory, for one tab; it is in no address, no file and no log.
"""

import base64
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from nicegui import app, events, ui

from headwater.dashboard.history import Action
from headwater.dashboard.pages.components import heading
from headwater.dashboard.pages.site import Site
from headwater.dashboard.view.asked import MAX_TEXT_LENGTH, described
from headwater.dashboard.view.runs import RunRow
from headwater.dashboard.view.software import offered
from headwater.schemas.errors import ConfigError
from headwater.schemas.http import ReleaseEntry, ReleaseWish
from headwater.schemas.limits import MAX_OBJECT_SIZE_BYTES

_TOKEN: Final = "operator-token"
_MAY: Final[dict[str, tuple[Action, ...]]] = {
    "queued": ("stop",),
    "running": ("pause", "stop"),
    "paused": ("resume", "stop"),
}
_MEANS: Final[dict[Action, str]] = {
    "stop": "Its models so far stay. It cannot be started again; another run can go on from its last model.",
    "pause": "It waits behind the round that is open, until somebody resumes it.",
    "resume": "It goes on with the next round.",
}
_MEANS_OF_RELEASE: Final[dict[ReleaseWish, str]] = {
    "pause": "No device is asked any more. Who has it keeps it; who has not begun stays as it is.",
    "resume": "It goes on in the stage that it is in. Failures that are known by now are forgiven.",
}
_EXAMPLE: Final = (
    'name = "bearings"\ndata = "vibration"\nrounds = 40\n[model]\nkind = "mlp"\nfeatures = 4\nclasses = 3\n'
)


def token() -> str:
    """This tab's, "" where none was given."""
    return str(app.storage.tab.get(_TOKEN, ""))


# ── who may ─────────────────────────────────────────────────────────────────────────────────────────────────────


def operator_button(site: Site) -> None:
    """Asks for an operator's token, or forgets it."""
    with ui.dialog() as dialog, ui.element("form").classes("q-card hw-dialog") as form:
        heading(2, "Operator")
        ui.label(
            "With an operator's token runs can be started, paused, resumed and stopped from this tab, and releases of "
            "software paused and resumed. It is made by: headwater token add NAME --role operator"
        ).classes("hw-faint")
        given = ui.input("Token", password=True).props('outlined dense autocomplete="off" autofocus')
        problem = ui.label("").classes("hw-problem").props('role="alert"')
        problem.set_visibility(False)
        with ui.element("div").classes("hw-filters"):
            _button("Use it", first=True).props('type="submit"')
            _button("Forget it", lambda: settle(""))
            _button("Close", dialog.close)
    button = ui.element("button").classes("hw-icon").on("click", dialog.open)

    def settle(token: str) -> None:
        if token:
            app.storage.tab[_TOKEN] = token
        else:
            app.storage.tab.pop(_TOKEN, None)
        given.set_value("")
        name(bool(token))
        dialog.close()

    def name(may: bool) -> None:
        button.clear()
        with button:
            ui.label("Operator" if may else "Read only")
        button.props(f'aria-label="{"Operator: forget the token" if may else "Read only: give an operator token"}"')

    async def use() -> None:
        token = (given.value or "").strip()
        said = await site.history.accepts(token) if token else "Paste the token first."
        problem.set_text(said)
        problem.set_visibility(bool(said))
        if not said:
            settle(token)

    form.on("submit.prevent", use)
    name(False)


# ── what may be done to a run ───────────────────────────────────────────────────────────────────────────────────


def run_actions(site: Site) -> Callable[[RunRow | None], None]:
    """Buttons for a run; returns what tells them which run it is, and in which state."""
    shown: tuple[str, tuple[Action, ...], bool] = ("", (), False)
    box = ui.element("div").classes("hw-filters").props('role="group" aria-label="What may be done"')

    def show(row: RunRow | None) -> None:
        nonlocal shown
        may = site.history.is_there and bool(token())
        wanted = (row.id if row else "", _MAY.get(row.state, ()) if row and may else (), may)
        if wanted == shown:
            return
        shown = wanted
        box.clear()
        with box:
            if may:
                _button("Start a run", partial(start_dialog, site), first=True)
            for action in wanted[1]:
                ask = partial(site.history.act, run=wanted[0], action=action)
                _button(action.capitalize(), partial(_confirm, wanted[0], action, _MEANS[action], ask))

    return show


def release_actions(site: Site) -> Callable[[ReleaseEntry | None], None]:
    """A button for the current release; returns what tells it how that is."""
    shown: tuple[int, ReleaseWish] | None = None
    box = ui.element("div").classes("hw-filters").props('role="group" aria-label="What may be done"')

    def show(release: ReleaseEntry | None) -> None:
        nonlocal shown
        wanted = (release.counter, offered(release)) if release and token() else None
        if wanted == shown:
            return
        shown = wanted
        box.clear()
        if wanted is not None:
            counter, wish = wanted
            ask = partial(site.history.ask_of_release, counter=counter, wish=wish)
            with box:
                _button(wish.capitalize(), partial(_confirm, f"release {counter}", wish, _MEANS_OF_RELEASE[wish], ask))

    return show


def _confirm(about: str, action: str, means: str, ask: Callable[[str], Awaitable[str]]) -> None:
    """`ask` is given the token, and returns why it was refused, or ""."""
    with ui.dialog(value=True) as dialog, ui.element("div").classes("q-card hw-dialog"):
        heading(2, f"{action.capitalize()} {about}?")
        ui.label(means)
        with ui.element("div").classes("hw-filters"):
            _button(action.capitalize(), lambda: _do(dialog, ask(token()), action), first=True)
            _button("Leave it", dialog.close)
    dialog.on("hide", dialog.delete)


async def _do(dialog: ui.dialog, asked: Awaitable[str], what: str) -> None:
    said = await asked
    if said:
        ui.notify(said, type="negative", multi_line=True, close_button="Close", timeout=0)
    else:
        ui.notify(f"Asked for: {what}", type="positive")
        dialog.close()


def start_dialog(site: Site) -> None:
    """Takes a description, pasted or as a file, and says all that is wrong with it."""
    forward: list[str] = []
    with ui.dialog(value=True) as dialog, ui.element("div").classes("q-card hw-dialog"):
        heading(2, "Start a run")
        text = (
            ui.textarea("Its description, TOML or JSON", placeholder=_EXAMPLE)
            .props(f'outlined input-style="font-family: monospace; min-height: 220px" maxlength="{MAX_TEXT_LENGTH}"')
            .classes("w-full")
        )
        ui.upload(
            label="… or its file", auto_upload=True, max_file_size=MAX_TEXT_LENGTH, on_upload=lambda e: _read(e, text)
        ).props('accept=".toml,.json" flat bordered').classes("w-full")
        ui.upload(
            label="An ONNX file, for a model of kind onnx",
            auto_upload=True,
            max_file_size=MAX_OBJECT_SIZE_BYTES,
            on_upload=lambda e: _keep(e, forward),
        ).props('accept=".onnx" flat bordered').classes("w-full")
        problem = ui.label("").classes("hw-problem").props('role="alert"')
        problem.set_visibility(False)

        async def start() -> None:
            try:
                description = described(text.value or "", has_forward=bool(forward))
                said = await site.history.start(token(), description, forward[-1] if forward else None)
            except ConfigError as error:
                said = str(error)
            problem.set_text(said)
            problem.set_visibility(bool(said))
            if not said:
                ui.notify(f"Asked for {description.name}: it begins when those before it have ended.", type="positive")
                dialog.close()

        with ui.element("div").classes("hw-filters"):
            _button("Start", start, first=True)
            _button("Close", dialog.close)
    dialog.on("hide", dialog.delete)


async def _read(event: events.UploadEventArguments, text: ui.textarea) -> None:
    text.set_value((await event.file.read()).decode("utf-8", errors="replace"))


async def _keep(event: events.UploadEventArguments, forward: list[str]) -> None:
    forward[:] = [base64.b64encode(await event.file.read()).decode("ascii")]


def _button(text: str, do: Callable[[], object] | None = None, *, first: bool = False) -> ui.element:
    button = ui.element("button").classes("hw-button first" if first else "hw-button").props('type="button"')
    with button:
        ui.html(text, sanitize=False, tag="span")
    return button.on("click", do) if do else button
