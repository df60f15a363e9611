"""A real authoritative DNS server (NSD) for tests: one zone, rewritten and loaded anew as a test wants."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.exception
import dns.message
import dns.query

from tests.real.nginx_harness import DEADLINE, children, free_port, wait_until

ZONE = "example.test"


class Nsd:
    """NSD on a loopback port, UDP and TCP, authoritative for `example.test`; UDP answers are 512 bytes at most."""

    def __init__(self, binary: str, root: Path) -> None:
        self.port = free_port()
        self._binary = binary
        self._root = root
        self._serial = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._config = root / "nsd.conf"
        root.mkdir(parents=True, exist_ok=True)
        self._config.write_text(
            f"""
server:
    ip-address: 127.0.0.1@{self.port}
    username: ""
    zonesdir: "{root}"
    pidfile: "{root}/nsd.pid"
    xfrdfile: "{root}/xfrd"
    zonelistfile: "{root}/zones"
    database: ""
    server-count: 1
    ipv4-edns-size: 512
    rrl-ratelimit: 0
remote-control:
    control-enable: no
zone:
    name: {ZONE}
    zonefile: "zone"
"""
        )
        self.write("")

    def write(self, records: str) -> None:
        """The zone's file with these records, beside SOA and NS."""
        self._serial += 1
        soa = f"@ 1 IN SOA ns hostmaster {self._serial} 3600 600 86400 1\n@ 1 IN NS ns\nns 1 IN A 127.0.0.1\n"
        (self._root / "zone").write_text(f"$ORIGIN {ZONE}.\n$TTL 1\n{soa}{records}\n")

    def put(self, records: str) -> None:
        """The zone with these records, and wait until it is served."""
        self.write(records)
        if self._process is not None:
            before = self._servers()
            self._process.send_signal(signal.SIGHUP)  # load the zones whose files have changed
            # the process that answers is replaced, and for a moment both answer
            replaced = lambda: not before & self._servers() and self._serves()  # noqa: E731 - one line says it
            wait_until(replaced, f"serial {self._serial}; NSD said:\n{self._said()}")

    def start(self) -> None:
        """Start, and wait until the zone is served."""
        with (self._root / "log").open("ab") as log:
            command = [self._binary, "-d", "-c", str(self._config)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self._serves, f"NSD to start; it said:\n{self._said()}")

    def stop(self) -> None:
        """End it, and its children with it."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _servers(self) -> set[int]:
        """Pids of the processes that answer."""
        assert self._process is not None
        return {server for main in children(self._process.pid) for server in children(main)}

    def _serves(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"NSD ended: {self._said()}")
        try:
            question = dns.message.make_query(ZONE, "SOA")
            answer = dns.query.udp(question, "127.0.0.1", port=self.port, timeout=1.0)
        except (dns.exception.Timeout, OSError):
            return False
        return any(rrset[0].serial == self._serial for rrset in answer.answer)

    def _said(self) -> str:
        log = self._root / "log"
        return log.read_text()[-2000:] if log.exists() else ""


@contextmanager
def nsd(root: Path) -> Iterator[Nsd]:
    """A running NSD for the length of a with block."""
    server = Nsd(shutil.which("nsd") or "/usr/sbin/nsd", root)
    try:
        server.start()
        yield server
    finally:
        server.stop()
