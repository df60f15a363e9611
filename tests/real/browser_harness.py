"""A real headless Chromium, driven by the DevTools protocol: open a page, look at it as its user does, press keys."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import os
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

PATIENCE = 30.0
"""Seconds for anything the browser does; only a hung one takes so long."""
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--force-device-scale-factor=1",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
_ANNOUNCED = re.compile(rb"DevTools listening on (ws://\S+)")


class Browser:
    """One Chromium; `open` gives a page of its own. Import through `browser()`."""

    def __init__(self, wire: aiohttp.ClientWebSocketResponse) -> None:
        self._wire = wire
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}

    async def read(self) -> None:
        """Hand out what the browser says, until it has gone."""
        async for message in self._wire:
            said = message.json()
            if (waiting := self._answers.pop(said.get("id", 0), None)) is not None and not waiting.done():
                waiting.set_result(said)
            elif (page := self._pages.get(said.get("sessionId", ""))) is not None:
                page.hear(said["method"], said["params"])

    async def send(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        """One command and its result; fails where the browser refuses it."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._wire.send_json({"id": number, "method": method, "params": params, **_within(session)})
        said = await asyncio.wait_for(answer, PATIENCE)
        if "error" in said:
            raise AssertionError(f"{method}: {said['error']}")
        found: dict[str, Any] = said["result"]
        return found

    async def open(self, url: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> Page:
        """A page of its own that shows `url`, once its document is there."""
        target = await self.send("Target.createTarget", url="about:blank")
        attached = await self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page = self._pages[attached["sessionId"]] = Page(self, attached["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            await page.send(f"{domain}.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await page.send("Emulation.setEmulatedMedia", features=[scheme])
        await page.resize(width, height)
        await page.send("Page.navigate", url=url)
        await page.until("document.readyState === 'complete' && location.href !== 'about:blank'")
        return page


class Page:
    """One page. `complaints` is what it had to say on its console: errors and broken policies."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.complaints: list[str] = []
        self.asked: list[str] = []

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command for this page."""
        return await self._browser.send(method, self._session, **params)

    def hear(self, method: str, params: dict[str, Any]) -> None:
        """Called with each event of the page."""
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            if params["entry"]["source"] != "network":  # an answer that says no is the page's to tell
                self.complaints.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])

    async def value(self, expression: str) -> Any:
        """What an expression of JavaScript comes to; a promise is awaited."""
        said = await self.send(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
        )
        if "exceptionDetails" in said:
            raise AssertionError(f"{expression}: {said['exceptionDetails']}")
        return said["result"].get("value")

    async def until(self, expression: str, patience: float = PATIENCE) -> None:
        """Wait until the expression is true; what it looks at may have yet to be drawn."""
        end = time.monotonic() + patience
        tried = f"(() => {{ try {{ return Boolean({expression}) }} catch {{ return false }} }})()"
        while not await self.value(tried):
            if time.monotonic() > end:
                text = await self.value("document.body.innerText")
                raise AssertionError(f"waited {patience:g}s in vain for {expression}; the page shows:\n{text}")
            await asyncio.sleep(0.02)

    async def shows(self, text: str) -> None:
        """Wait until the page shows this text."""
        await self.until(f"document.body.innerText.includes({_quoted(text)})")

    async def press(self, key: str, text: str = "") -> None:
        """One key, as a person presses it; `text` is what it writes."""
        code = _CODES.get(key, 0)
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        await self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        await self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    async def write(self, text: str) -> None:
        """Type `text` where the focus is."""
        await self.send("Input.insertText", text=text)

    async def click(self, selector: str) -> None:
        """Click the middle of the first element that fits, once it is there and nothing lies over it."""
        found = f"document.querySelector({_quoted(selector)})"
        await self.until(found)
        await self.value(f"{found}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        await self.until(f"({_BARE})({found})")
        where = await self.value(f"({_MIDDLE})({found})")
        for kind in ("mousePressed", "mouseReleased"):
            params = {"type": kind, "x": where[0], "y": where[1], "button": "left", "clickCount": 1}
            await self.send("Input.dispatchMouseEvent", **params)

    async def resize(self, width: int, height: int) -> None:
        """Show the page in a window of this size, in CSS pixels."""
        await self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    async def picture(self, path: Path) -> None:
        """Save what the window shows as a PNG."""
        said = await self.send("Page.captureScreenshot", format="png", optimizeForSpeed=False)
        await asyncio.to_thread(path.write_bytes, base64.b64decode(said["data"]))


_MIDDLE = (
    "(node) => { const box = node.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2] }"
)
_BARE = f"(node) => node.contains(document.elementFromPoint(...({_MIDDLE})(node)))"
_CODES = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowUp": 38,
          "ArrowRight": 39, "ArrowDown": 40}  # fmt: skip


def _within(session: str) -> dict[str, str]:
    return {"sessionId": session} if session else {}


def _quoted(text: str) -> str:
    return '"' + text.encode("unicode_escape").decode("ascii").replace("\\x", "\\u00").replace('"', '\\"') + '"'


@contextlib.asynccontextmanager
async def browser(binary: str, profile: Path) -> AsyncIterator[Browser]:
    """A Chromium with a profile of its own; it and all its processes are ended with the block."""
    process = await asyncio.create_subprocess_exec(
        binary,
        *_FLAGS,
        f"--user-data-dir={profile}",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stderr is not None
    stderr = process.stderr
    try:
        address = await asyncio.wait_for(_announced(stderr), PATIENCE)
        draining = asyncio.create_task(_drain(stderr))
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(address, max_msg_size=0) as wire,
        ):
            running = Browser(wire)
            reading = asyncio.create_task(running.read())
            try:
                yield running
            finally:
                reading.cancel()
                draining.cancel()
                await asyncio.wait({reading, draining})
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _announced(stderr: asyncio.StreamReader) -> str:
    said = b""
    while line := await stderr.readline():
        said += line
        if found := _ANNOUNCED.search(line):
            return found[1].decode()
    raise AssertionError(f"Chromium has ended:\n{said.decode(errors='replace')}")


async def _drain(stderr: asyncio.StreamReader) -> None:
    while await stderr.read(65536):
        pass
