"""The reload transaction: stage, test, swap, reload, confirm, record; else put the previous file back and say so."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Collection, Sequence
from pathlib import Path

from upstreamd.apply.binary import Binary, Build
from upstreamd.apply.configuration import Configuration
from upstreamd.apply.confirm import settled
from upstreamd.apply.errorlog import ErrorLog, find_error_log
from upstreamd.apply.files import OutputFile, restore
from upstreamd.apply.master import Master, NoMasterError, find_master
from upstreamd.apply.process import Looks, look
from upstreamd.apply.reload import Reload, Serves, to_its_end
from upstreamd.apply.trial import tested
from upstreamd.apply.view import unseen
from upstreamd.config import ApplySettings, NginxSettings
from upstreamd.errors import ApplyError
from upstreamd.model import Clock, Document, NginxView, Outcome, OutcomeKind

log = logging.getLogger("upstreamd.apply")

_BUDGET_PATIENCE = 1.0
_BUDGET_POLL = 0.05
_Result = tuple[OutcomeKind, str]


class Transaction:
    """Puts documents in force, one apply at a time, and knows what nginx was last proved to serve.

    What counts as running is what was confirmed, not what is on disk: after a start nothing is, so the first apply
    reloads even where the file has the right bytes.
    """

    def __init__(self, nginx: NginxSettings, apply: ApplySettings, *, clock: Clock) -> None:
        self._nginx = nginx
        self._apply = apply
        self._clock = clock
        self._binary = Binary(nginx)
        self._configuration = Configuration(nginx.config)
        self._confirmed: dict[str, Document] = {}
        self._swept: set[str] = set()
        self._mourned: dict[str, bytes] = {}

    def confirmed(self, path: str) -> str | None:
        """Digest of the text at `path` that nginx was last proved to serve; None where nothing was since start."""
        document = self._confirmed.get(path)
        return None if document is None else document.digest

    def forget(self) -> None:
        """Count nothing as confirmed any more: nginx was restarted, so what it serves has to be proved anew."""
        self._confirmed.clear()

    async def inspect(self) -> NginxView:
        """The running nginx as its pid file, its processes and the binary tell; never raises for what is missing."""
        build = await self._build()
        try:
            master = find_master(self._nginx.pid_file)
            workers = master.workers()
        except NoMasterError as error:
            return NginxView(version=build.version, problem=str(error))
        except OSError as error:
            return NginxView(version=build.version, problem=f"nginx's processes cannot be looked at: {error.strerror}")
        leaving = frozenset(worker.process for worker in workers if worker.draining)
        serving = frozenset(worker.process for worker in workers if not worker.draining)
        return NginxView(build.version, *master.process, len(serving), len(leaving), serving=serving, leaving=leaving)

    @staticmethod
    def alive(workers: Collection[tuple[int, int]]) -> frozenset[tuple[int, int]]:
        """Those of `workers` (pid and start) that still live, whoever their master is."""
        found = ((worker, _look(worker[0])) for worker in workers)
        return frozenset(worker for worker, looks in found if looks is not None and looks.process == worker)

    async def apply(self, documents: Sequence[Document], *, urgent: bool = False) -> Outcome:
        """Put `documents` in force together, and return once nginx is proved to serve them or not to.

        `urgent` (a dead instance leaves) does not wait for old workers to end. What goes wrong is in the Outcome;
        nothing is raised but programming errors and cancellation, which leaves files and nginx consistent.
        """
        began = self._clock()
        try:
            kind, detail = await self._attempt(documents, urgent=urgent)
        except (ApplyError, OSError) as error:
            kind, detail = OutcomeKind.FAILED, str(error)
        return Outcome(kind, _digest(documents), detail, self._clock() - began)

    async def _attempt(self, documents: Sequence[Document], *, urgent: bool) -> _Result:
        outputs = await asyncio.to_thread(lambda: [OutputFile(document) for document in documents])
        if all(self._serves(output) for output in outputs):
            return OutcomeKind.UNCHANGED, "nginx serves it already"
        try:
            await to_its_end(lambda: self._stage(outputs))
            refusal = await tested(outputs, self._configuration, self._binary) if self._nginx.validate else ""
            if refusal:
                return OutcomeKind.REJECTED, refusal
            return await self._put_in_force(outputs, urgent=urgent)
        finally:
            for output in outputs:
                output.discard()

    def _serves(self, output: OutputFile) -> bool:
        """Whether nginx was proved to serve this text, and the file still is what it was then."""
        confirmed = self._confirmed.get(output.document.path)
        return (
            confirmed is not None
            and confirmed.digest == output.document.digest
            and output.previous == confirmed.text.encode()
        )

    def _stage(self, outputs: Sequence[OutputFile]) -> None:
        for output in outputs:
            if output.target not in self._swept:
                for directory in {str(Path(output.target).parent), self._configuration.directory}:
                    output.scratch.sweep(directory)
                self._swept.add(output.target)
            output.stage()

    async def _put_in_force(self, outputs: Sequence[OutputFile], *, urgent: bool) -> _Result:
        self._mourn(outputs)
        try:
            master = find_master(self._nginx.pid_file)
        except NoMasterError as error:
            await to_its_end(lambda: _swap(outputs))
            return OutcomeKind.FAILED, f"{error}; the new file is in place and is read when nginx starts"
        master.check_permission()
        if master.stopped:
            raise ApplyError(f"{master} is stopped and would not read the new file; continue it (SIGCONT)")
        if not urgent:
            await self._await_budget(master)
        patience = self._nginx.confirm_timeout
        if not await settled(master, self._clock, patience):
            raise ApplyError(f"{master} has been busy with a reload for {patience:g}s; nothing was changed")
        error_log = ErrorLog(await self._error_log())
        proved = {path: self._confirmed.pop(path) for path in _paths(outputs) if path in self._confirmed}
        await to_its_end(lambda: _swap(outputs))
        try:
            _check_seen(master, outputs)
        except ApplyError:
            self._confirmed.update(proved)
            raise
        ending = await Reload(master, outputs, error_log, self._clock, patience).carry_out()
        if ending.serves is Serves.NEW:
            self._confirmed.update((output.document.path, output.document) for output in outputs)
        elif ending.serves is Serves.OLD:
            self._confirmed.update(proved)
        return ending.kind, ending.detail

    async def _await_budget(self, master: Master) -> None:
        """Return when few enough workers are shutting down. Raises ApplyError where that takes long."""
        most = self._apply.max_draining_workers
        end = self._clock() + _BUDGET_PATIENCE
        while most and (draining := sum(worker.draining for worker in master.workers())) > most:
            if self._clock() >= end:
                raise ApplyError(
                    f"too many workers are shutting down: {draining}, more than apply.max_draining_workers = {most}; "
                    "long requests hold them, set worker_shutdown_timeout in nginx or raise the number"
                )
            await asyncio.sleep(_BUDGET_POLL)

    def _mourn(self, outputs: Sequence[OutputFile]) -> None:
        """Say which lines of another hand go, once for each content that is replaced."""
        for output in outputs:
            if output.previous is not None and self._mourned.get(output.target) != output.previous:
                known = output.target in self._mourned or output.document.path in self._confirmed
                if output.mourn(known=known):
                    self._mourned[output.target] = output.previous

    async def _error_log(self) -> str:
        build = await self._build()
        return await asyncio.to_thread(find_error_log, self._nginx, self._configuration, build)

    async def _build(self) -> Build:
        try:
            return await self._binary.build()
        except (ApplyError, OSError) as error:
            log.debug("the version of nginx is not known: %s", error)
            return Build()


def _look(pid: int) -> Looks | None:
    """The process; one that we may not look at is not ours, and so none of nginx's workers that we knew."""
    try:
        found = look(pid)
    except OSError:
        return None
    return None if found is None or found.zombie else found


def _swap(outputs: Sequence[OutputFile]) -> None:
    """Put all staged files in place, or none."""
    try:
        for output in outputs:
            output.swap()
    except BaseException:
        restore(outputs)
        raise


def _check_seen(master: Master, outputs: Sequence[OutputFile]) -> None:
    """Put the files back and raise ApplyError where nginx would read others. Quick, and so without a thread, in which
    it could be cancelled in between."""
    for output in outputs:
        sentence = unseen(master, output.target, output.content)
        if sentence:
            restore(outputs)
            raise ApplyError(sentence)


def _paths(outputs: Sequence[OutputFile]) -> list[str]:
    return [output.document.path for output in outputs]


def _digest(documents: Sequence[Document]) -> str:
    """The digest of one document; of several, the SHA-256 of their digests in order."""
    if len(documents) == 1:
        return documents[0].digest
    return hashlib.sha256("".join(document.digest for document in documents).encode()).hexdigest()
