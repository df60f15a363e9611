"""The driver `exec`: a command of the operator's updates one instance where it is, or replaces it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterable

from upstreamd.rollout.journal import Entry
from upstreamd.rollout.running import Process, Running, Tell
from upstreamd.rollout.stop import UsageError, WordsError

PLACES = ("address", "port", "id", "version", "instance")
_PLACE = re.compile(r"\{(\w*)\}")
_AS_WRITTEN = re.compile(r"""(?:[^\s'"\\]|\\.|'[^']*'|"(?:[^"\\]|\\.)*")+""", re.DOTALL)
"""A word with its quotes."""
_OF_A_SHELL = ("&&", "||", "|", "&", ";", ">", ">>", "<", "2>", "2>&1")
"""Words that are meant for a shell where they are not quoted, as is one that ends in `;`."""


class Command:
    """`line` is split as a shell would, without being given to one, and then filled in for each instance: {address},
    {port}, {id}, {version}, {instance} (address with port). What a source says can therefore never become a second
    word or command. Raises WordsError."""

    def __init__(self, line: str) -> None:
        try:
            self._words = shlex.split(line)
        except ValueError as error:
            raise WordsError(f"--exec {line!r}: {error}") from error
        if not self._words:
            raise WordsError("--exec is empty; give the command that updates one instance")
        for word in _AS_WRITTEN.findall(line):
            if word in _OF_A_SHELL or (word.endswith(";") and not word.endswith("\\;")):
                remedy = "give it to one as `sh -c '...'`, or quote the word"
                raise WordsError(f"--exec {line!r}: there is no shell that would understand {word!r}; {remedy}")
        for place in _PLACE.findall(line):
            if place not in PLACES:
                raise WordsError(f"--exec knows no {{{place}}}; there are {', '.join(f'{{{one}}}' for one in PLACES)}")

    def look(self) -> None:
        """Raises WordsError where there is no such command here; better now than with an instance out."""
        command = self._words[0]
        if "{" in command or shutil.which(command) is not None:
            return
        if (file := shutil.which(command, os.F_OK)) is not None:
            raise WordsError(f"--exec: {file} is not executable; `chmod +x {shlex.quote(file)}`")
        raise WordsError(f"--exec: there is no command {command!r} here; give its path, or mend its name")

    def check(self, entries: Iterable[Entry]) -> None:
        """Raises UsageError where a place would be filled in with nothing."""
        for entry in entries:
            said = _said(entry)
            empty = next(
                (f"{{{place}}}" for word in self._words for place in _PLACE.findall(word) if not said[place]), ""
            )
            if empty:
                raise UsageError(
                    f"--exec: {empty} is empty for {entry.endpoint}, whose source tells none; leave it out, or use"
                    " {instance} or {address}"
                )

    def words(self, entry: Entry) -> list[str]:
        """The command for one instance."""
        said = _said(entry)
        return [_PLACE.sub(lambda found: said[found[1]], word) for word in self._words]

    def update(self, entry: Entry, running: Running, tell: Tell, started: Callable[[Process], None]) -> None:
        """Run it to its end. Raises StopError."""
        running.run(self.words(entry), tell, started)

    def described(self, entry: Entry) -> str:
        """What a plan says of it."""
        return f"run {shlex.join(self.words(entry))}"


def _said(entry: Entry) -> dict[str, str]:
    """What stands for each of PLACES."""
    address, _, port = entry.endpoint.rpartition(":")
    return {
        "address": address.strip("[]"),
        "port": port,
        "id": entry.id,
        "version": entry.version,
        "instance": entry.endpoint,
    }
