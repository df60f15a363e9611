"""Claims as servers of nginx, as the method of balancing can have them. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from upstreamd.config import ServiceSettings
from upstreamd.decide.claim import Claim
from upstreamd.model import Server

_WITHOUT_BACKUP = ("hash", "ip_hash", "random")


def servers(settings: ServiceSettings, claims: Sequence[Claim]) -> tuple[Server, ...]:
    """The claims as servers; backups become primaries where there is no primary, and wait outside the upstream
    where its method knows no backup (ngx_http_upstream_module: not with hash, ip_hash and random)."""
    primaries = [claim for claim in claims if not claim.instance.backup]
    if not primaries:
        return tuple(sorted(_server(settings, claim, backup=False) for claim in claims))
    if not _knows_backup(settings):
        claims = primaries
    return tuple(sorted(_server(settings, claim, backup=claim.instance.backup) for claim in claims))


def _server(settings: ServiceSettings, claim: Claim, *, backup: bool) -> Server:
    instance = claim.instance
    return Server(
        instance.address,
        instance.port,
        weight=instance.weight,
        backup=backup,
        max_fails=settings.max_fails,
        fail_timeout=settings.fail_timeout,
    )


def kept(settings: ServiceSettings, known: Sequence[Server]) -> tuple[Server, ...]:
    """Servers of an earlier decision as the present settings can have them: never backups alone."""
    if all(server.backup for server in known) or not _knows_backup(settings):
        known = [server._replace(backup=False) for server in known]
    return tuple(sorted(known))


def _knows_backup(settings: ServiceSettings) -> bool:
    method = settings.method if settings.layout == "upstream" else ""
    return not method.startswith(_WITHOUT_BACKUP)
