"""Builds the stages, runs them, and takes them down in order. Reads top to bottom."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from upstreamd import __version__
from upstreamd.agreement import Memory
from upstreamd.apply import OutputLock, Transaction
from upstreamd.check import Checker, Evidence, PassiveListener
from upstreamd.config import ApplySettings, Config, NginxSettings, load
from upstreamd.discover import Discoverer, Releasing, admitted, build, follow, release
from upstreamd.errors import ConfigError, UpstreamdError
from upstreamd.events import Events, Kind
from upstreamd.history import History
from upstreamd.lasting import look_at_everything
from upstreamd.model import Endpoint, Instance, Outcome
from upstreamd.observe.encryption import context, encrypted
from upstreamd.observe.events import Happenings
from upstreamd.observe.http import AdminServer
from upstreamd.observe.log import configure
from upstreamd.observe.metrics import Metrics
from upstreamd.observe.page import Page
from upstreamd.ordering import Ordering
from upstreamd.picture import Picture, Probing, Reported
from upstreamd.probation import Probation
from upstreamd.reconcile import Reconciler
from upstreamd.routing import routed
from upstreamd.stages import Stages
from upstreamd.standing import Standing
from upstreamd.state import Saved, StateFile, marker_on_disk
from upstreamd.telling import Telling
from upstreamd.unavailable import UnavailableResponder

if TYPE_CHECKING:
    from upstreamd.sharing import Partnership

log = logging.getLogger("upstreamd")

SWITCH_INTERVAL = 0.0001
"""Seconds for which a thread that computes may hold up the event loop, at each of its system calls (default: 5 ms)."""

FULL_LOOKS_ARE_RARE = (700, 10, 100)
"""When the garbage collector looks at what is young, older, and all there is (gc.set_threshold; the last number is 10
by default): what is many here lasts, and what is garbage is so while it is young."""


def run(path: Path) -> int:
    """Run the sidecar with the configuration file `path` until SIGTERM or SIGINT; returns the exit code.

    Raises ConfigError where the configuration is bad and UpstreamdError where a lock or an address is not to be had.
    """
    config = load(path)
    configure(config.log)
    _use_every_descriptor()
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.freeze()  # what is imported lasts as long as the process, and need not be looked at again
    gc.set_threshold(*FULL_LOOKS_ARE_RARE)
    uvloop.run(Daemon(path, config).run())
    return 0


def _use_every_descriptor() -> None:
    """Raise the soft limit of open files to the hard one: every endpoint keeps a connection (getrlimit(2))."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        log.info("the limit of open files stays at %d: %s", soft, error)


