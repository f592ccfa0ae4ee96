"""The dashboard in a real Chromium, beside real brokers and a real tree: what people see, and do."""

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from headwater.cloud.api.tokens import new_secret, of_secret, write
from headwater.cloud.history import open_history
from headwater.cloud.releasing import Policy
from headwater.dashboard.view.fold import Message
from headwater.schemas.config import resolve
from headwater.schemas.run import RunDescription
from headwater.schemas.statuses import UpdateState
from headwater.testbed.brokers import Embedded
from headwater.testbed.machine import free_port, wait_for_port
from headwater.testbed.processes import Processes
from headwater.testbed.tree import Tree, standing
from headwater.transport.broker import BrokerConfig
from support.browsers import SEEN_MS, Shown, Teller, Watched, again_and_again, shown, soon, tab, telling
from support.releases import publish
from support.told import at_cloud, at_gateway, event, member, node, round_status, run

pytestmark = pytest.mark.timeout(300)
"""Fleets of processes, brokers and a browser start on a machine that others use, too."""

PATHS = ("/", "/run", "/node/d1", "/compare", "/software", "/events")
PHONE = {"viewport": {"width": 390, "height": 844}}


@dataclass
class Stage:
    """A dashboard, its broker, and who tells it things."""

    shown: Shown
    broker: Embedded
    teller: Teller

    @property
    def url(self) -> str:
        return self.shown.url


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A small fleet behind a broker; it stands still where nobody tells otherwise."""
    folder = tmp_path_factory.mktemp("stage")
    broker = Embedded(BrokerConfig(port=free_port()))
    with broker, telling(broker.port) as teller, shown(folder, "plant", {"cloud": broker.port}) as opened:
        teller.say(*small_fleet())
        yield Stage(opened, broker, teller)


def small_fleet() -> list[Message]:
    members = (member("d1", "received", 30, loss=0.5, after_s=1.5, train_s=1.0, size_bytes=99), member("d2", "refused"))
    closed = round_status("cloud", 3, "closed", received=1, metrics={"train/loss": 0.4}, elapsed_s=2.0)
    cluster = round_status("gw1", 3, "closed", received=1, refused=1, examples=30, members=members)
    return [
        node("cloud", None, role="cloud"),
        node("gw1", "cloud", role="gateway"),
        *(node(name, "gw1") for name in ("d1", "d2", "d3")),
        run("running", 3),
        at_cloud(closed),
        at_gateway(cluster),
        event("delta.refused", "d2", node="d2", run="r1", round=3, reason="stale", detail="round 2 is over"),
    ]


# ── a fleet that learns ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_fleet_learns_before_ones_eyes(browser: Browser, tmp_path: Path) -> None:
    """Rounds rise by themselves; a click goes to a device, and back."""
    devices = ("d0", "d1", "d2", "d3")
    data = {
        name: {"digits": {"kind": "digits", "devices": 4, "index": index, "alpha": 0.3}}
        for index, name in enumerate(devices)
    }
    asked = RunDescription.model_validate(
        {
            "name": "digits",
            "data": "digits",
            "rounds": 400,
            "model": {"kind": "mlp", "features": 64, "classes": 10, "hidden": (32,)},
            "cohort": {"deadline_s": 15.0, "min_children": 2},
        }
    )
    tree = Tree(fleet="plant", clusters={"gw1": devices[:2], "gw2": devices[2:]}, data=data)
    with (
        standing(tree, tmp_path) as fleet,
        shown(tmp_path / "seen", "plant", fleet.ports) as opened,
        tab(browser, opened.url) as watched,
    ):
        watched.go("/")
        watched.see(".hw-cell", "d3")
        history = open_history(fleet.database)
        history.enqueue_run("r1", "plant", asked, None, datetime.now(UTC))
        history.close()
        round_of = "+document.querySelectorAll('.hw-figure dd')[4].innerText.split(' ')[0]"
        watched.until(f"{round_of} >= 2")
        before = int(watched.figure("round").split()[0])
        watched.until(f"{round_of} > {before}")
        watched.page.click(".hw-cell:has-text('d3')")
        watched.see("h1", "d3")
        watched.until("document.querySelectorAll('.hw-strip .hw-cell').length > 3")
        watched.see(".hw-chart canvas")
        watched.page.go_back()
        watched.see("h1", "The fleet")
        watched.page.click(".hw-nav a:has-text('Run')")
        watched.see("h1", "r1")
        watched.until("document.querySelectorAll('.hw-chart canvas').length >= 4")
        watched.see(".hw-state.running", "running")


# ── who may do something ────────────────────────────────────────────────────────────────────────────────────────


def two_tokens(folder: Path) -> dict[str, str]:
    """A file of tokens, and one with the viewer's; the secrets by role."""
    secrets = {role: new_secret() for role in ("viewer", "operator")}
    write(folder / "tokens.toml", [of_secret(role, role, secret) for role, secret in secrets.items()])
    (folder / "viewer").write_text(secrets["viewer"])
    return secrets


