"""Which alarms stand, when they are told, and that they arrive."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from certificates import Certificates

from tests.alert_fakes import Chat, Drip, Mailbox, serving
from tests.check_harness import until
from tests.unit.observe.pictures import member, picture
from upstreamd.config import AlertSettings
from upstreamd.model import NginxView, Outcome, OutcomeKind, SourceState, State
from upstreamd.observe import deliver
from upstreamd.observe.alarm import Alarm, alarms
from upstreamd.observe.alert import Alerts, Flaps
from upstreamd.observe.deliver import Alerting, Message, UndeliveredError, mail, post
from upstreamd.picture import Picture, Sharing

SICK = Alarm("service app", "critical", "app has no healthy instance", "no healthy instance")


def drawn(seen: Picture) -> Callable[[], Awaitable[Picture]]:
    """What draws this one whenever it is asked."""

    async def draw() -> Picture:
        return seen

    return draw


def headings(seen: Picture) -> list[str]:
    return [alarm.heading for alarm in alarms(seen)]


def test_a_good_day_has_no_alarms() -> None:
    """Everybody healthy, confirmed, sources heard: nothing asks for an operator."""
    assert alarms(picture(member(), member("10.0.0.2"))) == ()


@pytest.mark.parametrize(
    ("change", "heading"),
    [
        ({"nginx": NginxView(problem="no master")}, "failed"),
        ({"outcome": Outcome(OutcomeKind.REJECTED, detail="unknown directive")}, "rejected"),
        ({"outcome": Outcome(OutcomeKind.UNCONFIRMED)}, "unconfirmed"),
        ({"ready": False, "reason": "nothing is confirmed"}, "outcomes of an apply"),
        ({"pending": True}, "old workers pile up"),
        ({"nginx": NginxView(master=1, draining=9)}, "old workers pile up"),
        ({"sources": {"consul": SourceState("consul", error="refused")}}, "source fails"),
        ({"sharing": Sharing("lb1", alarms=("orders are not shared",))}, "orders are not shared"),
    ],
)
def test_each_trouble_is_an_alarm_with_its_heading(change: dict[str, object], heading: str) -> None:
    """What is wrong with nginx, an apply or a source is named under the heading that tells what to do."""
    assert headings(replace(picture(member()), **change)) == [heading]  # type: ignore[arg-type]  # fields by name


def test_services_that_are_sick_are_alarms() -> None:
    """Panic, nobody healthy, and few healthy are told apart; instances that are being checked alarm nobody."""
    sick = [member(f"10.0.0.{n}", State.UNHEALTHY) for n in range(1, 4)]
    assert headings(picture(*sick)) == ["no healthy instance"]
    assert headings(picture(member("10.0.0.9"), *sick)) == ["few are healthy"]
    assert headings(picture(*sick, panic=True)) == ["panic"]
    assert headings(picture(member(state=State.CHECKING))) == []


def test_an_alarm_is_told_once_it_has_stood_and_again_only_after_long() -> None:
    """Nothing before `after`, one message then, silence until `repeat`, and a word when it is over."""
    alerts = Alerts(AlertSettings(webhook="http://x", after=30.0, repeat=3600.0), "a")
    assert alerts.look([SICK], 0.0) is None
    assert alerts.look([SICK], 29.0) is None
    told = alerts.look([SICK], 31.0)
    assert told is not None
    assert told.subject.startswith("[upstreamd a] critical: app has no healthy instance")
    assert "runbook: no healthy instance" in told.text
    assert alerts.look([SICK], 3000.0) is None
    assert alerts.look([SICK], 3632.0) is not None
    over = alerts.look([], 3700.0)
    assert over is not None
    assert over.text == "over after 62 min: app has no healthy instance"
    assert alerts.look([], 3800.0) is None


def test_what_passes_quickly_is_never_told() -> None:
    """An alarm that ends before `after` causes no message, neither of its beginning nor of its end."""
    alerts = Alerts(AlertSettings(webhook="http://x", after=30.0), "a")
    assert alerts.look([SICK], 0.0) is None
    assert alerts.look([], 20.0) is None
    assert alerts.look([SICK], 25.0) is None
    assert alerts.look([SICK], 54.0) is None


def test_an_alarm_that_becomes_another_is_told_again() -> None:
    """From few healthy ones to none is news, although the service has alarmed already."""
    alerts = Alerts(AlertSettings(webhook="http://x", after=0.0), "a")
    few = Alarm("service app", "warning", "only 1 of 3 instances of app are healthy", "few are healthy")
    assert alerts.look([few], 0.0) is not None
    assert alerts.look([few], 1.0) is None
    worse = alerts.look([SICK], 2.0)
    assert worse is not None
    assert "no healthy instance" in worse.subject


def test_an_hour_brings_no_more_messages_than_the_limit() -> None:
    """Beyond it lines are counted, and the count is told with the next message."""
    alerts = Alerts(AlertSettings(webhook="http://x", after=0.0, most_per_hour=2), "a")
    sent = [alerts.look([replace(SICK, key=f"k{n}")], float(n)) for n in range(5)]
    assert [message is not None for message in sent] == [True, True, False, False, False]
    later = alerts.look([replace(SICK, key="new")], 4000.0)
    assert later is not None
    assert "held back within the last hour" in later.text


def test_a_runbook_on_the_web_is_linked() -> None:
    """With `runbook` set the heading is a link."""
    alerts = Alerts(AlertSettings(webhook="http://x", after=0.0, runbook="https://wiki/runbook"), "a")
    told = alerts.look([SICK], 0.0)
    assert told is not None
    assert "https://wiki/runbook#no-healthy-instance" in told.text


def test_an_instance_that_turns_again_and_again_flaps() -> None:
    """Seven turns within ten minutes are an alarm; the same look twice is no turn; a quiet one is forgotten."""
    flaps = Flaps()
    for turn in range(6):
        assert flaps.look([("app", "10.0.0.1:80", turn * 10.0)], turn * 10.0) == ()
        assert flaps.look([("app", "10.0.0.1:80", turn * 10.0)], turn * 10.0 + 5) == ()
    (alarm,) = flaps.look([("app", "10.0.0.1:80", 60.0)], 60.0)
    assert alarm.heading == "an instance flaps"
    assert flaps.look([("app", "10.0.0.1:80", 60.0)], 900.0) == ()


def test_a_drain_and_its_end_are_one_turn() -> None:
    """Whoever is put back is healthy since before the drain; six drains within ten minutes are no alarm, seven are."""
    flaps = Flaps()
    for drain in range(1, 7):
        assert flaps.look([("app", "10.0.0.1:80", -9000.0)], drain * 10.0) == ()
        assert flaps.look([("app", "10.0.0.1:80", drain * 10.0)], drain * 10.0 + 5) == ()
    assert len(flaps.look([("app", "10.0.0.1:80", 70.0)], 70.0)) == 1


def test_a_letter_arrives_whole() -> None:
    """Subject, sender, receivers and text reach a mail server."""
    box = Mailbox()
    with serving(box) as port:
        settings = AlertSettings(
            mail_server=f"smtp://127.0.0.1:{port}", mail_from="up@example.com", mail_to=("admin@example.com",)
        )
        mail(Message("[upstreamd a] critical: wörse", "line one\nline two"), settings)
    (letter,) = box.letters
    assert "To: admin@example.com" in letter
    assert "From: up@example.com" in letter
    assert "Subject: [upstreamd a] critical: =?utf-8?" in letter
    assert "line one\r\nline two" in letter


def test_a_letter_that_is_refused_is_an_error_that_says_why() -> None:
    """The server's own words are in the sentence."""
    with serving(Mailbox(refuse=True)) as port:
        settings = AlertSettings(mail_server=f"smtp://127.0.0.1:{port}", mail_from="u@e.com", mail_to=("a@e.com",))
        with pytest.raises(UndeliveredError, match="nobody of that name"):
            mail(Message("s", "t"), settings)


