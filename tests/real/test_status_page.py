"""The status page in a real browser: what its user sees, does by keyboard and mouse, and is protected from."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.page_fakes import LookedAt, looked_at, member
from tests.real.browser_harness import Browser, Page, browser
from tests.real.nginx_harness import Nginx
from tests.real.sidecar_harness import Sidecar, apps, beside, eventually, targets
from upstreamd.errors import OrderError
from upstreamd.events import Kind
from upstreamd.model import Endpoint, Outcome, OutcomeKind, State

pytestmark = [pytest.mark.real("chromium"), pytest.mark.asyncio(loop_scope="module")]

HOSTILE = '<img src=x onerror="window.owned=1"><script>window.owned=1</script>\u202egnp.exe'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium(chromium_binary: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    """One browser for all; each test has a page of its own."""
    async with browser(chromium_binary, tmp_path_factory.mktemp("profile")) as running:
        yield running


@asynccontextmanager
async def opened(chromium: Browser, url: str, **window: Any) -> AsyncIterator[Page]:
    """The page at `url`, which at the end has nothing to complain of on its console."""
    page = await chromium.open(url, **window)
    try:
        yield page
        assert page.complaints == []
        origin = url.split("/", 3)[2]
        assert {asked.split("/", 3)[2] for asked in page.asked if asked.startswith("http")} == {origin}
    finally:
        await page.send("Page.close")


def tile(endpoint: str) -> str:
    """The tile of an instance, as an expression."""
    return f"[...document.querySelectorAll('.tile')].find((tile) => tile.innerText.includes('{endpoint}'))"


def changed(shown: LookedAt, number: int, state: State, reason: str = "") -> None:
    """Have an instance in another state, and its event told."""
    members = list(shown.members)
    members[number] = member(number, state, reason=reason)
    shown.members = tuple(members)
    endpoint = str(members[number].instance.endpoint)
    shown.events.publish(
        Kind.HEALTH,
        f"{endpoint} is {state}: {members[number].reason}",
        service="app",
        instance=endpoint,
    )


async def test_it_shows_who_serves_and_why_not(chromium: Browser) -> None:
    """Every instance has a tile with state, since, reason, version, weight, source and its last probe; nginx, sources
    and the service's generation and route stand beside. Nothing is asked of anybody but the sidecar."""
    sick = member(2, State.UNHEALTHY, reason="timed out after 1s", version="blue")
    async with looked_at(member(0, version="green"), member(1, version="green"), sick) as shown:
        shown.route = "resolve"
        async with opened(chromium, shown.url) as page:
            await page.shows("2 of 3 instances serve")
            await page.shows("10.0.0.3:3000")
            text = await page.value(f"{tile('10.0.0.3:3000')}.innerText")
            for part in (
                "unhealthy",
                " for ",
                "timed out after 1s",
                "blue",
                "weight 1",
                "file:app",
                "probed",
                "ms",
            ):
                assert part in text
            for part in (
                "1.31.3",
                "pid 1234",
                "1 old one still draining",
                "file:app ok",
                "generation 42",
                "resolve",
            ):
                await page.shows(part)
            await page.until("document.querySelector('.tile polyline').points.length >= 2")


async def test_it_changes_with_what_happens(chromium: Browser) -> None:
    """An event changes the tile it concerns, the counts and the timeline; instances come and go."""
    async with (
        looked_at(member(0), member(1)) as shown,
        opened(chromium, shown.url) as page,
    ):
        await page.shows("2 of 2 instances serve")
        changed(shown, 1, State.UNHEALTHY, "connection refused")
        await page.until(f"{tile('10.0.0.2:3000')}.dataset.state === 'unhealthy'")
        await page.shows("1 of 2 instances serve")
        await page.shows("10.0.0.2:3000 is unhealthy: connection refused")
        shown.members = (member(1), member(5))
        shown.events.publish(Kind.DISCOVERY, "file:app: +10.0.0.6:3000 -10.0.0.1:3000", service="app")
        await page.until(
            f"{tile('10.0.0.6:3000')} && !document.querySelector('.tiles').innerText.includes('10.0.0.1:')"
        )