class Daemon:
    """One sidecar. A new configuration (SIGHUP) gets new stages; what was known of instances is carried over."""

    def __init__(self, path: Path, config: Config) -> None:
        self._path = path
        self._config = config
        self._clock = time.monotonic
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()
        self._reconciler: Reconciler | None = None
        self._checker: Checker | None = None
        self._evidence: Evidence | None = None
        self._transaction: Transaction | None = None
        self._transaction_settings: tuple[NginxSettings, ApplySettings] | None = None
        self._working: Config | None = None
        self._refused = ""
        self._metrics = Metrics(self._picture, reported=self._reported)
        self._events = Events(time.time)
        self._history = History(config.state.dir, time.time)
        self._telling = Telling(self._events, self._history, self._split)
        self._ordering = Ordering(
            self._events, clock=self._clock, wall=time.time, generations=self._history.generations
        )
        self._partnership: Partnership | None = None
        self._probation = Probation(self._ordering, self._events, self._reported, self._clock)

    async def run(self) -> None:
        """Start, work, and shut down in order."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        log.info("upstreamd %s starts with %s", __version__, self._path)
        self._history.load()
        known = StateFile(self._config.state.dir, clock=self._clock, wall=time.time).load()
        saved = replace(known, generation=max(known.generation, self._history.last, *_generations(self._config)))
        while not self._stop.is_set():
            self._reload.clear()
            try:
                saved = await self._serve(saved)
            except UpstreamdError as error:
                if self._working is None or self._working is self._config:
                    raise
                self._refuse(str(error))
                self._config = self._working
        log.info("upstreamd has stopped; nginx keeps what it has")

    async def _serve(self, saved: Saved) -> Saved:
        """Work with one configuration until told to stop or given another; returns what the next one starts from."""
        config = self._config
        state = StateFile(config.state.dir, clock=self._clock, wall=time.time)

        def keep(known: Saved) -> None:
            state.save(replace(known, sharing=self._remembered(saved)))

        async def keep_beside(known: Saved) -> None:
            await state.save_beside(replace(known, sharing=self._remembered(saved)))

        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(OutputLock([service.output for service in config.services]))
            before, transaction = self._transaction, self._same_transaction(config)
            resolving = await routed(config, transaction, stack, self._clock)
            if resolving.names or any(service.all_unhealthy == "none" for service in config.services):
                await self._answer_for_nobody(config, stack)
            await self._administer(config, stack)
            discoverers = build(config)
            for discoverer in discoverers:
                stack.push_async_callback(discoverer.close)
            sources = {each.name: saved.snapshot(each.name, _admits(config, each)) for each in discoverers}
            reconciler = Reconciler(
                config,
                transaction=transaction,
                resolving=resolving,
                clock=self._clock,
                sources=sources,
                saved=saved,
                standing=Standing(time.time, saved.drains, saved.versions),
                applied=self._applied,
                telling=self._telling,
                persist=keep,
                keep=keep_beside,
                departed=self._departed,
                stagger=lambda: self._partnership.presence.delay if self._partnership is not None else 0.0,
                before=self._reconciler if transaction is before else None,
            )
            checker = Checker(
                {service.name: service.health for service in config.services},
                clock=self._clock,
                on_health=reconciler.health_changed,
                on_probe=self._metrics.probed,
                known=self._checker.snapshot() if self._checker is not None else None,
            )
            self._checker = checker
            self._reconciler = reconciler
            self._ordering.attach(reconciler)
            self._share(config, saved, reconciler, keep, stack)
            listener = self._listener(config, checker, reconciler)
            if listener is not None:
                listener.open()
                stack.callback(listener.close)
            if self._working is not None:
                look_at_everything()  # while nothing runs, and nobody knows the stages of the configuration before
            reconciler.situation.attach(checker, self._evidence)
            stages = Stages()
            stages.start("check", checker.run())
            stages.start("reconcile", reconciler.run())
            self._start_others(config, stages)
            if listener is not None:
                stages.start("passive", listener.run())
            for discoverer in discoverers:
                following = follow(
                    discoverer,
                    reconciler.situation.source_changed,
                    self._clock,
                    saved=sources[discoverer.name],
                    on_error=self._metrics.source_failed,
                )
                stages.start(discoverer.name, following)
                if isinstance(discoverer, Releasing):
                    stages.start(f"{discoverer.name} releases", release(discoverer, self._picture_beside))
            self._working = config
            try:
                await self._until_told(stages)
            finally:
                await stages.end(self._stop)
                self._ordering.attach(None)
                carried = replace(reconciler.carried(), sharing=self._remembered(saved))
                state.save(carried)
        return carried

    async def _answer_for_nobody(self, config: Config, stack: contextlib.AsyncExitStack) -> None:
        """Have a 503 answered where nginx is sent when nobody serves."""
        responder = UnavailableResponder(config.unavailable.listen)
        await responder.start()
        stack.push_async_callback(responder.stop)

    async def _administer(self, config: Config, stack: contextlib.AsyncExitStack) -> None:
        """Have the admin API, the metrics and the status page answered."""
        happenings = Happenings(self._events, self._history.newest)
        admin = AdminServer(
            config.admin,
            picture=self._picture,
            picture_beside=self._picture_beside,
            metrics=self._metrics,
            clock=self._clock,
            orders=self._ordering,
            probing=self._probing,
            events=self._events,
            more=(*happenings.routes(), *Page().routes()),
        )
        await admin.start()
        stack.push_async_callback(admin.stop)

    def _start_others(self, config: Config, stages: Stages) -> None:
        """Start what watches over orders and tells the world, as far as the configuration wants it."""
        stages.start("probation", self._probation.run())
        if self._partnership is not None:
            stages.start("sharing", self._partnership.run())
        if config.alerts.wanted:
            from upstreamd.observe.deliver import Alerting  # its libraries are for those who use it

            stages.start("alerts", Alerting(config.alerts, self._picture_beside, self._clock).run())
        if config.tracing.wanted:
            from upstreamd.observe.trace import Tracing  # as above

            stages.start("tracing", Tracing(config.tracing, self._events).run())

    def _share(
        self,
        config: Config,
        saved: Saved,
        reconciler: Reconciler,
        keep: Callable[[Saved], None],
        stack: contextlib.AsyncExitStack,
    ) -> None:
        """Have orders shared with other machines, if the configuration says so."""
        self._partnership = None
        if config.state.backend == "consul":
            from upstreamd.sharing import share  # Consul's library takes 4 MB, and is for those who use it

            partnership = share(
                config,
                self._ordering,
                serving=reconciler.serving,
                in_use=reconciler.in_use,
                events=self._events,
                clock=self._clock,
                memory=saved.sharing,
                persist=lambda: keep(reconciler.carried()),
            )
            stack.push_async_callback(partnership.close)
            self._ordering.share(partnership.ordered)
            self._partnership = partnership

    def _remembered(self, saved: Saved) -> Memory:
        """What has to be known of the other machines after a restart."""
        return self._partnership.remembered if self._partnership is not None else saved.sharing

    def _listener(self, config: Config, checker: Checker, reconciler: Reconciler) -> PassiveListener | None:
        """Where nginx's reports come in, if the configuration says so; ejections outlive a configuration."""
        known = self._evidence.ejections() if self._evidence is not None else None
        self._evidence = None
        if config.passive.listen is None:
            return None
        evidence = self._evidence = Evidence(
            {service.name: service.passive for service in config.services},
            clock=self._clock,
            health=checker.health,
            doubt=checker.doubt,
            changed=reconciler.evidence_changed,
            later=asyncio.get_running_loop().call_later,
            known=known,
        )
        return PassiveListener(config.passive, evidence.take)

    def _same_transaction(self, config: Config) -> Transaction:
        """The transaction, with what it knows to be confirmed, unless the settings it works by have changed."""
        wanted = (config.nginx, config.apply)
        if self._transaction is None or self._transaction_settings != wanted:
            self._transaction = Transaction(config.nginx, config.apply, clock=self._clock)
            self._transaction_settings = wanted
        return self._transaction

    async def _until_told(self, stages: Stages) -> None:
        """Return when told to stop or when a new, good configuration is there; raises what a stage raised."""
        while not self._stop.is_set():
            await stages.until(self._stop, self._reload)
            if self._reload.is_set():
                self._reload.clear()
                if self._read_again():
                    return

    def _read_again(self) -> bool:
        """Read the configuration anew; a bad one is refused as a whole and the old one kept."""
        try:
            config = load(self._path)
            if encrypted(config.admin):
                context(config.admin)  # files that cannot be used are told of while the old ones still serve
        except ConfigError as error:
            self._refuse(*map(str, error.problems))
            return False
        except UpstreamdError as error:
            self._refuse(str(error))
            return False
        self._config = config
        self._refused = ""
        configure(self._config.log)
        log.info("the configuration was read again from %s", self._path)
        return True

    def _refuse(self, *problems: str) -> None:
        """A new configuration is refused: for the log, for the events, and for those who look."""
        for problem in problems:
            log.error("the new configuration is refused and the old one kept: %s", problem)
        self._refused = "; ".join(problems)
        self._events.publish(Kind.ORDER, f"the new configuration is refused and the old one kept: {self._refused}")

    def _picture(self) -> Picture:
        if self._reconciler is None:
            return Picture()
        return self._described(self._reconciler.picture())

    async def _picture_beside(self) -> Picture:
        if self._reconciler is None:
            return Picture()
        return self._described(await self._reconciler.picture_beside())

    def _described(self, picture: Picture) -> Picture:
        picture = replace(self._ordering.rotations.described(picture), refused=self._refused)
        return self._partnership.described(picture) if self._partnership is not None else picture

    def _applied(self, outcome: Outcome) -> None:
        self._metrics.applied(outcome)
        self._departed(())

    def _departed(self, drained: Collection[tuple[str, Endpoint]]) -> None:
        """nginx here has let go of these instances; other machines may wait to hear that."""
        self._telling.drained(drained)
        if self._partnership is not None:
            self._partnership.presence.wake()

    def _probing(self, service: str, endpoint: Endpoint) -> Probing | None:
        return self._checker.probing(service, endpoint) if self._checker is not None else None

    def _split(self, service: str) -> Mapping[str, int]:
        """Percent of the requests by version; empty where every version serves."""
        split = self._reconciler.situation.standing.split(service) if self._reconciler is not None else None
        return split.shares() if split is not None else {}

    def _reported(self) -> Reported | None:
        return self._evidence.reported() if self._evidence is not None else None


def _admits(config: Config, discoverer: Discoverer) -> Callable[[Instance], bool]:
    """Whether this configuration lets this source name an instance; what an earlier one let it name may be out."""
    allow = {service.name: service.allow for service in config.services if service.name in discoverer.services}
    return lambda instance: instance.service in allow and admitted(instance.address, allow[instance.service])


def _generations(config: Config) -> list[int]:
    """The generations that the output files already carry, so that numbers go on after a lost state."""
    markers = [marker_on_disk(service.output) for service in config.services]
    return [marker.generation for marker in markers if marker is not None]
