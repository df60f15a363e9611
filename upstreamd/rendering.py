"""Renders a set for nginx without holding up the event loop."""

from __future__ import annotations

import asyncio

from upstreamd.model import Document, Upstream
from upstreamd.render import document

RENDER_IN_THREAD = 200
"""Servers from which rendering is done beside the event loop, which must not stall the probes."""


async def rendered(upstream: Upstream, output: str, generation: int) -> Document:
    """As `document`, in a thread where the servers are many. Raises RenderError."""
    if len(upstream.servers) > RENDER_IN_THREAD:
        return await asyncio.to_thread(document, upstream, output, generation)
    return document(upstream, output, generation)