async def test_what_was_discovered_stays_text(chromium: Browser) -> None:
    """Markup in reasons, versions, ids, sources, alarms and events is shown, not obeyed, and marks that turn the
    direction of writing are spelled out; markup could not even be made, for the policy forbids it."""
    hostile = member(0, State.UNHEALTHY, reason=HOSTILE, version=HOSTILE, identity=HOSTILE)
    async with looked_at(hostile._replace(source=HOSTILE), member(1)) as shown:
        shown.alarms = (HOSTILE,)
        shown.base = replace(shown.base, outcome=Outcome(OutcomeKind.REJECTED, "", HOSTILE))
        shown.applied(41, "10.0.0.1", cause=HOSTILE)
        async with opened(chromium, shown.url) as page:
            await page.shows("1 of 2 instances serve")
            shown.events.publish(Kind.HEALTH, HOSTILE, service="app")
            await page.until("document.querySelector('#events').innerText.includes('<script>')")
            await page.until("document.querySelector('#history').innerText.includes('<script>')")
            await page.until("document.querySelector('.tile .reason').innerText.includes('<img src=x')")
            await page.until(r"document.querySelector('#banners').innerText.includes('\\u202egnp.exe')")
            assert await page.value("document.querySelectorAll('img').length + Number('owned' in window)") == 0
            refused = "try { document.body.innerHTML = '<b>x</b>'; 'made' } catch (error) { error.name }"
            assert await page.value(refused) == "TypeError"
            assert [each for each in page.complaints if "TrustedHTML" not in each] == []
            page.complaints.clear()


async def test_trouble_stands_at_the_top(chromium: Browser) -> None:
    """Panic, other alarms, a refused apply, a lost nginx and a drift that was undone are banners, and go with their
    reason."""
    async with looked_at(member(0)) as shown:
        calm = shown.base
        shown.panic, shown.alarms = (
            True,
            (
                "app is in panic: 1 of 4 instances are healthy",
                "an address has two owners",
            ),
        )
        lost = replace(calm.nginx, problem="no live master has the pid in /run/nginx.pid")
        refused = Outcome(OutcomeKind.REJECTED, "", "nginx: [emerg] no servers", 0.1)
        shown.base = replace(calm, nginx=lost, outcome=refused)
        shown.restored_at = time.monotonic() - 3
        async with opened(chromium, shown.url) as page:
            for part in (
                "app is in panic: 1 of 4",
                "two owners",
                "[emerg] no servers",
                "no live master",
                "another hand",
            ):
                await page.until(f"document.querySelector('#banners').innerText.includes('{part}')")
            shown.base, shown.panic, shown.alarms, shown.restored_at = (
                calm,
                False,
                (),
                None,
            )
            await page.until("document.querySelector('#banners').children.length === 0")


async def test_orders_are_confirmed_and_sent_with_the_token(chromium: Browser, tmp_path: Path) -> None:
    """Without a token there are no buttons; with it a drain is confirmed and given, a refusal is told and can be
    overridden, a share of the requests goes to a version, and a generation is rolled back to."""
    token = tmp_path / "token"
    token.write_text("a-token-that-nobody-guesses\n")
    async with looked_at(member(0, version="blue"), member(1, version="green"), token_file=token) as shown:
        shown.applied(41, "10.0.0.1", cause="upstreamd has started")
        async with opened(chromium, shown.url) as page:
            await page.until("document.querySelectorAll('.tile button').length === 2")
            assert await page.value("document.querySelector('.tile button').offsetParent") is None
            await unlocked(page, "a-token-that-nobody-guesses")
            await page.click(".tile button")
            await confirmed(page, "Drain 10.0.0.1:3000")
            await page.shows("Ordered: Drain 10.0.0.1:3000")
            shown.orders.refusal = OrderError("10.0.0.1:3000 is the last that serves", kind="refused")
            await page.click(".tile button")
            await confirmed(page, "Drain 10.0.0.1:3000")
            await page.shows("Refused: 10.0.0.1:3000 is the last that serves")
            shown.orders.refusal = None
            await page.click("#order-force")
            await confirmed(page, "Drain 10.0.0.1:3000")
            await page.until("!document.querySelector('#order-dialog').open")
            await page.click(".version:nth-child(2) button")
            await page.value("document.querySelector('#order-weight').value = '10'")
            await confirmed(page, "Switch app to green")
            await page.shows("Ordered: Switch app to green")
            await page.click("#history summary")
            await page.click("#history button")
            await confirmed(page, "Roll app back to 41")
            await page.shows("Ordered: Roll app back to 41")
            changed(shown, 1, State.DRAINED)
            await page.until(f"{tile('10.0.0.2:3000')}.querySelector('button').innerText === 'Undrain'")
            await page.click(".tile:nth-child(2) button")
            await confirmed(page, "Undrain 10.0.0.2:3000")
            await page.shows("Ordered: Undrain 10.0.0.2:3000")
        first, second = (
            Endpoint("10.0.0.1", 3000),
            [order[:5] for order in shown.orders.given],
        )
        assert second[0][:4] == ("drain", "app", first, False)
        assert second[1][:4] == ("drain", "app", first, True)
        assert second[2][:4] == ("switch", "app", "green", 10)
        assert second[3][:3] == ("rollback", "app", 41)
        assert second[4][:3] == ("undrain", "app", Endpoint("10.0.0.2", 3000))
        assert all("token" in str(order) for order in shown.orders.given)


