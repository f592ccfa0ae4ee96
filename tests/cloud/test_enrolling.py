"""The desk where nodes enrol: on a real folder, and over real brokers, with everything that strangers may try."""

import asyncio
import contextlib
import logging
import os
import stat
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from headwater.cloud import enrolling
from headwater.cloud.enrolling import Desk, Enrolling, serve_alone
from headwater.node.enrolling import enrol_if_new
from headwater.node.observing import Enrolled, NotEnrolled, Seen
from headwater.schemas.errors import AccessRefused, BrokerUnreachable, ConfigError
from headwater.schemas.links import BrokerSettings, TlsSettings
from headwater.schemas.messages import EnrolmentRequest
from headwater.schemas.settings import EnrolSettings
from headwater.schemas.topics import Topics
from headwater.schemas.wire import decode, encode
from headwater.trust import enrolment
from headwater.trust.certificates import Anchors, read_certificates, verify
from headwater.trust.folder import Folder
from headwater.trust.keys import new_key, read_key
from headwater.trust.tokens import Token, make_token
from support.fortress import FLEET, Fortress, fortress
from support.waiting import eventually

TOPICS = Topics(FLEET)


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "pki")
    folder.create("plant", now())
    return folder


def token_in(folder: Folder, node: str = "pump-1", *, valid: timedelta = timedelta(hours=1)) -> Token:
    token, record = make_token(node, "device", now() + valid, os.urandom(28))
    with folder.locked():
        folder.keep_token(record)
    return token


def desk_of(folder: Folder) -> Desk:
    return Desk(folder, folder.authority(), now)


# ── the desk ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_answer_was_lost_and_comes_again(folder: Folder) -> None:
    token, key = token_in(folder), new_key()
    asked = enrolment.ask(token, "pump-1", key)
    first = desk_of(folder).answer(token.token_id, asked)
    assert desk_of(folder).answer(token.token_id, asked) == first
    assert enrolment.take(token, asked, first, key).holder.node == "pump-1"
    assert len(folder.issued()) == 1