def digits_tree(folder: Path) -> tuple[Tree, dict[str, str], int]:
    """A flat fleet of two whose cloud has an API; its tokens by role, and the API's port."""
    data = {
        name: {"digits": {"kind": "digits", "devices": 2, "index": index, "alpha": 0.3}}
        for index, name in enumerate(("d0", "d1"))
    }
    secrets = two_tokens(folder)
    port = free_port()
    http = {"port": port, "tokens": str(folder / "tokens.toml")}
    return (
        Tree(fleet="plant", clusters={"": ("d0", "d1")}, data=data, settings={"cloud": {"http": http}}),
        secrets,
        port,
    )


RUN = """name = "digits"
data = "digits"
rounds = 2000
model = { kind = "mlp", features = 64, classes = 10 }
cohort = { deadline_s = 15.0, min_children = 2 }
"""


def become_operator(watched: Watched, secret: str) -> None:
    watched.page.click("button:has-text('Read only')")
    watched.page.get_by_label("Token", exact=True).fill(secret)
    watched.page.keyboard.press("Enter")
    watched.see("button", "Operator")


def confirmed(watched: Watched, button: str) -> None:
    """Press a button, and the one that asks again."""
    watched.page.get_by_role("button", name=button, exact=True).click()
    watched.see(".hw-dialog h2", f"{button} ")
    watched.page.locator(".hw-dialog").get_by_role("button", name=button, exact=True).click()


def test_an_operator_starts_holds_and_ends_a_run_and_a_viewer_does_not(browser: Browser, tmp_path: Path) -> None:
    tree, secrets, port = digits_tree(tmp_path)
    api = {"api": f"http://127.0.0.1:{port}", "api_token_file": str(tmp_path / "viewer")}
    with (
        standing(tree, tmp_path) as fleet,
        shown(tmp_path / "seen", "plant", {"cloud": fleet.ports["cloud"]}, **api) as opened,
        tab(browser, opened.url) as watched,
    ):
        page = watched.page
        wait_for_port(port, 60.0)
        watched.go("/run")
        watched.see("h1", "No run yet")
        assert page.get_by_role("button", name="Start a run").count() == 0

        page.click("button:has-text('Read only')")
        page.get_by_label("Token", exact=True).fill(secrets["viewer"])
        page.keyboard.press("Enter")
        watched.see(".hw-problem", "needs an operator's")
        page.get_by_label("Token", exact=True).fill(secrets["operator"])
        page.keyboard.press("Enter")
        watched.see("button", "Operator")

        page.get_by_role("button", name="Start a run").click()
        page.get_by_label("Its description").fill(RUN.replace("2000", '"many"'))
        page.get_by_role("button", name="Start", exact=True).click()
        watched.see(".hw-problem", "rounds")
        page.get_by_label("Its description").fill(RUN)
        page.get_by_role("button", name="Start", exact=True).click()
        watched.see(".hw-state.running", "running")

        for button, state in (("Pause", "paused"), ("Resume", "running"), ("Stop", "stopped")):
            confirmed(watched, button)
            watched.see(f"main .hw-state.{state}", state)

        assert secrets["operator"] not in page.url
        page.click("button:has-text('Operator')")
        page.get_by_role("button", name="Forget it").click()
        page.get_by_role("button", name="Start a run").wait_for(state="detached", timeout=SEEN_MS)
    assert secrets["operator"] not in opened.process.log.read_text()
    assert not any(secrets["operator"] in file.read_text(errors="ignore") for file in tmp_path.rglob("*.json"))


