"""The whole product on one machine with nothing installed: `upstreamd demo`."""

from __future__ import annotations


async def run_demo(duration: float | None, port: int, route: str = "reload") -> int:
    """Plays the acts behind 127.0.0.1:`port` (0: a free one) and tells on stdout what happened. Changes reach nginx by
    `route`: "reload", or "resolve" without any reload.

    It ends `duration` seconds after its start, never before the acts are over; with None it stays up until SIGINT,
    SIGTERM or SIGHUP. Whatever ends it, nothing it started is left running.

    Returns the exit code: 0 where every act was seen and no request failed, 1 where not, 130 where SIGINT came before
    the last act and nothing had gone wrong, 2 where it could not begin (the port is taken, the embedded nginx is not
    installed, the platform is not supported).
    """
    from upstreamd.demo.play import play

    return await play(duration, port, route)
