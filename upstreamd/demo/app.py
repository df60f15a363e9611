"""One instance of the demo's service: `python -m upstreamd.demo.app --port 3001 --version blue`.

`GET /health` answers as the sidecar expects; `POST /break` and `POST /heal` turn that answer. A sick instance goes
on serving: whether it still gets requests is the load balancer's doing alone. SIGTERM starts a grace period in
which it serves as before, so that requests under way and late ones succeed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal

from aiohttp import web

from upstreamd.demo.page import page

GRACE = 0.3
"""Seconds of serving after SIGTERM."""
_WORK = (0.002, 0.012)  # seconds a request takes, so that some are always under way
_IDLE = 120.0  # longer than nginx keeps an idle connection: nginx closes first and no request meets a closed one
_LARGEST_BODY = 64 * 1024


class App:
    """The service's handlers; `healthy` is what /health tells."""

    def __init__(self, port: int, version: str) -> None:
        self.name = f"127.0.0.1:{port}"
        self.version = version
        self.healthy = True
        self.served = 0

    def routes(self) -> web.Application:
        """The application with every path it knows."""
        application = web.Application(client_max_size=_LARGEST_BODY)
        application.router.add_get("/health", self.health)
        application.router.add_post("/break", self.turn_sick)
        application.router.add_post("/heal", self.turn_well)
        application.router.add_get("/", self.work)
        application.router.add_post("/", self.work)
        return application

    async def health(self, _request: web.Request) -> web.Response:
        """200 and "healthy", or 503 and "unhealthy"."""
        status = "healthy" if self.healthy else "unhealthy"
        return web.json_response({"status": status, "version": self.version}, status=200 if self.healthy else 503)

    async def turn_sick(self, request: web.Request) -> web.Response:
        """From now on /health says unhealthy."""
        self.healthy = False
        return await self.health(request)

    async def turn_well(self, _request: web.Request) -> web.Response:
        """From now on /health says healthy."""
        self.healthy = True
        return web.json_response({"status": "healthy", "version": self.version})

    async def work(self, request: web.Request) -> web.Response:
        """A short piece of work; names the instance that did it. A browser gets a page, others one line."""
        received = len(await request.read())
        await asyncio.sleep(random.uniform(*_WORK))
        self.served += 1
        headers = {"X-Instance": self.name, "X-Version": self.version}
        if "text/html" in request.headers.get("Accept", ""):
            text = page(self.name, self.version, self.served)
            return web.Response(text=text, content_type="text/html", headers=headers)
        return web.Response(text=f"{self.name} {self.version} received {received} bytes\n", headers=headers)


async def serve(port: int, version: str) -> None:
    """Serves on 127.0.0.1:`port` until SIGTERM or SIGINT and the grace after it. Raises OSError."""
    asked_to_end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked_to_end.set)
    runner = web.AppRunner(App(port, version).routes(), access_log=None, keepalive_timeout=_IDLE)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port, shutdown_timeout=1.0, reuse_address=True).start()
        await asked_to_end.wait()
        await asyncio.sleep(GRACE)
    finally:
        await runner.cleanup()


def main() -> None:
    """Reads the arguments and serves."""
    arguments = argparse.ArgumentParser(prog="upstreamd.demo.app", description="one instance of the demo's service")
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--version", required=True)
    given = arguments.parse_args()
    asyncio.run(serve(given.port, given.version))


if __name__ == "__main__":
    main()