async def test_a_wrong_token_changes_nothing(chromium: Browser, tmp_path: Path) -> None:
    """The order is refused and the page says so."""
    token = tmp_path / "token"
    token.write_text("a-token-that-nobody-guesses\n")
    async with (
        looked_at(member(0), token_file=token) as shown,
        opened(chromium, shown.url) as page,
    ):
        await page.shows("1 of 1 instance serves")
        await unlocked(page, "another")
        await page.click(".tile button")
        await confirmed(page, "Drain 10.0.0.1:3000")
        await page.shows("this is not the token")
        assert shown.orders.given == []


async def test_reads_that_need_a_token_ask_for_it(chromium: Browser, tmp_path: Path) -> None:
    """Where reads need the token too, the page has no data in it, asks for the token, and then shows everything."""
    token = tmp_path / "token"
    token.write_text("a-token-that-nobody-guesses\n")
    async with (
        looked_at(member(0), token_file=token, reads=True) as shown,
        opened(chromium, shown.url) as page,
    ):
        await page.until("document.querySelector('#token-dialog').open")
        assert await page.value("document.querySelectorAll('.tile').length") == 0
        await page.value("document.querySelector('#token').focus()")
        await page.write("a-token-that-nobody-guesses")
        await page.press("Enter", "\r")
        await page.shows("1 of 1 instance serves")
        await page.until("document.querySelector('#connection').dataset.state === 'live'")


async def unlocked(page: Page, token: str) -> None:
    """The buttons shown, with this token."""
    await page.click("#unlock")
    await page.until("document.activeElement.id === 'token'")
    await page.write(token)
    await page.press("Enter", "\r")
    await page.until("document.querySelector('.tile button').offsetParent")


async def confirmed(page: Page, title: str) -> None:
    """The dialog of this title, answered with yes."""
    shown = "document.querySelector('#order-title').innerText"
    await page.until(f"document.querySelector('#order-dialog').open && {shown} === '{title}'")
    await page.click("#order-go")


