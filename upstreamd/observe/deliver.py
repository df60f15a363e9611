"""The ways out for alerts: a webhook that takes Slack's JSON, and mail (RFC 5321). Both have deadlines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import smtplib
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable
from email.message import EmailMessage
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import aiohttp
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from upstreamd.config import AlertSettings
from upstreamd.errors import UpstreamdError
from upstreamd.model import Clock
from upstreamd.observe.alarm import alarms
from upstreamd.observe.alert import Alerts, Flaps, Message
from upstreamd.picture import Picture

log = logging.getLogger("upstreamd.alerts")

LOOK_INTERVAL = 5.0
PATIENCE = 10.0
LONGEST = 30.0
"""Seconds for one try, whatever the other side sends, and how slowly."""
TRIES = 4
MOST_WAITING = 20
"""Messages that wait for a receiver who does not answer; the oldest is dropped, and said so."""
_PORTS = {"smtp": 25, "smtps": 465}
_HERE = frozenset({"localhost", "127.0.0.1", "::1"})
_HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity"}


class UndeliveredError(UpstreamdError):
    """A message could not be delivered."""


class Alerting:
    """Looks at `picture` every few seconds and tells what stands. `clock` is monotonic, in seconds."""

    def __init__(self, settings: AlertSettings, picture: Callable[[], Awaitable[Picture]], clock: Clock) -> None:
        self._settings = settings
        self._picture = picture
        self._clock = clock
        self._alerts = Alerts(settings, socket.gethostname())
        self._flaps = Flaps()
        self._waiting: asyncio.Queue[Message] = asyncio.Queue(MOST_WAITING)

    async def run(self) -> NoReturn:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._send())
            while True:
                message = self._look(await self._picture())
                if message is not None:
                    if self._waiting.full():
                        log.error("an alert is dropped, nobody takes it: %s", self._waiting.get_nowait().subject)
                    self._waiting.put_nowait(message)
                await asyncio.sleep(LOOK_INTERVAL)

    def _look(self, picture: Picture) -> Message | None:
        now = self._clock()
        turned = [
            (name, str(member.instance.endpoint), member.since)
            for name, view in picture.services.items()
            for member in view.decision.members
        ]
        return self._alerts.look([*alarms(picture), *self._flaps.look(turned, now)], now)

    async def _send(self) -> NoReturn:
        while True:
            message = await self._waiting.get()
            ways = []
            if self._settings.webhook or self._settings.webhook_file:
                ways.append(self._tried(post, message))
            if self._settings.mail_server:
                ways.append(self._tried(_mailed, message))
            await asyncio.gather(*ways)

    async def _tried(self, way: Callable[[Message, AlertSettings], Awaitable[None]], message: Message) -> None:
        """Several tries, with growing pauses; then the log has it."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(UndeliveredError),
            wait=wait_random_exponential(multiplier=1, max=30),
            stop=stop_after_attempt(TRIES),
            reraise=True,
        )
        try:
            await retrying(way, message, self._settings)
        except UndeliveredError as error:
            log.error("an alert could not be delivered: %s", error)  # noqa: TRY400 - the sentence says all there is


async def _mailed(message: Message, settings: AlertSettings) -> None:
    await _beside(mail, message, settings)


