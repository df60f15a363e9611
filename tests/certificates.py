"""Certificates for tests that speak TLS for real."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path


class Certificates:
    """A CA, a server's and a client's certificate from it, made with the openssl command."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._run("req", "-x509", "-out", "ca.pem", "-subj", "/CN=test CA", *self._key("ca.key"), "-days", "3")
        self.issue("server", "subjectAltName=IP:127.0.0.1,IP:::1,DNS:app.internal")
        self.issue("client", "extendedKeyUsage=clientAuth")

    def path(self, name: str) -> str:
        """Where the file `name` is."""
        return str(self._directory / name)

    def server(self, *, ask_client: bool = False) -> ssl.SSLContext:
        """A server's side; with `ask_client`, clients need a certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path("server.pem"), self.path("server.key"))
        if ask_client:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.path("ca.pem"))
        return context

    def issue(self, name: str, extension: str) -> None:
        """Make a certificate anew, with a new key."""
        (self._directory / f"{name}.ext").write_text(extension)
        self._run("req", "-new", "-out", f"{name}.csr", "-subj", f"/CN={name}", *self._key(f"{name}.key"))
        given = ("-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-extfile", f"{name}.ext")
        self._run("x509", "-req", *given, "-out", f"{name}.pem", "-days", "3", "-CAcreateserial")

    def spoil(self, name: str) -> None:
        """Leave half of a file, as a writer does that is not done."""
        path = self._directory / name
        text = path.read_text()
        path.write_text(text[: len(text) // 2])

    @staticmethod
    def _key(name: str) -> tuple[str, ...]:
        return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", name)

    def _run(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self._directory, check=True, capture_output=True, timeout=60)
