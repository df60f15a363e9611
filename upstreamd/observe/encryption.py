"""TLS of the admin server: made from files, and made anew when they change."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from upstreamd.config import AdminSettings
from upstreamd.errors import UpstreamdError

log = logging.getLogger(__name__)


def encrypted(settings: AdminSettings) -> bool:
    """Whether the admin server speaks TLS; a unix socket never does."""
    return bool(settings.tls_certificate) and not settings.listen.socket


def context(settings: AdminSettings) -> ssl.SSLContext:
    """How the server proves itself, and which clients it takes. Raises UpstreamdError that names the key."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.options |= ssl.OP_NO_RENEGOTIATION
    _readable("tls_certificate", settings.tls_certificate)
    _readable("tls_key", settings.tls_key)
    try:
        made.load_cert_chain(settings.tls_certificate, settings.tls_key, password=_no_password)
    except (OSError, ssl.SSLError, ValueError) as error:
        reason = "the certificate and its key (admin.tls_key) cannot be used; both are PEM, the key without a password"
        raise UpstreamdError(f'admin.tls_certificate = "{settings.tls_certificate}": {reason} ({error})') from error
    if settings.client_ca:
        _readable("client_ca", settings.client_ca)
        try:
            made.load_verify_locations(cafile=settings.client_ca)
        except (OSError, ssl.SSLError) as error:
            raise UpstreamdError(f'admin.client_ca = "{settings.client_ca}": is no certificate in PEM') from error
        made.verify_mode = ssl.CERT_REQUIRED
    return made


def _readable(key: str, path: str) -> None:
    try:
        with Path(path).open("rb"):
            return
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}; create it, or let upstreamd's user read it"
        raise UpstreamdError(f'admin.{key} = "{path}": {reason}') from error


def _no_password() -> str:
    raise ValueError("the key has a password")


class Identity:
    """The context of this moment: changed files are read again; of bad ones the log tells, and the last good stay."""

    def __init__(self, settings: AdminSettings) -> None:
        """Raises UpstreamdError where the files cannot be used to begin with."""
        self._settings = settings
        self._seen = self._look()
        self._context = context(settings)

    def context(self) -> ssl.SSLContext:
        """The context for a new connection."""
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            try:
                self._context = context(self._settings)
                log.info("the admin server has read its certificate again")
            except UpstreamdError as error:
                log.error("the admin server keeps the certificate it has: %s", error)  # noqa: TRY400 - whole sentence
        return self._context

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        settings = self._settings
        return tuple(_state(path) for path in (settings.tls_certificate, settings.tls_key, settings.client_ca))


def _state(path: str) -> tuple[int, int, int] | None:
    try:
        found = Path(path).stat()
    except OSError:  # told of when it is read
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
