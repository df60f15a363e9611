"""TLS to our own sidecar: the certificate that the configuration names is the only one that is believed."""

from __future__ import annotations

import re
import socket
import ssl
from pathlib import Path

from upstreamd.cli.ask import UnreachableError
from upstreamd.config import AdminSettings

_FIRST = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def pinned(link: socket.socket, admin: AdminSettings) -> ssl.SSLSocket:
    """`link` with TLS around it, by the certificates of `admin`. Raises UnreachableError where they cannot be used,
    OSError where there is no agreement; `link` is closed then.

    The sidecar's certificate is pinned, whatever names it has and whoever signed it: both ends read one configuration.
    """
    try:
        return _context(admin).wrap_socket(link)
    except BaseException:
        link.close()
        raise


def _context(admin: AdminSettings) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate itself is the anchor
    key = "tls_certificate"
    try:
        made.load_verify_locations(cadata=_certificate(admin.tls_certificate))
        if admin.client_certificate:
            key = "client_certificate"
            made.load_cert_chain(admin.client_certificate, admin.client_key)
    except (OSError, ValueError) as error:
        raise UnreachableError(f'admin.{key} = "{getattr(admin, key)}": cannot be used: {error}') from error
    return made


def _certificate(path: str) -> str:
    """The first certificate of a PEM file, which is the server's own (RFC 8446, section 4.4.2)."""
    found = _FIRST.search(Path(path).read_text("ascii"))
    if found is None:
        raise ValueError("there is no certificate in it")
    return found[0]
