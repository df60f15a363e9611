"""Sentences for failed connections, and which failures are our own machine's and say nothing about the endpoint."""

from __future__ import annotations

import errno
import os
import ssl

_OWN = {
    errno.EMFILE: "this process has no file descriptors left; raise its limit (ulimit -n)",
    errno.ENFILE: "this machine has no file descriptors left; raise fs.file-max",
    errno.ENOBUFS: "this machine has no buffer space left",
    errno.ENOMEM: "this machine has no memory left for sockets",
    errno.EADDRNOTAVAIL: "this machine has no free local port or address; widen net.ipv4.ip_local_port_range",
    errno.ENETUNREACH: "this machine has no route to that network",
    errno.ENETDOWN: "this machine's network is down",
    errno.EAFNOSUPPORT: "this machine does not speak that address family",
    errno.EACCES: "this machine's own rules forbid the connection",
    errno.EPERM: "this machine's own rules forbid the connection",
}

_THEIRS = {
    errno.ECONNREFUSED: "connection refused; nothing listens there",
    errno.ECONNRESET: "connection reset by the endpoint",
    errno.EPIPE: "connection closed by the endpoint",
    errno.ECONNABORTED: "connection aborted",
    errno.EHOSTUNREACH: "no route to the host; it is down or a firewall rejects us",
    errno.EHOSTDOWN: "the host is down",
    errno.ETIMEDOUT: "the host does not answer",
}


def is_own(error: OSError) -> bool:
    """True where the failure is this machine's: the probe is inconclusive, not the endpoint unhealthy."""
    return not isinstance(error, ssl.SSLError) and error.errno in _OWN


def is_out_of_descriptors(error: OSError) -> bool:
    """True where closing a connection of ours would have helped."""
    return error.errno in {errno.EMFILE, errno.ENFILE} and not isinstance(error, ssl.SSLError)


def sentence(error: OSError) -> str:
    """What went wrong, and where it can be said, what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS certificate refused: {error.verify_message}; check ca_file and server_name"
    if isinstance(error, ssl.SSLError):
        return _tls(error)
    number = error.errno or 0
    return _OWN.get(number) or _THEIRS.get(number) or (os.strerror(number) if number else str(error))


def _tls(error: ssl.SSLError) -> str:
    code = error.reason or ""
    reason = code.replace("_", " ").lower()
    if code in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"}:
        return f'TLS failed: {reason}; if the endpoint speaks plain HTTP, set scheme = "http"'
    if "CERTIFICATE_REQUIRED" in code:
        return "TLS failed: the endpoint wants a client certificate; set client_certificate and client_key"
    if not reason:
        return "TLS failed: the endpoint ended the connection; it may want a client_certificate"
    return f"TLS failed: {reason}"