def test_a_password_is_not_sent_in_the_clear(tmp_path: Path) -> None:
    """Where a server offers no STARTTLS, or somebody on the way strikes it out, the password stays here; on this
    machine nobody is on the way."""
    (tmp_path / "password").write_text("s3cret\n")
    settings = AlertSettings(
        mail_from="u@e.com", mail_to=("a@e.com",), mail_user="u", mail_password_file=str(tmp_path / "password")
    )
    box = Mailbox()
    with serving(box) as port:
        elsewhere = replace(settings, mail_server=f"smtp://127.1:{port}")  # a name that is not known to be this machine
        with pytest.raises(UndeliveredError, match="not sent in the clear; name it with smtps://"):
            mail(Message("s", "t"), elsewhere)
        assert "AUTH" not in box.heard
        mail(Message("s", "t"), replace(settings, mail_server=f"smtp://127.0.0.1:{port}"))
    assert "AUTH" in box.heard
    assert len(box.letters) == 1


async def test_what_an_app_says_calls_nobody_in_the_chat() -> None:
    """A label that would be a mention or a link in Slack arrives as the text that it is."""
    chat = Chat()
    with serving(chat) as port:
        await post(
            Message("s", "left out: '<!channel>' & '<http://evil/|fix>'"),
            AlertSettings(webhook=f"http://127.0.0.1:{port}/"),
        )
    assert chat.texts == ["s\nleft out: '&lt;!channel&gt;' &amp; '&lt;http://evil/|fix&gt;'"]