async def test_it_is_used_with_the_keyboard_alone(chromium: Browser) -> None:
    """Tab reaches the skip link and one tile of a service, arrows go from tile to tile, Enter and Escape answer a
    dialog, and every control and tile has a name."""
    async with (
        looked_at(*(member(number) for number in range(8))) as shown,
        opened(chromium, shown.url) as page,
    ):
        await page.shows("8 of 8 instances serve")
        await page.until("document.querySelectorAll('.tile[data-state]').length === 8")
        await page.press("Tab")
        assert await page.value("document.activeElement.className") == "skip"
        await page.press("Enter", "\r")
        assert await page.value("document.activeElement.id") == "services"
        while await page.value("!document.activeElement.classList.contains('tile')"):
            await page.press("Tab")
        focused = "document.activeElement.querySelector('.endpoint')?.innerText"
        assert await page.value(focused) == "10.0.0.1:3000"
        for key, endpoint in (
            ("ArrowRight", "2"),
            ("End", "8"),
            ("ArrowLeft", "7"),
            ("Home", "1"),
        ):
            await page.press(key)
            assert await page.value(focused) == f"10.0.0.{endpoint}:3000"
        await page.value("document.querySelector('#unlock').focus()")
        await page.press("Enter", "\r")
        await page.until("document.activeElement.id === 'token'")
        await page.press("Escape")
        await page.until("!document.querySelector('#token-dialog').open")
        nameless = (
            "[...document.querySelectorAll('button, input, .tile, ol, section')].filter((node) =>"
            " !node.innerText.trim() && !node.getAttribute('aria-label') && !node.closest('label')).length"
        )
        assert await page.value(nameless) == 0


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_a_narrow_window_shows_everything(chromium: Browser, *, dark: bool) -> None:
    """At 375 pixels nothing is cut or has to be scrolled to sideways, and text has contrast, light and dark."""
    sick = member(1, State.UNHEALTHY, reason="x" * 300, version="v" * 120)
    async with looked_at(member(0), sick) as shown:
        shown.alarms = ("y" * 200,)
        shown.applied(41, "10.0.0.1", cause="z" * 300)
        async with opened(chromium, shown.url, width=375, height=800, dark=dark) as page:
            await page.shows("1 of 2 instances serve")
            changed(shown, 0, State.UNHEALTHY, "w" * 300)
            await page.until("document.querySelectorAll('.tile[data-state=unhealthy]').length === 2")
            await page.until("['.kind', '.banner', '#history time'].every((name) => document.querySelector(name))")
            assert await page.value("document.documentElement.scrollWidth") == 375
            assert await page.value(f"({CONTRAST})()") >= 4.5


CONTRAST = """() => {
  const light = (colour) => {
    const [red, green, blue] = colour.match(/[0-9.]+/g).slice(0, 3).map((part) => part / 255)
      .map((part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (colour !== "rgba(0, 0, 0, 0)") return colour;
    }
  };
  const shown = [".reason", ".word", ".heading", ".marks", ".since", ".banner", "#connection", ".kind", "time"];
  return Math.min(...shown.map((name) => {
    const node = document.querySelector(name);
    const [one, two] = [light(getComputedStyle(node).color), light(behind(node))].sort((a, b) => b - a);
    return (one + 0.05) / (two + 0.05);
  }));
}"""
"""The least contrast of text to what lies behind it (WCAG 2, 1.4.3)."""


async def test_events_and_instances_are_filtered(chromium: Browser) -> None:
    """Kinds, a text and a cause choose events; states and a text choose instances."""
    sick = member(1, State.UNHEALTHY)
    async with (
        looked_at(member(0), sick, member(2)) as shown,
        opened(chromium, shown.url) as page,
    ):
        shown.events.publish(Kind.DISCOVERY, "file:app: +10.0.0.2:3000", service="app")
        first = shown.events.take("app")
        assert first is not None
        shown.events.publish(Kind.APPLY, "nginx serves generation 42", service="app", cause=first.id)
        shown.events.publish(Kind.HEALTH, "10.0.0.3:3000 is unhealthy", service="app")
        rows = "[...document.querySelectorAll('#events li')].filter((row) => !row.hidden).length"
        await page.until(f"{rows} === 3")
        await page.value("document.querySelector('#kinds button').click()")
        await page.until(f"{rows} === 2")
        await page.value("document.querySelector('#kinds button').click()")
        await page.value("[...document.querySelectorAll('#events li button')].at(-1).click()")
        await page.until(f"{rows} === 2 && document.activeElement.id === 'all-causes'")
        await page.press("Enter", "\r")
        await page.until(f"{rows} === 3")
        tiles = "[...document.querySelectorAll('.tile')].filter((tile) => !tile.hidden).length"
        await page.until(f"{tiles} === 3")
        await page.value("document.querySelector('#states [data-state=healthy]').click()")
        await page.until(f"{tiles} === 1")
        await page.value("document.querySelector('#states [data-state=healthy]').click()")
        await page.value("document.querySelector('#find').focus()")
        await page.write("10.0.0.3")
        await page.until(f"{tiles} === 1 && !{tile('10.0.0.3:3000')}.hidden")