def test_a_token_is_used_once_and_the_thief_is_told_of(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    token = token_in(folder)
    desk_of(folder).answer(token.token_id, enrolment.ask(token, "pump-1", new_key()))
    refused = desk_of(folder).answer(token.token_id, enrolment.ask(token, "pump-1", new_key()))
    assert "was used already" in refused.refusal
    assert f"token {token.token_id}, which asks to be pump-1, was refused" in caplog.text
    assert len(folder.issued()) == 1


def test_of_many_at_once_with_one_token_one_enrols(folder: Folder) -> None:
    token, answers = token_in(folder), []
    asks = [enrolment.ask(token, "pump-1", new_key()) for _ in range(6)]
    threads = [
        threading.Thread(target=lambda asked=asked: answers.append(desk_of(folder).answer(token.token_id, asked)))
        for asked in asks
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(1 for answer in answers if answer.certificate) == 1
    assert len(folder.issued()) == 1


def test_a_desk_that_died_between_marking_and_signing_gives_nothing_for_the_token(folder: Folder) -> None:
    token = token_in(folder)
    asked = enrolment.ask(token, "pump-1", new_key())
    record = folder.token(token.token_id)
    assert record is not None
    with folder.locked():
        folder.keep_token(enrolling.used_for(record, asked.request))
    assert "was used already for pump-1; make a new one" in desk_of(folder).answer(token.token_id, asked).refusal


def test_who_was_revoked_does_not_enrol_again_by_its_old_token(folder: Folder) -> None:
    token = token_in(folder)
    asked = enrolment.ask(token, "pump-1", new_key())
    desk_of(folder).answer(token.token_id, asked)
    folder.revoke(folder.authority(), "pump-1", now())
    assert "was used already" in desk_of(folder).answer(token.token_id, asked).refusal
    assert len(folder.issued()) == 1


def test_a_new_token_replaces_the_card_of_a_node_that_was_enrolled(folder: Folder) -> None:
    for _ in range(2):
        token, key = token_in(folder), new_key()
        asked = enrolment.ask(token, "pump-1", key)
        assert enrolment.take(token, asked, desk_of(folder).answer(token.token_id, asked), key)
    assert len(folder.issued()) == 2


async def test_who_enrolled_and_who_did_not_is_told(folder: Folder) -> None:
    seen: list[Seen] = []
    all_are_answered = asyncio.Event()

    def saw(one: Seen) -> None:
        seen.append(one)
        if len(seen) == 3:
            all_are_answered.set()

    desk = Enrolling(FLEET, desk_of(folder), saw)
    token = token_in(folder)
    asked, stolen = enrolment.ask(token, "pump-1", new_key()), enrolment.ask(token, "pump-1", new_key())
    answering = asyncio.ensure_future(desk.run())
    for one in (asked, asked, stolen):
        desk.hear(TOPICS.enrolment(token.token_id, "request"), encode(one), False)
    await asyncio.wait_for(all_are_answered.wait(), 20)
    answering.cancel()
    enrolled = Enrolled("pump-1", token.token_id)
    assert seen[:2] == [enrolled, enrolled], "told again, where the answer may have been lost"
    assert isinstance(seen[2], NotEnrolled)
    assert "was used already" in seen[2].detail


async def test_a_flood_is_bounded_and_the_rest_may_ask_again(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrolling, "MAX_A_MINUTE", 5)
    desk = Enrolling(FLEET, desk_of(folder))
    token = token_in(folder)
    payload = encode(enrolment.ask(token, "pump-1", new_key()))
    for _ in range(100):
        desk.hear(TOPICS.enrolment(token.token_id, "request"), payload, False)
    assert desk._waiting.qsize() == 5
    desk.hear(TOPICS.enrolment(token.token_id, "request"), b"x" * (enrolling.MAX_ASKED_SIZE_BYTES + 1), False)
    assert desk._waiting.qsize() == 5


# ── over a broker ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module", params=["mosquitto", "embedded"])
def place(request, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fortress]:
    with fortress(request.param, tmp_path_factory.mktemp("enrolling"), parents=["cloud"]) as opened:
        yield opened


@contextlib.asynccontextmanager
async def desk_at(place: Fortress, folder: Folder) -> AsyncIterator[None]:
    papers = place.papers("cloud")
    tls = TlsSettings(ca=papers.ca, certificate=papers.certificate, key=papers.key) if papers.tls else None
    settings = BrokerSettings(host="localhost", port=place.ports["nodes"], tls=tls)
    if papers.user is not None:
        settings = BrokerSettings.model_validate(settings.model_dump() | {"user": "cloud", "password": papers.password})
    desk = Enrolling(FLEET, desk_of(folder))
    serving = asyncio.ensure_future(serve_alone(desk, settings, FLEET, "cloud"))
    try:
        await asyncio.sleep(0)
        assert desk.connection is not None
        await desk.connection.wait_connected()
        yield
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


@contextlib.contextmanager
def board(place: Fortress, tmp_path: Path, token: str) -> Iterator[tuple[EnrolSettings, BrokerSettings]]:
    """A new node's files: a token, and where its certificate shall be."""
    (tmp_path / "token").write_text(f"{token}\n")
    trust = tmp_path / "board" / "trust"
    tls = TlsSettings(ca=trust / "ca.pem", certificate=trust / "node.pem", key=trust / "node.key")
    enrol = EnrolSettings(
        token_file=tmp_path / "token", host="localhost", port=place.ports["enrolment"], tls=place.authority is not None
    )
    yield enrol, BrokerSettings(host="localhost", port=place.ports["nodes"], tls=tls)


def authority_of(place: Fortress, folder: Folder) -> Folder:
    """The broker's own authority, where it has one: what is issued must open its door."""
    return place.authority or folder


@pytest.mark.live
async def test_a_new_board_enrols_by_itself_and_then_comes_in(place: Fortress, folder: Folder, tmp_path: Path) -> None:
    its = authority_of(place, folder)
    node = f"board-{os.urandom(3).hex()}"
    token = token_in(its, node)
    with board(place, tmp_path, token.text()) as (enrol, broker):
        async with desk_at(place, its):
            assert await enrol_if_new(enrol, FLEET, node, broker)
        files = broker.tls
        assert files is not None
        assert files.certificate is not None
        assert files.key is not None
        (certificate,) = read_certificates(files.certificate.read_bytes(), "got")
        verify(certificate, Anchors((its.certificate(),)), now(), node=node)
        assert certificate.public_key() == read_key(files.key, "key").public.key
        assert stat.S_IMODE(files.key.stat().st_mode) == 0o600
        assert not enrol.token_file.exists()
        # A second start asks nobody: there is no desk any more.
        assert not await enrol_if_new(enrol, FLEET, node, broker)
        if place.authority is not None:
            from support.guests import Guest, Papers

            with Guest(broker.port, Papers(files.certificate, files.key, files.ca), node) as guest:
                assert guest.let_in, guest.why_ended


REFUSED = {
    "expired": "token: ended on",
    "used": "token: was used already for",
    "for another name": "request: for impostor, where one for",
    "of nobody": "token: unknown here",
}


@pytest.mark.live
@pytest.mark.parametrize("story", REFUSED)
async def test_a_token_that_is_of_no_use_is_refused_with_its_mend(
    place: Fortress, folder: Folder, tmp_path: Path, story: str
) -> None:
    its = authority_of(place, folder)
    node = f"board-{os.urandom(3).hex()}"
    token = token_in(its, node, valid=timedelta(hours=-1) if story == "expired" else timedelta(hours=1))
    if story == "used":
        desk_of(its).answer(token.token_id, enrolment.ask(token, node, new_key()))
    if story == "of nobody":
        token = Token("0" * 16, token.secret)
    name = "impostor" if story == "for another name" else node
    before = len(its.issued())
    with board(place, tmp_path, token.text()) as (enrol, broker):
        async with desk_at(place, its):
            with pytest.raises(AccessRefused, match=f"enrol: {REFUSED[story]}"):
                await enrol_if_new(enrol, FLEET, name, broker)
        assert enrol.token_file.exists()
    assert len(its.issued()) == before


@pytest.mark.live
async def test_a_node_that_was_cut_off_asks_the_same_again(place: Fortress, folder: Folder, tmp_path: Path) -> None:
    """Its first answer is lost: it was killed behind asking. The desk comes late, too."""
    its = authority_of(place, folder)
    node = f"board-{os.urandom(3).hex()}"
    with board(place, tmp_path, token_in(its, node).text()) as (enrol, broker):
        first = asyncio.ensure_future(enrol_if_new(enrol, FLEET, node, broker))
        assert broker.tls is not None
        assert broker.tls.key is not None
        await asyncio.to_thread(eventually, broker.tls.key.exists)
        key = broker.tls.key.read_bytes()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        async with desk_at(place, its):
            assert await enrol_if_new(enrol, FLEET, node, broker)
        assert broker.tls.key.read_bytes() == key


@pytest.mark.live
async def test_where_nobody_answers_it_ends_with_what_to_look_for(
    place: Fortress, folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headwater.node.enrolling.ANSWER_TIMEOUT_S", 0.5)
    with (
        board(place, tmp_path, token_in(folder).text()) as (enrol, broker),
        pytest.raises(BrokerUnreachable, match=r"nobody answered within 0.5 s; .*\[enrolment\]"),
    ):
        await enrol_if_new(enrol, FLEET, "pump-1", broker)


@pytest.mark.live
async def test_what_strangers_send_does_not_end_the_desk(
    place: Fortress, folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    its = authority_of(place, folder)
    token = token_in(its, f"board-{os.urandom(3).hex()}")
    record = its.token(token.token_id)
    assert record is not None
    asked = enrolment.ask(token, record.node, new_key())
    async with desk_at(place, its):
        with place.guest("enrol", client=token.token_id) as stranger:
            await asyncio.to_thread(stranger.subscribe, TOPICS.enrolment(token.token_id, "answer"))
            for nonsense in (b"", b"\xc1", b"x" * 100_000, encode(asked)[:-1]):
                await asyncio.to_thread(stranger.say, TOPICS.enrolment(token.token_id, "request"), nonsense)
            await asyncio.to_thread(stranger.say, TOPICS.enrolment(token.token_id, "request"), encode(asked))
            await asyncio.to_thread(eventually, lambda: stranger.heard)
    assert len(stranger.heard) == 1
    assert "dropped what is no request" in caplog.text
    assert decode(encode(asked), EnrolmentRequest) == asked


@pytest.mark.live
async def test_what_strangers_have_the_broker_keep_is_taken_away(place: Fortress, folder: Folder) -> None:
    """Before the desk came, and while it is there: else each connection leaves one for good."""

    def leave(number: int) -> None:
        token_id = f"{number:016x}"
        with place.guest("enrol", client=token_id) as stranger:
            stranger.say(TOPICS.enrolment(token_id, "request"), b"x" * 10_000, retain=True)

    def kept() -> int:
        with place.guest("wiretap") as tapped:
            tapped.subscribe(TOPICS.all_enrolments("request"))
            tapped.hears(b"x" * 10_000, 1.0)
            return len(tapped.heard)

    await asyncio.to_thread(leave, 1)
    assert await asyncio.to_thread(kept) == 1
    async with desk_at(place, authority_of(place, folder)):
        for number in (2, 3):
            await asyncio.to_thread(leave, number)
        await asyncio.to_thread(eventually, lambda: kept() == 0)


# ── what a node has to have ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("token", "tls", "says"),
    [
        pytest.param(None, True, "enrol.token_file: .* make a token by `headwater pki token NODE`", id="no-token"),
        pytest.param("nonsense", True, "enrol.token_file: .* holds no token", id="no-tokens-text"),
        pytest.param(b"\xff\xfe", True, "enrol.token_file: .* holds no token", id="no-text"),
        pytest.param("", False, r"enrol: needs \[broker.tls\] with ca, certificate and key", id="no-place"),
    ],
)
async def test_what_is_missing_is_said_before_anyone_is_asked(
    tmp_path: Path, token: str | bytes | None, tls: bool, says: str
) -> None:
    if token is not None:
        (tmp_path / "token").write_bytes(token.encode() if isinstance(token, str) else token)
    places = TlsSettings(ca=tmp_path / "ca", certificate=tmp_path / "c", key=tmp_path / "k") if tls else None
    with pytest.raises(ConfigError, match=says):
        await enrol_if_new(EnrolSettings(token_file=tmp_path / "token"), FLEET, "d1", BrokerSettings(tls=places))


async def test_a_node_without_the_table_asks_nobody() -> None:
    assert not await enrol_if_new(None, FLEET, "d1", BrokerSettings())
