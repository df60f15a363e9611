"""The status page in a real Chromium: first paint, and frames while a thousand instances change at 50 events a second.

    .venv/bin/python bench/page.py [--seconds 10] [--pictures docs/images]

Needs `chromium` on PATH. The page is served by the real admin server over a picture of the bench's own.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from tests.page_fakes import LookedAt, looked_at, member  # noqa: E402 - found by the path above
from tests.real.browser_harness import Browser, Page, browser  # noqa: E402
from upstreamd.events import Kind  # noqa: E402
from upstreamd.model import Outcome, OutcomeKind, State  # noqa: E402

LOADS = 10
EVENTS_PER_SECOND = 50
WATCH = """(() => {
  window.gaps = [];
  let last = performance.now();
  const tick = (now) => { window.gaps.push(now - last); last = now; requestAnimationFrame(tick); };
  requestAnimationFrame(tick);
})()"""


async def painted(chromium: Browser, url: str, count: int) -> tuple[float, float]:
    """Milliseconds from navigation to the first paint, and to the last tile."""
    page = await chromium.open(url)
    await page.until(f"document.querySelectorAll('.tile[data-state]').length === {count}")
    first = await page.value("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    last = await page.value("performance.now()")
    await page.send("Page.close")
    return float(first), float(last)


async def busy(page: Page) -> float:
    """Seconds of processor time of the page's main thread."""
    said = await page.send("Performance.getMetrics")
    return float(next(each["value"] for each in said["metrics"] if each["name"] == "TaskDuration"))


async def frames(chromium: Browser, shown: LookedAt, count: int, seconds: float) -> str:
    """What the frames are like while instances turn sick and well."""
    page = await chromium.open(shown.url)
    await page.until(f"document.querySelectorAll('.tile[data-state]').length === {count}")
    await page.send("Performance.enable", timeDomain="threadTicks")
    await page.value(WATCH)
    before, began, told = await busy(page), time.monotonic(), 0
    while time.monotonic() - began < seconds:
        turn(shown, told % count)
        told += 1
        await asyncio.sleep(max(0.0, told / EVENTS_PER_SECOND - (time.monotonic() - began)))
    share = (await busy(page) - before) / seconds
    gaps = sorted(await page.value("window.gaps"))
    slow = sum(gap > 100 for gap in gaps)
    return (
        f"{told / seconds:.0f} events/s: {len(gaps)} frames, p50 {statistics.median(gaps):.0f} ms, "
        f"p99 {gaps[int(len(gaps) * 0.99)]:.0f} ms, max {gaps[-1]:.0f} ms, over 100 ms: {slow}; "
        f"main thread {share:.0%} busy"
    )


def turn(shown: LookedAt, number: int) -> None:
    """Make an instance sick, or well again, and tell it."""
    members = list(shown.members)
    state = State.UNHEALTHY if members[number].state is State.HEALTHY else State.HEALTHY
    members[number] = member(number, state, version="blue")
    shown.members = tuple(members)
    endpoint = str(members[number].instance.endpoint)
    shown.events.publish(Kind.HEALTH, f"{endpoint} is {state}", service="app", instance=endpoint)


async def pictures(chromium: Browser, directory: Path) -> None:
    """The page as the documentation shows it, light and wide, dark and narrow."""
    members = [member(number, version="green" if number % 3 else "blue") for number in range(9)]
    members[3] = member(3, State.UNHEALTHY, reason="timed out after 1s", version="blue")
    members[7] = member(7, State.CHECKING, reason="1 of 2 passes", version="green")
    async with looked_at(*members) as shown:
        shown.base = replace(shown.base, outcome=Outcome(OutcomeKind.APPLIED, duration=0.095))
        shown.applied(41, *(f"10.0.0.{number}" for number in (1, 2, 3)), cause="upstreamd has started")
        shown.events.publish(Kind.DISCOVERY, "file:app: +10.0.0.5:3000 +10.0.0.6:3000", service="app")
        shown.events.publish(Kind.HEALTH, "10.0.0.4:3000 is unhealthy: timed out after 1s", service="app")
        cause = shown.events.take("app")
        text = cause.text if cause else ""
        shown.events.publish(
            Kind.DECISION, "7 instances shall serve app: -10.0.0.4:3000", cause=cause.id if cause else ""
        )
        shown.events.publish(
            Kind.APPLY, "nginx serves generation 42 of app after 95 ms", cause=cause.id if cause else ""
        )
        shown.applied(42, *(f"10.0.0.{number}" for number in (1, 2, 3, 5, 6)), cause=text)
        shown.alarms = ("10.0.0.9:3000 is claimed by app and api; it belongs to app, which claimed it first",)
        shown.base = replace(shown.base, nginx=replace(shown.base.nginx, draining=0))
        for name, width, height, dark in (
            ("light", 1100, 900, False),
            ("dark", 375, 800, True),
            ("events", 900, 520, False),
        ):
            page = await chromium.open(shown.url, width=width, height=height, dark=dark)
            await page.until("document.querySelector('.tile polyline')?.points.length > 6")
            seen = {"light": "body", "dark": "#services", "events": "section:has(#events)"}[name]
            await page.value(f"document.querySelector('{seen}').scrollIntoView()")
            await page.picture(directory / f"status-page-{name}.png")
            await page.send("Page.close")


async def measure(seconds: float, directory: Path | None) -> None:
    """Everything, one line each."""
    binary = shutil.which("chromium")
    if binary is None:
        sys.exit("there is no chromium on PATH: apt-get install chromium")
    with tempfile.TemporaryDirectory() as profile:
        async with browser(binary, Path(profile)) as chromium:
            if directory is not None:
                await pictures(chromium, directory)
                return
            for count in (100, 1000):
                async with looked_at(*(member(number, version="blue") for number in range(count))) as shown:
                    loads = [await painted(chromium, shown.url, count) for _ in range(LOADS)]
                    first, last = zip(*loads, strict=True)
                    typical, worst = statistics.median(first), max(first)
                    print(f"{count} instances: first paint p50 {typical:.0f} ms, max {worst:.0f} ms")
                    print(f"{count} instances: last tile p50 {statistics.median(last):.0f} ms")
                    print(f"{count} instances, {await frames(chromium, shown, count, seconds)}")


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long instances change")
    parser.add_argument("--pictures", type=Path, metavar="DIRECTORY", help="take the documentation's pictures instead")
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.seconds, arguments.pictures))


if __name__ == "__main__":
    main()
