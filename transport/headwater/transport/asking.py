"""Law: a question is asked until it is answered, or until its time is over; then its connection is gone.

For who has no certificate yet, and may not know the broker's either: what is heard must prove itself.
"""

import asyncio
import contextlib
import ssl
from typing import Final

from headwater.schemas.errors import BrokerUnreachable
from headwater.schemas.links import BrokerSettings
from headwater.transport.files import tls_context
from headwater.transport.link import Client, Link, Publication, log

ASK_AGAIN_S: Final = 5.0


async def ask(broker: BrokerSettings, *, client: str, question: Publication, answer: str, timeout_s: float) -> bytes:
    """The first message that is not retained on the topic `answer`.

    A broker whose `tls` names no authority is not checked.

    Raises:
        BrokerUnreachable: no connection, or no answer within `timeout_s`.
        AccessRefused: the broker refused the login.
    """
    link = _Asking(broker, client, question, answer)
    running = asyncio.ensure_future(link.run())
    try:
        await asyncio.wait((running, link.answered), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if link.answered.done():
            return link.answered.result()
        if running.done():
            running.result()
        raise BrokerUnreachable(
            f"broker {broker.host}:{broker.port}: nobody answered within {timeout_s:g} s; see that the broker runs, "
            "and the cloud with [enrolment], or `headwater pki serve`"
        )
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await running


class _Asking(Link):
    def __init__(self, broker: BrokerSettings, client: str, question: Publication, answer: str) -> None:
        super().__init__(broker, client=client)
        self._question = question
        self._answer = answer
        self.answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def _serve(self, client: Client) -> None:
        await client.subscribe([(self._answer, 1)])
        self._came_up()
        log.info("asking %s as %s", self._where, self._client_id)
        while not self.answered.done():
            await self._hand_over(client, self._question)
            with contextlib.suppress(TimeoutError):
                await client.unless_lost(asyncio.shield(self.answered), ASK_AGAIN_S)

    def _receive(self, topic: str, payload: bytes, retained: bool) -> None:
        if topic == self._answer and not retained and not self.answered.done():
            self.answered.set_result(payload)

    def _tls_context(self) -> ssl.SSLContext | None:
        context = tls_context(self._broker)
        if context is not None and self._broker.tls is not None and self._broker.tls.ca is None:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context
