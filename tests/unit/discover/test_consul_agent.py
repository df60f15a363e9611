"""How the Consul agent and its token are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from upstreamd.config import ConsulAgent
from upstreamd.discover.consul_transport import ConsulAPI, Token, Transport, agent
from upstreamd.errors import ConfigError, DiscoveryError


def settings(**values: object) -> ConsulAgent:
    return ConsulAgent(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("address", "base", "socket"),
    [
        ("", "http://127.0.0.1:8500", ""),
        ("10.0.0.5", "http://10.0.0.5:8500", ""),
        ("10.0.0.5:8600", "http://10.0.0.5:8600", ""),
        ("consul.internal:8500", "http://consul.internal:8500", ""),
        ("http://10.0.0.5", "http://10.0.0.5:8500", ""),
        ("https://10.0.0.5:8501/", "https://10.0.0.5:8501", ""),
        ("[fc00::5]:8500", "http://[fc00::5]:8500", ""),
        ("http://[fc00::5]", "http://[fc00::5]:8500", ""),
        ("unix:///run/consul.sock", "http://consul", "/run/consul.sock"),
    ],
)
def test_the_address_comes_with_or_without_scheme_and_port(address: str, base: str, socket: str) -> None:
    """CONSUL_HTTP_ADDR is read in every form that Consul's own tools read."""
    found = agent(settings(), {"CONSUL_HTTP_ADDR": address})
    assert (found.base, found.socket) == (base, socket)


@pytest.mark.parametrize(
    "address", ["http://", "ftp://x", "10.0.0.5:port", "http://u:p@10.0.0.5", "http://x:99999", "//"]
)
def test_an_address_that_is_none_is_a_configuration_error(address: str) -> None:
    """A bad address names the variable it came from and how to write it."""
    with pytest.raises(ConfigError, match=r"CONSUL_HTTP_ADDR.*write it like"):
        agent(settings(), {"CONSUL_HTTP_ADDR": address})


def test_the_environment_can_ask_for_tls() -> None:
    """CONSUL_HTTP_SSL makes an address without a scheme https, so that no token travels in the clear."""
    assert agent(settings(), {"CONSUL_HTTP_ADDR": "c:8501", "CONSUL_HTTP_SSL": "true"}).base == "https://c:8501"


def test_configuration_beats_the_environment(tmp_path: Path) -> None:
    """An address and a token file in the configuration are used whatever the environment says, py-consul included."""
    (tmp_path / "token").write_text("configured\n")
    environ = {"CONSUL_HTTP_ADDR": "10.6.6.6:1", "CONSUL_HTTP_TOKEN": "wrong", "CONSUL_HTTP_TOKEN_FILE": "/wrong"}
    found = agent(settings(address="http://10.0.0.5:8500", token_file=str(tmp_path / "token")), environ)
    assert found.base == "http://10.0.0.5:8500"
    assert found.token.read() == "configured"


def test_the_api_layer_reads_nothing_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """py-consul, which prefers the environment to what it is given, is told everything."""
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "wrong")
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "nonsense")
    monkeypatch.setenv("CONSUL_HTTP_SSL_VERIFY", "1")
    (tmp_path / "token").write_text("configured")
    found = agent(settings(address="http://10.0.0.5:8500", token_file=str(tmp_path / "token")), {})
    assert ConsulAPI(found, Transport(found)).prepare_headers() == {"X-Consul-Token": "configured"}


def test_without_a_token_none_is_sent() -> None:
    """No token, no header."""
    found = agent(settings(), {})
    assert ConsulAPI(found, Transport(found)).prepare_headers() == {}


def test_a_token_file_in_the_environment_beats_a_token_there(tmp_path: Path) -> None:
    """CONSUL_HTTP_TOKEN_FILE has precedence over CONSUL_HTTP_TOKEN, as in Consul's own tools."""
    (tmp_path / "token").write_text("from-file\n")
    environ = {"CONSUL_HTTP_TOKEN_FILE": str(tmp_path / "token"), "CONSUL_HTTP_TOKEN": "from-text"}
    assert agent(settings(), environ).token.read() == "from-file"
    assert agent(settings(), {"CONSUL_HTTP_TOKEN": "from-text"}).token.read() == "from-text"


def test_a_token_is_in_no_representation() -> None:
    """A token never shows in what a log or traceback may print of the agent."""
    assert "s3cret" not in repr(agent(settings(), {"CONSUL_HTTP_TOKEN": "s3cret"}))


@pytest.mark.parametrize("content", [b"two\nlines", b"a\x00b", b"\xff\xfe", b"x" * 5000])
def test_a_token_file_that_holds_no_token_is_refused(content: bytes, tmp_path: Path) -> None:
    """A file that is no token is a failure that names the file and shows nothing of it."""
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(DiscoveryError, match=str(tmp_path)) as caught:
        Token(str(tmp_path / "token")).read()
    assert caught.value.kind == "denied"


def test_a_missing_token_file_is_a_failure(tmp_path: Path) -> None:
    """A token file that is not there (yet) is a failure to retry, not the end."""
    with pytest.raises(DiscoveryError, match="No such file"):
        Token(str(tmp_path / "none")).read()


def test_a_ca_file_that_cannot_be_used_is_a_configuration_error(tmp_path: Path) -> None:
    """A CA file without certificates is reported at start, with its key."""
    (tmp_path / "ca.pem").write_text("no certificate")
    found = agent(settings(address="https://10.0.0.5:8501", ca_file=str(tmp_path / "ca.pem")), {})
    with pytest.raises(ConfigError, match=r"consul\.ca_file"):
        Transport(found)
