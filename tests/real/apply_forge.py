"""Runs applies in children of its own and kills them, uncatchably, at a line of the apply stage.

A program, not a module of tests: it reads one JSON order a line ({"document": ..., "kill_at": [file, line] or null})
and answers one JSON line ({"killed": bool, "steps": [[file, line], ...]}). Lines are those of upstreamd/apply, in the
order in which they first run; the interpreter's own trace function does the killing: the product knows nothing of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from upstreamd import apply as stage
from upstreamd.config import ApplySettings, NginxSettings
from upstreamd.model import Document

HOME = str(Path(stage.__file__).parent)


class Tracer:
    """Notes every first line, and kills this process at one of them."""

    def __init__(self, kill_at: list[Any] | None) -> None:
        self.steps: dict[tuple[str, int], None] = {}
        self._kill_at = tuple(kill_at) if kill_at else None

    def __call__(self, frame: FrameType, event: str, _: object) -> Tracer | None:
        path = frame.f_code.co_filename
        if not path.startswith(HOME):
            return None
        if event == "line":
            step = (Path(path).name, frame.f_lineno)
            if step == self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            self.steps.setdefault(step)
        return self


def forge(settings: NginxSettings, order: dict[str, Any], answer: int) -> None:
    tracer = Tracer(order["kill_at"])
    transaction = stage.Transaction(settings, ApplySettings(), clock=time.monotonic)
    threading.settrace(tracer)
    sys.settrace(tracer)
    outcome = asyncio.run(transaction.apply([Document(**order["document"])]))
    sys.settrace(None)
    os.write(answer, json.dumps({"outcome": str(outcome), "steps": list(tracer.steps)}).encode())


def main() -> None:
    settings = NginxSettings(**json.loads(sys.argv[1]))
    for line in sys.stdin:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            forge(settings, json.loads(line), writer)
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            said = pipe.read()
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        sys.stdout.write(json.dumps({"killed": killed, **json.loads(said or "{}")}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
