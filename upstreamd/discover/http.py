"""What the sources that speak HTTP share: bounded bodies, and aiohttp's errors translated once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import aiohttp

from upstreamd.discover.admit import shown
from upstreamd.errors import DiscoveryError

IDENTITY = {"Accept-Encoding": "identity"}
"""Sent with every request: a compressed body could be a bomb, and these answers travel a short way."""


@contextlib.contextmanager
def translated(whom: str, remedy: str) -> Iterator[None]:
    """Turns what aiohttp and the socket raise into DiscoveryError; `whom` begins the sentence, `remedy` ends it."""
    try:
        yield
    except TimeoutError as error:
        raise DiscoveryError(f"{whom} did not answer in time; {remedy}", kind="timeout") from error
    except aiohttp.ClientConnectorError as error:
        # a refused certificate comes without an os_error
        refused = isinstance(error, aiohttp.ClientConnectorCertificateError)
        cause: BaseException = error if refused else error.os_error
        kind = "denied" if isinstance(cause, PermissionError) else "unreachable"
        raise DiscoveryError(f"{whom} cannot be reached: {_cause(cause)}; {remedy}", kind=kind) from error
    except (aiohttp.ClientPayloadError, aiohttp.ClientResponseError) as error:
        reason = "sent an answer that breaks off or is not HTTP"
        raise DiscoveryError(f"{whom} {reason}; it will be asked again", kind="malformed") from error
    except (aiohttp.ClientError, OSError) as error:
        raise DiscoveryError(f"{whom} closed the connection: {_cause(error)}; {remedy}") from error


async def body(response: aiohttp.ClientResponse, limit: int, whom: str) -> bytes:
    """The whole body of `response`, at most `limit` bytes. Raises DiscoveryError (too_large, malformed)."""
    coding = response.headers.get("Content-Encoding", "identity").lower()
    if coding not in {"", "identity"}:
        raise DiscoveryError(
            f"{whom} answered in the coding {shown(coding)} although none was accepted", kind="malformed"
        )
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > limit:
            response.close()
            raise DiscoveryError(f"{whom} answered with more than {limit} bytes", kind="too_large")
    return bytes(content)


def _cause(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not accepted ({shown(str(error.certificate_error), 160)})"
    return getattr(error, "strerror", None) or shown(str(error) or type(error).__name__, 160)
