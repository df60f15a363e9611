"""The page a browser gets from the demo's service: which instance answered, once a second."""

from __future__ import annotations

import html

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="1"><title>{instance}</title>
<style>body{{font:1.2rem/1.6 system-ui,sans-serif;margin:12vh auto;max-width:34rem;padding:0 1rem}}
b{{color:{colour}}}</style></head>
<body><p>Answered by <b>{instance}</b>, version <b>{version}</b>.</p>
<p>Its {served}. request. The page asks again every second; nginx chooses who answers.</p></body></html>
"""
_COLOURS = {"blue": "#1d4ed8", "green": "#15803d"}


def page(instance: str, version: str, served: int) -> str:
    """The page for the answer of `instance`."""
    colour = _COLOURS.get(version, "#374151")
    return _PAGE.format(instance=html.escape(instance), version=html.escape(version), served=served, colour=colour)