async def test_a_thousand_instances_in_motion_leave_it_idle(chromium: Browser) -> None:
    """With 1,000 instances and 50 events a second every event is shown, and the page's thread is idle most of the
    time."""
    count, events = 1000, 150
    thousand = [member(number) for number in range(count)]
    async with looked_at(*thousand) as shown, opened(chromium, shown.url) as page:
        await page.until(f"document.querySelectorAll('.tile[data-state]').length === {count}")
        await page.send("Performance.enable", timeDomain="threadTicks")
        before, began = await busy(page), time.monotonic()
        for number in range(events):
            changed(shown, number, State.UNHEALTHY)
            await asyncio.sleep(0.02)
        await page.until(f"document.querySelectorAll('#events li').length === {events}")
        await page.until(f"document.querySelectorAll('.tile[data-state=unhealthy]').length === {events}")
        assert await busy(page) - before < (time.monotonic() - began) / 2


async def busy(page: Page) -> float:
    """Seconds of processor time that the page's main thread has taken."""
    said = await page.send("Performance.getMetrics")
    return float(next(each["value"] for each in said["metrics"] if each["name"] == "TaskDuration"))


@pytest.mark.real("nginx")
async def test_it_lives_through_a_restart_of_the_sidecar(chromium: Browser, nginx_binary: str, tmp_path: Path) -> None:
    """With the real sidecar: an instance that falls sick is shown at once; a sidecar that was killed is missed, and
    followed again once it is back, its history included."""
    async with apps("one", "two") as (one, two):
        targets(tmp_path / "targets.json", one, two)
        nginx = Nginx(nginx_binary, tmp_path)
        nginx.seed(9)
        sidecar = Sidecar(
            tmp_path,
            nginx,
            f'[services.app_servers.file]\npaths = ["{tmp_path}/targets.json"]\n',
        )
        async with beside(nginx, sidecar):
            page = await chromium.open(f"http://127.0.0.1:{sidecar.admin}/")
            await page.shows("2 of 2 instances serve")
            two.healthy = False
            await page.until(f"{tile(two.endpoint)}.dataset.state === 'unhealthy'")
            await page.until(f"document.querySelector('#history').textContent.includes('-{two.endpoint}')")
            sidecar.kill()
            await page.shows("not connected")
            two.healthy = True
            sidecar.start()
            await eventually(sidecar.ready, "readiness after the kill")
            await page.shows("2 of 2 instances serve")
            await page.until("document.querySelector('#connection').dataset.state === 'live'")
            await page.until(f"document.querySelector('#history').textContent.includes('-{two.endpoint}')")
            await page.send("Page.close")


@pytest.mark.real("nginx")
async def test_a_drain_from_the_page_reaches_nginx(chromium: Browser, nginx_binary: str, tmp_path: Path) -> None:
    """With the real sidecar and no token configured: the drained instance leaves nginx's file, its tile says
    by whom, and the order stands in the timeline as the cause of the apply."""
    async with apps("one", "two") as (one, two):
        targets(tmp_path / "targets.json", one, two)
        nginx = Nginx(nginx_binary, tmp_path)
        nginx.seed(9)
        sidecar = Sidecar(tmp_path, nginx, f'[services.app_servers.file]\npaths = ["{tmp_path}/targets.json"]\n')
        async with beside(nginx, sidecar), opened(chromium, f"http://127.0.0.1:{sidecar.admin}/") as page:
            await page.shows("2 of 2 instances serve")
            await unlocked(page, "")
            await page.click(f'[aria-label="Drain {two.endpoint}"]')
            await confirmed(page, f"Drain {two.endpoint}")
            await page.until(f"{tile(two.endpoint)}.innerText.includes('drained')")
            await eventually(lambda: two.endpoint not in nginx.output.read_text(), "nginx's file to change")
            await page.until(f"document.querySelector('#history').textContent.includes('-{two.endpoint}')")
            order = "[...document.querySelectorAll('#events li')].find((row) => row.innerText.includes('order'))"
            await page.until(f"{order}?.querySelector('button')")
            await page.value(f"{order}.querySelector('button').click()")
            kinds = (
                "[...document.querySelectorAll('#events li:not([hidden]) .kind')].map((kind) => kind.innerText).join()"
            )
            await page.until(f"{kinds}.includes('apply') && {kinds}.includes('order')")
