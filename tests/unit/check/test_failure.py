"""Which failures are the endpoint's and which are our own machine's, and what a person reads."""

from __future__ import annotations

import errno
import os
import ssl

import pytest

from upstreamd.check.failure import is_out_of_descriptors, is_own, sentence


@pytest.mark.parametrize(
    ("number", "own", "says"),
    [
        (errno.EMFILE, True, "raise its limit"),
        (errno.ENFILE, True, "fs.file-max"),
        (errno.ENOBUFS, True, "no buffer space"),
        (errno.EADDRNOTAVAIL, True, "ip_local_port_range"),
        (errno.ENETUNREACH, True, "no route to that network"),
        (errno.EPERM, True, "own rules forbid"),
        (errno.EHOSTUNREACH, False, "no route to the host"),
        (errno.ECONNREFUSED, False, "nothing listens there"),
        (errno.ECONNRESET, False, "reset"),
        (errno.ETIMEDOUT, False, "does not answer"),
        (errno.ENOTCONN, False, os.strerror(errno.ENOTCONN)),
    ],
)
def test_failures_are_told_apart(number: int, own: bool, says: str) -> None:
    """A lack of our own is inconclusive; what the endpoint or its host does is a failure; both have a sentence."""
    error = OSError(number, os.strerror(number))
    assert is_own(error) is own
    assert says in sentence(error)
    assert is_out_of_descriptors(error) is (number in {errno.EMFILE, errno.ENFILE})


def test_a_tls_error_is_never_our_own() -> None:
    """The numbers of TLS errors are not errno: a failed handshake is number 1 too, but it is not EPERM."""
    incoming = ssl.MemoryBIO()
    incoming.write(b"this is not TLS at all")
    client = ssl.create_default_context().wrap_bio(incoming, ssl.MemoryBIO(), server_hostname="app.internal")
    with pytest.raises(ssl.SSLError) as caught:
        client.do_handshake()
    assert caught.value.errno == errno.EPERM
    assert not is_own(caught.value)
    assert sentence(caught.value).startswith("TLS failed: ")
