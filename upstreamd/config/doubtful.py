"""What is right in itself and may still not work here: files that are not there, variables and keys without effect."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from upstreamd.config.values import Config, ServiceSettings

_READ_ELSEWHERE = ("UPSTREAMD__", "UPSTREAMD_TEST_")
_KNOWN = frozenset({"UPSTREAMD_CONFIG", "UPSTREAMD_IMAGE", "UPSTREAMD_TOKEN_FILE"})


def doubts(config: Config, environ: Mapping[str, str]) -> tuple[str, ...]:
    """A sentence for each, with key or variable, value and remedy. Looks at the file system and changes nothing."""
    return (*_variables(environ), *_files(config), *_unwritten(config))


def _variables(environ: Mapping[str, str]) -> Iterator[str]:
    """Those that look like ours and are not: a key is parted from its section by two underscores."""
    for name in sorted(environ):
        if name.startswith("UPSTREAMD_") and not name.startswith(_READ_ELSEWHERE) and name not in _KNOWN:
            meant = re.sub("_+", "__", name, count=2)
            yield f"{name} is set in the environment and nobody reads it; a key is written like {meant}"


def _files(config: Config) -> Iterator[str]:
    nginx = config.nginx
    if nginx.validate and shutil.which(nginx.binary) is None:
        yield (
            f'nginx.binary = "{nginx.binary}": is not there or not executable; name the nginx that tests candidates, '
            "or set nginx.validate = false"
        )
    named = {
        "nginx.config": nginx.config,
        "admin.token_file": config.admin.token_file,
        "admin.tls_certificate": config.admin.tls_certificate,
        "admin.tls_key": config.admin.tls_key,
        "admin.client_ca": config.admin.client_ca,
        "consul.token_file": config.consul.token_file,
        "consul.ca_file": config.consul.ca_file,
        "kubernetes.token_file": config.kubernetes.token_file,
        "kubernetes.ca_file": config.kubernetes.ca_file,
        "kubernetes.kubeconfig": config.kubernetes.kubeconfig,
    }
    for service in config.services:
        if service.http is not None:
            named[f"services.{service.name}.http.token_file"] = service.http.token_file
            named[f"services.{service.name}.http.ca_file"] = service.http.ca_file
        if service.exec is not None:
            named[f"services.{service.name}.exec.command"] = service.exec.command[0]
        health = f"services.{service.name}.health"
        named[f"{health}.ca_file"] = service.health.ca_file
        named[f"{health}.client_certificate"] = service.health.client_certificate
        named[f"{health}.client_key"] = service.health.client_key
    for key, path in named.items():
        if path and not _exists(Path(path)):
            yield f'{key} = "{path}": does not exist here; create it, mount it, or correct the path'
    yield from _targets(config)
    for service in config.services:
        if not _exists(Path(service.output).parent):
            key = f"services.{service.name}.output"
            yield f'{key} = "{service.output}": its directory does not exist here; create it, or correct the path'


def _targets(config: Config) -> Iterator[str]:
    """Directories in which files are looked for; what stands behind a pattern may come later."""
    for service in config.services:
        for path in service.file.paths if service.file is not None else ():
            directory = Path(path).parent
            if not any(sign in str(directory) for sign in "*?[") and not _exists(directory):
                yield (
                    f'services.{service.name}.file.paths = "{path}": its directory does not exist here; create it, '
                    "mount it, or correct the path"
                )


def _unwritten(config: Config) -> Iterator[str]:
    """Keys of the upstream's block where only its servers are written."""
    usual = ServiceSettings("")
    for service in config.services:
        for key in ("method", "keepalive", "zone"):
            value = getattr(service, key)
            if service.layout == "servers" and value != getattr(usual, key):
                yield (
                    f'services.{service.name}.{key} = {json.dumps(value)}: is not written with layout = "servers"; '
                    'write it in your own `upstream` block, or choose layout = "upstream"'
                )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # we may not look, so it cannot be told
        return True
