"""The candidate: a shadow of the operator's configuration in which each output is replaced by its staged text.

The shadow of the main file lies beside the real one, because nginx resolves relative names from there. Only the
arguments that lead to an output are replaced, and `pid`, which `nginx -t` would open and create: /dev/null in its place
leaves nothing behind, also where a test outlives the upstreamd that began it.
"""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Sequence

from upstreamd.apply.configuration import Configuration, ConfigurationFile
from upstreamd.apply.files import OutputFile
from upstreamd.apply.scratch import refused
from upstreamd.apply.syntax import Directive, quoted
from upstreamd.errors import ApplyError

_DEEPEST = 32
_Edit = tuple[int, int, str]


class Candidate:
    """A shadow tree on disk. `path` is its main file; `missing` the outputs that no include leads to.

    `write` may raise ApplyError; `remove` takes away whatever was written, also after a failure.
    """

    def __init__(self, configuration: Configuration, outputs: Sequence[OutputFile]) -> None:
        self._configuration = configuration
        self._outputs = {output.target: output for output in outputs}
        self._scratch = outputs[0].scratch
        self._shadows: dict[tuple[str, bool], str] = {}
        self._names = {output.tested_as: output.document.path for output in outputs}
        self._written: list[str] = []
        self._found: set[str] = set()
        self._pid_replaced = False
        self.path = ""

    @property
    def missing(self) -> list[OutputFile]:
        """The outputs that the configuration never includes; known after `write`."""
        return [output for target, output in self._outputs.items() if target not in self._found]

    def write(self) -> None:
        """Write the shadow files. Raises ApplyError."""
        main = self._configuration.read_main()
        edits = self._edits(main, in_main=True, nesting=0)
        if not self._pid_replaced:
            edits.insert(0, (0, 0, f"pid {os.devnull}; "))
        self.path = self._write(main, edits)

    def remove(self) -> None:
        """Take the shadow files away."""
        for path in self._written:
            self._scratch.remove(path)

    def in_their_names(self, words: str) -> str:
        """nginx's words with the names of the real files in place of the shadows' names."""
        for shadow, real in self._names.items():
            words = words.replace(shadow, real)
        return words

    def _edits(self, file: ConfigurationFile, *, in_main: bool, nesting: int) -> list[_Edit]:
        """What must be replaced in `file`; `in_main` tells whether it is read in the main context."""
        if nesting > _DEEPEST:
            raise ApplyError(f"{file.path}: includes are nested more than {_DEEPEST} deep; does a file include itself?")
        edits: list[_Edit] = []
        for directive in file.directives:
            in_main_context = in_main and directive.depth == 0
            if directive.name == "include" and len(directive.arguments) == 1:
                edits += self._included(directive, in_main=in_main_context, nesting=nesting)
            elif directive.name == "pid" and in_main_context and len(directive.arguments) == 1:
                edits.append((directive.arguments[0].start, directive.arguments[0].end, os.devnull))
                self._pid_replaced = True
        return edits

    def _included(self, directive: Directive, *, in_main: bool, nesting: int) -> list[_Edit]:
        (argument,) = directive.arguments
        files = self._configuration.included(argument.value)
        files = sorted({*files, *self._to_come(argument.value)}) if glob.has_magic(argument.value) else files
        shadows = [self._stand_in(path, in_main=in_main, nesting=nesting) for path in files]
        if shadows == files:
            return []
        return [(argument.start, argument.end, "; include ".join(quoted(path) for path in shadows))]

    def _to_come(self, pattern: str) -> list[str]:
        """The outputs that do not exist yet and that `pattern` will match once they do."""
        full = self._configuration.full_name(pattern)
        paths = [output.document.path for output in self._outputs.values() if output.previous is None]
        return [path for path in paths if _matches(path, full)]

    def _stand_in(self, path: str, *, in_main: bool, nesting: int) -> str:
        """What is included in place of `path`: the staged file, a shadow, or itself where nothing in it changes."""
        real = os.path.realpath(path)
        if real in self._outputs:
            self._found.add(real)
            return self._outputs[real].tested_as
        if (path, in_main) not in self._shadows:
            file = self._configuration.read_included(path)
            edits = self._edits(file, in_main=in_main, nesting=nesting + 1) if file is not None else []
            if file is None or not edits:
                return path
            self._shadows[path, in_main] = self._write(file, edits)
        return self._shadows[path, in_main]

    def _write(self, file: ConfigurationFile, edits: list[_Edit]) -> str:
        text = file.text
        for start, end, replacement in reversed(edits):
            text = text[:start] + replacement + text[end:]
        shadow = self._scratch.name(self._configuration.directory, "shadow")
        self._names[shadow] = file.path
        try:
            descriptor = os.open(shadow, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            self._written.append(shadow)
            with os.fdopen(descriptor, "wb") as handle:
                handle.write(text.encode(errors="surrogateescape"))
        except OSError as error:
            raise refused(error, shadow, "the candidate's test needs a file there") from error
        return shadow


def _matches(path: str, pattern: str) -> bool:
    """Whether glob(7) `pattern` matches `path`, name by name; a leading dot is matched by a dot only."""
    names, patterns = path.split("/"), os.path.normpath(pattern).split("/")
    return len(names) == len(patterns) and all(
        fnmatch.fnmatchcase(name, each) and (each.startswith(".") or not name.startswith("."))
        for name, each in zip(names, patterns, strict=True)
    )
