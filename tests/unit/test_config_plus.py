"""What the configuration asks for where a service takes the route for NGINX Plus."""

from __future__ import annotations

import pytest

from upstreamd.config import parse
from upstreamd.errors import ConfigError

SERVICE = '[services.a]\nroute = "plus"\n{more}\n[services.a.file]\npaths = ["/t/*.json"]\n'


def test_the_api_is_needed_and_read() -> None:
    """Without it the error names both keys; with it the URL is kept as written."""
    with pytest.raises(ConfigError, match=r"services\.a\.route = plus: needs NGINX Plus's API: set nginx_plus\.api"):
        parse(SERVICE.format(more=""))
    found = parse(SERVICE.format(more="") + '[nginx_plus]\napi = "http://127.0.0.1:8090/api"\n')
    assert found.nginx_plus.api == "http://127.0.0.1:8090/api"


def test_the_upstream_stays_the_operators() -> None:
    """A whole block of ours has no place in an upstream that the API changes."""
    with pytest.raises(ConfigError, match=r'services\.a\.layout = upstream: .* set layout = "servers"'):
        parse(SERVICE.format(more='layout = "upstream"') + '[nginx_plus]\napi = "http://127.0.0.1:8090/api"\n')


@pytest.mark.parametrize("url", ["127.0.0.1:8090", "http://user:secret@h/api", "unix:/run/nginx.sock"])
def test_what_is_no_plain_url_is_refused(url: str) -> None:
    """Credentials have no place in a URL that is logged."""
    with pytest.raises(ConfigError, match=r"nginx_plus\.api"):
        parse(f'[nginx_plus]\napi = "{url}"\n')
