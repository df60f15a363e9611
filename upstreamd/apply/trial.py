"""A trial: what `nginx -t` has against documents, asked beside the live files and without putting anything in force."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from upstreamd.apply.binary import Binary
from upstreamd.apply.candidate import Candidate
from upstreamd.apply.configuration import Configuration
from upstreamd.apply.files import OutputFile
from upstreamd.apply.reload import to_its_end
from upstreamd.config import NginxSettings
from upstreamd.errors import ApplyError
from upstreamd.model import Document


async def objection(documents: Sequence[Document], nginx: NginxSettings) -> str:
    """Why nginx would refuse `documents` together, in its own words or because it never includes one; empty where it
    takes them. Raises ApplyError where that cannot be found out.

    Hidden files with names of their own lie beside the outputs and the main file meanwhile, as in every apply, and are
    gone when it returns.
    """
    outputs = await asyncio.to_thread(lambda: [OutputFile(document) for document in documents])
    try:
        await to_its_end(lambda: _stage(outputs))
        return await tested(outputs, Configuration(nginx.config), Binary(nginx))
    except OSError as error:
        raise ApplyError(str(error)) from error
    finally:
        for output in outputs:
            output.discard()


async def tested(outputs: Sequence[OutputFile], configuration: Configuration, binary: Binary) -> str:
    """Why the candidate with the staged `outputs` is refused, empty where nginx takes it. Raises ApplyError."""
    candidate = Candidate(configuration, outputs)
    try:
        await to_its_end(candidate.write)
        if candidate.missing:
            return "; ".join(_never_included(output.document, configuration.main) for output in candidate.missing)
        return candidate.in_their_names(await binary.test(candidate.path))
    finally:
        candidate.remove()


def _stage(outputs: Sequence[OutputFile]) -> None:
    for output in outputs:
        output.stage()


def _never_included(document: Document, config: str) -> str:
    whole_block = document.text.partition("\n")[2].startswith("upstream ")
    place = "http { }" if whole_block else f"upstream {document.service} {{ }}"
    return (
        f"{config} never includes {document.path}, so nginx would not see the change; add "
        f"`include {document.path};` inside `{place}`"
    )
