"""Whether nginx's configuration asks upstreamd: found, or missing with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from upstreamd.apply.configuration import Configuration
from upstreamd.apply.resolvable import Placement, new_enough, placement
from upstreamd.config import ResolverSettings

LINE = "server app.upstreamd service=http resolve;"
RESOLVER = "resolver 127.0.0.1:5300 ipv6=off;"


def look(folder: Path, http: str) -> Placement:
    main = folder / "nginx.conf"
    main.write_text(f"events {{}}\nhttp {{\n{http}\n}}\n")
    return placement(Configuration(str(main)), "app", str(folder / "upstream.conf"), ResolverSettings())


@pytest.mark.parametrize(
    "http",
    [
        f"upstream app {{ zone app 1m; {RESOLVER} {LINE} }}",
        f"{RESOLVER} upstream app {{ zone app 1m; {LINE} }}",
        f"upstream other {{ server 127.0.0.1:1; }} upstream app {{ {RESOLVER} {LINE.replace('app', 'APP')} }}",
        f"upstream app {{ {RESOLVER} server app.upstreamd resolve service=_http._tcp max_fails=3; }}",
        f"resolver 8.8.8.8; upstream app {{ {RESOLVER} {LINE} }}",
    ],
)
def test_an_upstream_that_asks_is_found(tmp_path: Path, http: str) -> None:
    """In the upstream or around it, in any order of arguments, the innermost resolver counts."""
    found = look(tmp_path, http)
    assert found.missing == ""
    assert found.where.startswith(f"{tmp_path}/nginx.conf:")


@pytest.mark.parametrize(
    ("http", "sentence"),
    [
        ("upstream app { server 127.0.0.1:1; }", f"has no `{LINE}`"),
        (f"upstream app {{ {RESOLVER}\nserver app.upstreamd service=http; }}", "nginx.conf:4: the line has to be"),
        (f"upstream app {{ {LINE} }}", "nginx.conf:3: no `resolver` applies"),
        (f"upstream app {{ resolver 127.0.0.53; {LINE} }}", "`resolver 127.0.0.53` does not name upstreamd alone"),
        (f"upstream app {{ resolver 127.0.0.1:5300 8.8.8.8; {LINE} }}", "does not name upstreamd alone"),
        (f"upstream app {{ resolver 127.0.0.1:5300 valid=1s; {LINE} }}", "`valid=` makes nginx poll"),
        (
            f"upstream app {{ resolver 127.0.0.1:5300; resolver_timeout 2s; {LINE} }}",
            "is not longer than resolver.hold",
        ),
        (f"upstream app {{ {RESOLVER} {LINE} include upstream.conf; }}", "so what leaves would stay"),
        ("map $a $b { app.upstreamd 1; } server { server_name app.upstreamd; }", "has no `server"),
    ],
)
def test_what_is_missing_is_said_with_its_place_and_remedy(tmp_path: Path, http: str, sentence: str) -> None:
    """Each line that keeps the route from working is named."""
    (tmp_path / "upstream.conf").write_text("server 127.0.0.1:9;\n")
    assert sentence in look(tmp_path, http).missing


def test_included_files_are_searched_and_named(tmp_path: Path) -> None:
    """The line may stand in an included file, and that file's name and line are told."""
    (tmp_path / "app.conf").write_text(f"# mine\nupstream app {{\n{RESOLVER}\n{LINE}\n}}\n")
    assert look(tmp_path, "include *.conf.d/none; include app.conf;").where == f"{tmp_path}/app.conf:4"


def test_consistent_hashing_is_recognised(tmp_path: Path) -> None:
    """`hash … consistent` in the same upstream asks for a name for each server; in another it does not."""
    hashing = "hash $request_uri consistent;"
    assert look(tmp_path, f"upstream app {{ {hashing} {RESOLVER} {LINE} }}").by_instance
    other = f"upstream other {{ {hashing} server 127.0.0.1:1; }}"
    assert not look(tmp_path, f"{other} upstream app {{ {RESOLVER} {LINE} }}").by_instance


def test_what_works_but_could_be_better_is_advised(tmp_path: Path) -> None:
    """A resolver_timeout of an hour, and no last good set for a cold start."""
    advice = " ".join(look(tmp_path, f"upstream app {{ resolver 127.0.0.1:5300; resolver_timeout 1h; {LINE} }}").advice)
    assert "resolver_timeout is also how long" in advice
    assert "app_last_good" in advice


@pytest.mark.parametrize(("version", "enough"), [("1.27.3", True), ("1.31.0", True), ("1.27.2", False), ("", False)])
def test_the_first_nginx_that_resolves_at_run_time(version: str, enough: bool) -> None:
    """1.27.3 and later do; an unknown version does not count."""
    assert new_enough(version) is enough