async def test_a_webhook_that_cannot_be_reached_does_not_give_its_url_away() -> None:
    """The URL of a webhook is a secret, so the sentence for the log names the key instead."""
    with serving(Chat()) as port:
        pass
    with pytest.raises(UndeliveredError) as raised:
        await post(Message("s", "t"), AlertSettings(webhook=f"http://127.0.0.1:{port}/secret"))
    assert "alerts.webhook" in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("begin", "piece", "pause"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", b"x", 0.1),
        (b"HTTP/1.1 200 OK\r\n", b"X: 1\r\n", 0.1),
        (b"HTTP/1.1 200 OK\r\n", b"X: 1\r\n" * 1000, 0.0),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x" * 65536, 0.0),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.1),
    ],
    ids=["drips a line", "drips headers", "pours headers", "pours a header", "drips promises"],
)
async def test_a_webhook_that_never_ends_is_left(
    begin: bytes, piece: bytes, pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However slowly or fast an answer goes on, its connection ends at the deadline at the latest."""
    monkeypatch.setattr(deliver, "LONGEST", 1.5)
    monkeypatch.setattr(deliver, "TRIES", 1)
    endless = Drip(begin, piece, pause)
    sick = picture(member(state=State.UNHEALTHY))
    with serving(endless) as port:
        settings = AlertSettings(webhook=f"http://127.0.0.1:{port}/hook", after=0.0)
        stage = asyncio.create_task(Alerting(settings, drawn(sick), time.monotonic).run())
        try:
            await until(endless.left.is_set)
        finally:
            stage.cancel()
            await asyncio.wait([stage])


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
@pytest.mark.parametrize("begin", [b"220 ", b"220 here\r\n250-"], ids=["the greeting", "an answer"])
def test_a_mail_server_that_drips_is_left(
    begin: bytes, scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mail server whose answer has no end is cut off at the deadline: no thread stays with it."""
    monkeypatch.setattr(deliver, "LONGEST", 1.0)
    certificates = Certificates(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", certificates.path("ca.pem"))
    drip = Drip(begin, b"x", 0.05, certificates.server() if scheme == "smtps" else None)
    with serving(drip) as port:
        settings = AlertSettings(
            mail_server=f"{scheme}://127.0.0.1:{port}", mail_from="u@example.com", mail_to=("a@example.com",)
        )
        with pytest.raises(UndeliveredError, match=rf"^mail by 127\.0\.0\.1:{port}: ") as caught:
            mail(Message("s", "t"), settings)
        assert "certificate" not in str(caught.value).lower()
        assert drip.left.wait(20)


async def test_an_endless_body_costs_nothing() -> None:
    """What follows the status is not read: the message has arrived, and the connection ends."""
    endless = Drip(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536, 0.0)
    with serving(endless) as port:
        await post(Message("s", "t"), AlertSettings(webhook=f"http://127.0.0.1:{port}/"))
        await until(endless.left.is_set)


async def test_what_stands_reaches_the_chat_in_spite_of_a_failing_try() -> None:
    """The stage looks, tells, and tries again where the webhook answers 500."""
    chat = Chat(failing=1)
    sick = picture(member(state=State.UNHEALTHY))
    with serving(chat) as port:
        settings = AlertSettings(webhook=f"http://127.0.0.1:{port}/hook", after=0.0)
        stage = asyncio.create_task(Alerting(settings, drawn(sick), time.monotonic).run())
        try:
            await until(lambda: chat.texts)
        finally:
            stage.cancel()
            await asyncio.wait([stage])
    assert chat.asked == 2
    assert "app has no healthy instance" in chat.texts[0]