def device(name: str, state: UpdateState, counter: int = 0, detail: str = "") -> Message:
    """A device right below the cloud, whose software is updated over the tree."""
    version = "2.0" if counter else "1.0"
    update = {"version": version, "state": state, "counter": counter, "detail": detail}
    software = version if state == "updated" else "1.0"
    return node(name, "cloud", boot=f"{name}-{software}", software=software, update=update)


def test_a_release_is_stopped_by_a_canary_and_an_operator_goes_on_and_holds_it(
    browser: Browser, tmp_path: Path
) -> None:
    """The coordinator is real, and rolls it out by what devices tell; the devices only tell."""
    secrets, port, database = two_tokens(tmp_path), free_port(), f"sqlite:///{tmp_path / 'history.db'}"
    http = {"port": port, "tokens": str(tmp_path / "tokens.toml")}
    api = {"api": f"http://127.0.0.1:{port}", "api_token_file": str(tmp_path / "viewer")}
    with (
        Embedded(BrokerConfig(port=free_port())) as broker,
        Processes(tmp_path / "cloud") as processes,
        telling(broker.port) as teller,
        closing(open_history(database)) as history,
    ):
        publish(history, "1.0", Policy())
        publish(history, "2.0", Policy(canaries=("d1", "d2"), canary_share=0.0, soak_s=0.0))
        about = {"fleet": "plant", "node": "cloud", "database": database, "broker": {"port": broker.port}}
        processes.start("cloud", about | {"http": http})
        teller.say(device("d1", "updated", 2), device("d2", "downloading", 2), device("d3", "updated"))
        wait_for_port(port, 60.0)
        with (
            shown(tmp_path / "seen", "plant", {"cloud": broker.port}, **api) as opened,
            tab(browser, opened.url) as watched,
        ):
            watched.go("/software")
            watched.see(".hw-bars li", "2 devices, 67 %")
            watched.see("td .hw-state.waiting", "downloading")
            teller.say(device("d2", "failed", 2, "numpy: is 1.0 here"))
            watched.see("h2", "Release 2, version 2.0")
            watched.see(".hw-bars li", "d1, d2")
            watched.see("td", "replaced")
            become_operator(watched, secrets["operator"])
            watched.see(".hw-reason", "1 of 2 that tried have failed; d2: numpy: is 1.0 here")
            for button, state in (("Resume", "running"), ("Pause", "paused")):
                confirmed(watched, button)
                watched.see(f"main .hw-head .hw-state.{state}")
            watched.page.click("td a:has-text('d2')")
            watched.see(".hw-about dd", "2.0: failed, numpy: is 1.0 here")


def test_runs_that_are_over_are_there_for_a_dashboard_that_comes_later(browser: Browser, tmp_path: Path) -> None:
    tree, _, port = digits_tree(tmp_path)
    asked = resolve(RunDescription, text=RUN.replace("2000", "6")).value
    with standing(tree, tmp_path) as fleet:
        history = open_history(fleet.database)
        for name in ("first", "second"):
            history.enqueue_run(name, "plant", asked, None, datetime.now(UTC))
        soon(lambda: history.show_run("second").state == "finished", 100.0)
        history.close()
        api = {"api": f"http://127.0.0.1:{port}", "api_token_file": str(tmp_path / "viewer")}
        with (
            shown(tmp_path / "seen", "plant", {"cloud": fleet.ports["cloud"]}, **api) as opened,
            tab(browser, opened.url) as watched,
        ):
            watched.go("/run/first")
            watched.see("main .hw-state.finished")
            watched.until("document.querySelectorAll('.hw-chart canvas').length >= 3")
            assert watched.figure("round") == "6 of 6"
            watched.go("/node/d0")
            watched.until("document.querySelectorAll('.hw-strip .hw-cell.received').length === 6")
            watched.see("td a", "first")
            watched.see("td a", "second")
            watched.go("/compare?runs=first,second")
            watched.see("td a", "first")
            watched.see("td a", "second")
            watched.until("document.querySelectorAll('.hw-chart canvas').length >= 2")
            fleet.processes.kill(next(one for one in fleet.processes.started if one.kind == "cloud"))
            watched.see(".hw-banner", "The history")


