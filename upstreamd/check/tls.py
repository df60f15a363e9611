"""The TLS side of `scheme = "https"`: one context a service, made once and before the first probe."""

from __future__ import annotations

import ssl

from upstreamd.config import HealthSettings
from upstreamd.errors import ConfigError, Problem


def context(service: str, settings: HealthSettings) -> ssl.SSLContext:
    """The TLS context of `service`'s checks. Raises ConfigError where a file of it cannot be used."""
    path = f"services.{service}.health"
    try:
        made = ssl.create_default_context(cafile=settings.ca_file or None)
    except OSError as error:  # ssl.SSLError is one
        reason = f"cannot be used as a CA file ({_why(error)}); it must be a readable PEM file of certificates"
        raise ConfigError((Problem(f"{path}.ca_file", settings.ca_file, reason),)) from error
    made.set_alpn_protocols(["http/1.1"])
    if not settings.verify:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    if settings.client_certificate:
        try:
            made.load_cert_chain(settings.client_certificate, settings.client_key or None, password=_no_password)
        except OSError as error:
            reason = (
                f"cannot be used with client_key ({_why(error)}); both must be readable PEM files that belong together"
            )
            raise ConfigError((Problem(f"{path}.client_certificate", settings.client_certificate, reason),)) from error
    _check_name(made, path, settings.server_name)
    return made


def _check_name(made: ssl.SSLContext, path: str, name: str) -> None:
    try:
        made.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=name or "localhost")
    except ValueError as error:
        reason = "is not a host name that TLS can carry; write it like app.internal"
        raise ConfigError((Problem(f"{path}.server_name", name, reason),)) from error


def _no_password() -> str:
    """An encrypted key fails to load, instead of asking on the terminal."""
    return ""


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return error.strerror or str(error)
