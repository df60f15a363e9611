"""What the keys of [admin] have to agree on."""

from __future__ import annotations

import pytest

from upstreamd.config import parse
from upstreamd.errors import ConfigError

REST = '\n[services.app.file]\npaths = ["/etc/upstreamd/targets.json"]\n'
PAIR = 'tls_certificate = "/a.pem"\ntls_key = "/a.key"\n'


@pytest.mark.parametrize(
    ("admin", "key", "remedy"),
    [
        ('listen = "0.0.0.0:9145"', "admin.listen", "set admin.token_file"),
        (f'listen = "0.0.0.0:9145"\n{PAIR}client_ca = "/ca.pem"', "admin.listen", "set admin.token_file"),
        ("token_for_reads = true", "admin.token_for_reads", "set admin.token_file"),
        ('tls_certificate = "/a.pem"', "admin.tls_key", "set both"),
        ('tls_key = "/a.key"', "admin.tls_certificate", "set both"),
        ('client_certificate = "/a.pem"', "admin.client_key", "set both"),
        ('client_ca = "/ca.pem"', "admin.client_ca", "set admin.tls_certificate"),
        (f'listen = "unix:/run/admin.sock"\n{PAIR}', "admin.tls_certificate", "listen on an address"),
        ('tls_certificate = "relative.pem"\ntls_key = "/a.key"', "admin.tls_certificate", ""),
    ],
)
def test_keys_that_do_not_go_together_are_refused(admin: str, key: str, remedy: str) -> None:
    """The problem names the key to change, and what to do."""
    with pytest.raises(ConfigError) as refused:
        parse(f"[admin]\n{admin}\n{REST}")
    assert [problem.path for problem in refused.value.problems] == [key]
    assert remedy in refused.value.problems[0].reason


def test_everything_together_is_taken() -> None:
    """Token, TLS and client certificates beyond loopback are a configuration like any other."""
    more = 'token_file = "/token"\ntoken_for_reads = true\nclient_ca = "/ca.pem"\n'
    config = parse(f'[admin]\nlisten = "[::]:9145"\n{PAIR}{more}{REST}')
    assert (config.admin.token_for_reads, config.admin.client_ca) == (True, "/ca.pem")
