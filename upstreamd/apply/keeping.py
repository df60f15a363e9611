"""The last good set in its file, for routes that change nginx without it: nginx reads it where it starts or reloads."""

from __future__ import annotations

from upstreamd.apply.files import OutputFile
from upstreamd.apply.reload import to_its_end
from upstreamd.model import Document


class Keeping:
    """Writes documents; lines of another hand are reported once before they go."""

    def __init__(self) -> None:
        self._mourned: dict[str, bytes] = {}

    async def keep(self, document: Document) -> None:
        """Write `document` to its place. Raises ApplyError."""
        await to_its_end(lambda: self._write(document))

    def _write(self, document: Document) -> None:
        output = OutputFile(document)
        if output.previous is not None and self._mourned.get(output.target) != output.previous:
            known = output.target in self._mourned
            if output.mourn(known=known):
                self._mourned[output.target] = output.previous
        try:
            output.stage()
            output.swap()
        finally:
            output.discard()