# ── what is away ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_broker_that_goes_away_is_named_and_comes_back_by_itself(browser: Browser, tmp_path: Path) -> None:
    broker = Embedded(BrokerConfig(port=free_port()))
    with broker, telling(broker.port) as teller, shown(tmp_path, "plant", {"cloud": broker.port}) as opened:
        teller.say(*small_fleet())
        with tab(browser, opened.url) as watched:
            watched.go("/")
            watched.see(".hw-cell.received", "d1")
            broker.kill()
            watched.see(".hw-banner", f"Broker cloud (127.0.0.1:{broker.port}) has been away since")
            watched.see(".hw-cell.received", "d1")
            broker.start()
            watched.page.locator(".hw-banner").wait_for(state="hidden", timeout=SEEN_MS)
            with again_and_again(lambda _: teller.say(node("d9", "gw1")), 0.5):
                watched.see(".hw-cell", "d9")


def test_a_coordinator_that_is_gone_is_said_and_its_round_stays(browser: Browser, stage: Stage) -> None:
    with tab(browser, stage.url) as watched:
        watched.go("/run")
        watched.see("h1", "r1")
        stage.teller.say(node("cloud", None, role="cloud", state="offline"))
        watched.see(".hw-banner", "The coordinator cloud has been away since")
        assert watched.figure("round") == "3 of 9"
        stage.teller.say(node("cloud", None, role="cloud", boot="b2"))
        watched.page.locator(".hw-banner").wait_for(state="hidden", timeout=SEEN_MS)


# ── pages ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_refusal_is_read_with_its_reason_on_both_pages(browser: Browser, stage: Stage) -> None:
    with tab(browser, stage.url) as watched:
        watched.go("/events")
        watched.see("td", "round 2 is over")
        watched.see("td", "2026-01-01 01:00:10")
        watched.page.click("td a:has-text('d2')")
        watched.see("h1", "d2")
        watched.see("td", "stale")
        watched.go("/events?node=nobody")
        watched.see(".hw-empty", "Nothing of this kind")


def test_of_what_nobody_knows_a_page_promises_nothing(browser: Browser, stage: Stage) -> None:
    with tab(browser, stage.url) as watched:
        watched.go("/run/nope")
        watched.see(".hw-empty", "No run of this name is known")
        watched.go("/node/nope")
        watched.see(".hw-empty", "No node of this name was heard of")
        assert watched.page.locator(".hw-card:visible").count() == 0
        watched.go("/node/cloud")
        watched.see(".hw-head a", "run")
        watched.see(".hw-card", "software")
        assert watched.page.locator(".hw-card:visible").count() == 1


def test_names_from_the_network_are_text_and_no_markup(browser: Browser, stage: Stage) -> None:
    evil = "<img src=x onerror=alert(1)>"
    stage.teller.say(
        event("plan.declined", "d3", node="d3", run="r1", round=3, reason="not_now", detail=evil), retain=False
    )
    with tab(browser, stage.url) as watched:
        watched.page.on("dialog", lambda dialog: watched.complaints.append(dialog.message))
        watched.go("/events")
        watched.see("td", evil)
        assert watched.page.locator("td img").count() == 0


def test_names_in_an_address_are_text_and_no_markup(browser: Browser, stage: Stage) -> None:
    """Whoever follows a stranger's link may have an operator's token in the next tab."""
    markup = "%3Cimg%20src%3Dx%20onerror%3Dwindow.hit%3D1%3E"
    with tab(browser, stage.url) as watched:
        for place in ("run", "node"):
            watched.go(f"/{place}/{markup}")
            watched.see("h1", "<img src=x onerror=window.hit=1>")
            assert watched.page.locator("main img").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PATHS)