async def _beside(way: Callable[[Message, AlertSettings], None], message: Message, settings: AlertSettings) -> None:
    """In a thread that no exit waits for: a mail server may take its time."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def settle(error: UndeliveredError | None) -> None:
        if ended.done():
            return
        if error is None:
            ended.set_result(None)
        else:
            ended.set_exception(error)

    def work() -> None:
        error = None
        try:
            way(message, settings)
        except UndeliveredError as known:
            error = known
        except Exception as bug:  # noqa: BLE001 - whatever it is, the log shall have it, and the next alert be sent
            error = UndeliveredError(f"for a reason of our own: {bug!r}")
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, error)

    threading.Thread(target=work, daemon=True, name="alert").start()
    try:
        async with asyncio.timeout(LONGEST):
            await ended
    except TimeoutError as error:
        raise UndeliveredError(f"it took longer than {LONGEST:g}s") from error


async def post(message: Message, settings: AlertSettings) -> None:
    """Send to the webhook, as `{"text": ...}`, within `LONGEST` altogether. Of the answer only the status is read; no
    redirect is followed, for the text is for this host alone. Raises UndeliveredError."""
    body = json.dumps({"text": _without_markup(f"{message.subject}\n{message.text}")}).encode()
    try:
        url = _webhook(settings)
        deadline = aiohttp.ClientTimeout(total=LONGEST, sock_connect=PATIENCE, sock_read=PATIENCE)
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), timeout=deadline, trust_env=False) as session,
            session.post(url, data=body, headers=_HEADERS, allow_redirects=False) as response,
        ):
            status = response.status
    except TimeoutError as error:
        raise UndeliveredError("the webhook did not answer in time; look at alerts.webhook") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__  # the URL is a secret: str() might have it
        raise UndeliveredError(f"the webhook cannot be reached: {reason}; look at alerts.webhook") from error
    if not 200 <= status < 300:
        raise UndeliveredError(f"the webhook answered {status}; look at alerts.webhook")


def _webhook(settings: AlertSettings) -> str:
    """The URL. Raises OSError, ValueError and UndeliveredError where the file has none."""
    url = settings.webhook or Path(settings.webhook_file).read_text(encoding="utf-8").strip()
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UndeliveredError(f"{settings.webhook_file} holds no URL; write one line into it")
    return url


def _without_markup(text: str) -> str:
    """Text that calls nobody and links nowhere, whatever an app has said in it (Slack, "Escaping text")."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class _Hurried(smtplib.SMTP):
    """Is cut off after `LONGEST`, whatever it waits for then: smtplib has deadlines for single reads alone."""

    def connect(
        self,
        host: str = "localhost",
        port: int = 0,
        source_address: object = None,  # noqa: ARG002 - smtplib's signature, whose constructor does not give it
    ) -> tuple[int, bytes]:
        """As smtplib has it; from now on the time runs."""
        self._closed = threading.Event()
        threading.Thread(target=self._cut, args=(LONGEST,), daemon=True, name="alert's end").start()
        try:
            return super().connect(host, port)
        except BaseException:
            self._closed.set()
            raise

    def close(self) -> None:
        """As smtplib has it."""
        self._closed.set()
        super().close()

    def _cut(self, pause: float) -> None:
        while not self._closed.wait(pause):
            with contextlib.suppress(OSError):  # it is not connected, or is just being encrypted: it is cut soon
                if self.sock is not None:
                    socket.socket.shutdown(self.sock, socket.SHUT_RDWR)
            pause = 0.5


class _HurriedEncrypted(_Hurried, smtplib.SMTP_SSL):
    """The same, encrypted from its beginning."""


def mail(message: Message, settings: AlertSettings) -> None:
    """Send by mail; blocks at most some `LONGEST`. STARTTLS where the server offers it, and a password only then, or
    on this machine. Raises UndeliveredError."""
    server = urlsplit(settings.mail_server)
    host, port = server.hostname or "", server.port or _PORTS[server.scheme]
    letter = EmailMessage()
    letter["Subject"], letter["From"], letter["To"] = message.subject, settings.mail_from, ", ".join(settings.mail_to)
    letter.set_content(message.text)
    try:
        context = ssl.create_default_context()
        encrypted = server.scheme == "smtps"
        with (
            _HurriedEncrypted(host, port, timeout=PATIENCE, context=context)
            if encrypted
            else _Hurried(host, port, timeout=PATIENCE)
        ) as connection:
            connection.ehlo()
            if not encrypted and connection.has_extn("starttls"):
                connection.starttls(context=context)
                connection.ehlo()
                encrypted = True
            if settings.mail_user:
                if not encrypted and host not in _HERE:
                    reason = "offers no STARTTLS, and the password is not sent in the clear; name it with smtps://"
                    raise UndeliveredError(f"mail by {host}:{port}: the server {reason}")
                password = Path(settings.mail_password_file).read_text(encoding="utf-8").strip()
                connection.login(settings.mail_user, password)
            connection.send_message(letter)
    except (OSError, smtplib.SMTPException) as error:
        raise UndeliveredError(f"mail by {host}:{port}: {error}") from error
