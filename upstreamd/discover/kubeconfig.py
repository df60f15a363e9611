"""A kubeconfig file: one context of it, with its cluster and its user. Commands that it names are not run."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from upstreamd.discover.admit import shown
from upstreamd.errors import ConfigError, Problem

_MAX_BYTES = 1024 * 1024
_UNKNOWN_USERS = {
    "exec": "runs a command for its token, which upstreamd does not do",
    "auth-provider": "uses an auth-provider, which upstreamd does not know",
    "username": "uses a password, which Kubernetes knows no more since 1.19",
    "as": "impersonates another user, which upstreamd does not do",
}
_REMEDY = "make a service account for it and name its token (deploy/kubernetes/README.md)"


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the API server is, and how its certificate is verified."""

    server: str
    ca_file: str = ""
    ca: bytes = b""
    server_name: str = ""
    verify: bool = True


@dataclass(frozen=True, slots=True)
class User:
    """As whom it is asked: a token, or a client certificate; by file, or in the kubeconfig itself."""

    token: str = field(default="", repr=False)
    token_file: str = ""
    certificate_file: str = ""
    certificate: bytes = field(default=b"", repr=False)
    key_file: str = ""
    key: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Chosen:
    """One context."""

    cluster: Cluster
    user: User
    namespace: str


class _Refusal(ValueError):  # noqa: N818 - it is what is said of the file, and never leaves it
    """What is wrong with the file, in a clause that follows its name."""


def chosen(path: Path, context: str, key: str) -> Chosen:
    """The context `context` (empty: the current one) of the kubeconfig at `path`, which `key` names to the operator.

    Raises ConfigError.
    """
    try:
        return _Document(path, _read(path)).chosen(context)
    except _Refusal as reason:
        raise ConfigError((Problem(key, f'"{path}"', str(reason)),)) from reason


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as opened:
            content = opened.read(_MAX_BYTES + 1)
    except OSError as error:
        several = "; one file is read, not a list of them" if ":" in str(path) else ""
        raise _Refusal(f"cannot be read: {error.strerror}{several}") from error
    if len(content) > _MAX_BYTES:
        raise _Refusal(f"is larger than {_MAX_BYTES} bytes; is it a kubeconfig?")
    try:
        document = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _Refusal("is not YAML; is it a kubeconfig?") from error
    if not isinstance(document, dict):
        raise _Refusal("is not a kubeconfig: it holds no table")
    return document


class _Document:
    """The file's content; relative paths in it lie beside it."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self._path = path
        self._content = content

    def chosen(self, context: str) -> Chosen:
        name = context or self._content.get("current-context") or ""
        if not name:
            raise _Refusal("names no current-context; set kubernetes.context")
        found = self._entry("contexts", "context", name)
        user = self._entry("users", "user", str(found["user"])) if found.get("user") else {}
        cluster = self._entry("clusters", "cluster", str(found.get("cluster", "")))
        return Chosen(self._cluster(cluster), self._user(user), str(found.get("namespace") or "default"))

    def _entry(self, group: str, kind: str, name: str) -> dict[str, Any]:
        entries = self._content.get(group)
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict) and entry.get("name") == name and isinstance(entry.get(kind), dict):
                found: dict[str, Any] = entry[kind]
                return found
        raise _Refusal(f"has no {kind} {shown(name)}")

    def _cluster(self, found: dict[str, Any]) -> Cluster:
        server = found.get("server")
        if not isinstance(server, str) or not server.startswith(("https://", "http://")):
            raise _Refusal("names no server like https://10.0.0.1:6443 in its cluster")
        if "@" in server:  # it would stand in every sentence about the cluster
            raise _Refusal("has a user and a password in its cluster's server; name a token instead")
        if found.get("proxy-url"):
            raise _Refusal("reaches its cluster through a proxy, which upstreamd does not do")
        return Cluster(
            server,
            self._file(found, "certificate-authority"),
            self._data(found, "certificate-authority-data"),
            str(found.get("tls-server-name") or ""),
            verify=found.get("insecure-skip-tls-verify") is not True,
        )

    def _user(self, found: dict[str, Any]) -> User:
        for key, reason in _UNKNOWN_USERS.items():
            if found.get(key):
                raise _Refusal(f"has a user that {reason}; {_REMEDY}")
        file = self._file(found, "tokenFile")
        return User(
            "" if file else str(found.get("token") or ""),
            file,
            self._file(found, "client-certificate"),
            self._data(found, "client-certificate-data"),
            self._file(found, "client-key"),
            self._data(found, "client-key-data"),
        )

    def _file(self, found: dict[str, Any], key: str) -> str:
        return str(self._path.parent / str(found[key])) if found.get(key) else ""

    @staticmethod
    def _data(found: dict[str, Any], key: str) -> bytes:
        try:
            return base64.b64decode(str(found.get(key) or ""), validate=True)
        except binascii.Error as error:
            raise _Refusal(f"holds a {key} that is not base64") from error