def test_pages_fit_a_phone_and_follow_the_systems_colours(
    browser: Browser, stage: Stage, path: str, scheme: str
) -> None:
    with tab(browser, stage.url, color_scheme=scheme, **PHONE) as watched:
        watched.go(path)
        watched.page.wait_for_timeout(300)
        assert watched.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        background = watched.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == {"light": "rgb(243, 245, 248)", "dark": "rgb(12, 17, 22)"}[scheme]


def test_a_choice_of_colours_is_remembered(browser: Browser, stage: Stage) -> None:
    with tab(browser, stage.url, color_scheme="light") as watched:
        watched.go("/")
        for expected in ("light", "dark"):
            watched.page.click("button[aria-label^='Colours']")
            watched.see(f"button[aria-label='Colours: {expected}']")
        watched.page.reload()
        watched.see("button[aria-label='Colours: dark']")
        assert watched.page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_everything_can_be_reached_from_the_keyboard(browser: Browser, stage: Stage) -> None:
    with tab(browser, stage.url) as watched:
        watched.go("/")
        watched.see(".hw-cell", "d1")
        press, focused = watched.page.keyboard.press, "document.activeElement"
        press("Tab")
        assert watched.page.evaluate(f"{focused}.innerText") == "Skip to the page"
        press("Enter")
        assert watched.page.evaluate(f"{focused}.className").startswith("hw-main")
        reached = set()
        for _ in range(14):
            press("Tab")
            reached.add(watched.page.evaluate(f"{focused}.getAttribute('href')"))
        assert {"/node/cloud", "/node/gw1", "/node/d1", "/node/d2", "/node/d3"} <= reached
        watched.page.evaluate(f"{focused}.blur()")
        press("g")
        press("e")
        watched.see("h1", "Events and refusals")
        press("?")
        watched.see(".hw-dialog", "From the keyboard")
        press("Escape")
        watched.page.locator(".hw-dialog").first.wait_for(state="hidden", timeout=SEEN_MS)
        press("g")
        press("t")
        watched.see("h1", "The fleet")
        press("/")
        watched.until("document.activeElement.tagName === 'INPUT'")
        watched.page.keyboard.type("d3", delay=60)
        watched.see(".q-menu .q-item", "d3")
        press("ArrowDown")
        press("Enter")
        watched.see("h1", "d3")


# ── a thousand devices ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_thousand_devices_do_not_make_a_click_wait(browser: Browser, tmp_path: Path) -> None:
    gateways = [f"gw{number:02d}" for number in range(20)]
    devices = {gateway: [f"{gateway}-d{number:02d}" for number in range(50)] for gateway in gateways}
    broker = Embedded(BrokerConfig(port=free_port()))
    with broker, telling(broker.port) as teller, shown(tmp_path, "plant", {"cloud": broker.port}) as opened:
        teller.say(node("cloud", None, role="cloud"), run("running", 1))
        for gateway, below in devices.items():
            teller.say(node(gateway, "cloud", role="gateway"), *(node(name, gateway) for name in below))
        lock = threading.Lock()

        def go_on(number: int) -> None:
            """Each half second another twentieth of each cluster is in."""
            with lock:
                in_ = number % 20 * 3
                for gateway, below in devices.items():
                    members = tuple(member(d, "received" if i < in_ else "waiting") for i, d in enumerate(below))
                    teller.say(
                        at_gateway(round_status(gateway, 1 + number // 20, received=in_, cohort=50, members=members))
                    )

        with again_and_again(go_on, 0.5), tab(browser, opened.url) as watched:
            watched.go("/")
            watched.until("document.querySelectorAll('.hw-tree .hw-cell').length === 1000")
            first = watched.page.locator(".hw-tree .hw-cell").first
            first.evaluate("cell => cell.isTheSame = true")
            watched.until("document.querySelectorAll('.hw-cell.received').length > 50")
            watched.until("document.querySelectorAll('.hw-cell.waiting').length > 50")
            assert first.evaluate("cell => cell.isTheSame"), "cells are kept, and not made anew"
            assert watched.page.evaluate("document.querySelectorAll('*').length") < 2500
            watched.page.click(".hw-cell[href='/node/gw07-d07']")
            watched.see("h1", "gw07-d07")
            soon(lambda: watched.figure("last sign of life") != "–")
