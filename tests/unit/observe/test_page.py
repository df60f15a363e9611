from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files

import aiohttp
import pytest

from tests.page_fakes import looked_at, member
from upstreamd.observe import page

ROOT = files(page)
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


async def loaded() -> tuple[str, str]:
    """The page's policy and its text, as a browser gets them."""
    async with (
        looked_at(member(0)) as shown,
        aiohttp.ClientSession() as session,
        session.get(shown.url, headers=BROWSER) as answer,
    ):
        return answer.headers["Content-Security-Policy"], await answer.text()


async def test_a_browser_gets_the_page_and_nobody_else() -> None:
    """`/` is the page for who asks for HTML, and a hint in plain text for curl; HEAD works for both."""
    async with looked_at(member(0)) as shown, aiohttp.ClientSession() as session:
        async with session.get(shown.url, headers=BROWSER) as answer:
            assert (answer.status, answer.content_type) == (200, "text/html")
            assert (await answer.text()).startswith("<!doctype html>")
        async with session.get(shown.url, headers={"Accept": "*/*"}) as answer:
            assert (answer.status, answer.content_type) == (200, "text/plain")
            assert "upstreamd status" in await answer.text()
        async with session.head(shown.url, headers=BROWSER) as answer:
            assert answer.status == 200


async def test_the_policy_allows_what_stands_in_the_page_and_nothing_else() -> None:
    """The style and the script are allowed by their hashes, connections to the sidecar alone, frames by nobody."""
    policy, text = await loaded()
    for name in ("style", "script"):
        [inline] = re.findall(rf"<{name}[^>]*>(.*?)</{name}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    for part in ("default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"):
        assert part in policy
    assert "unsafe" not in policy


async def test_the_page_needs_no_other_resource() -> None:
    """No address of another server stands in it, nor of a file beside it."""
    _, text = await loaded()
    assert set(re.findall(r"https?://[^\s'\"]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert re.findall(r"(?:src|@import|url\()\s*=?", re.sub(r"-src", "", text)) == []
    assert len(text) < 100_000


@pytest.mark.parametrize("name", page.SCRIPTS)
def test_no_script_makes_markup_of_text(name: str) -> None:
    """Nothing in the scripts can turn a string into elements or code."""
    script = ROOT.joinpath(f"{name}.js").read_text()
    assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|setHTML|srcdoc|createContextualFragment", script) == []
    assert re.findall(r"document\.write|\beval\b|new Function|DOMParser", script) == []
