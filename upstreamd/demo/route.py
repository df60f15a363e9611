"""How changes reach the demo's nginx: by reloads, or through its resolver and without any."""

from __future__ import annotations

from dataclasses import dataclass

RELOAD, RESOLVE = "reload", "resolve"


@dataclass(frozen=True, slots=True)
class Route:
    """`resolver` and `unavailable` are the loopback ports of the sidecar's responders; 0 with route "reload"."""

    name: str = RELOAD
    resolver: int = 0
    unavailable: int = 0

    @property
    def resolves(self) -> bool:
        """Whether nginx asks the sidecar."""
        return self.name == RESOLVE

    def upstream(self, service: str) -> str:
        """The upstream block, and what goes with it in the http context."""
        if not self.resolves:
            return _RELOADED.format(service=service)
        return _RESOLVED.format(service=service, resolver=self.resolver)

    def again(self, service: str) -> str:
        """What the server needs beside its location, as nginx/resolve-server.conf has it."""
        return _AGAIN.format(service=service) if self.resolves else ""

    def on_error(self, service: str) -> str:
        """What the location needs."""
        return f"error_page 502 = @{service}_again; recursive_error_pages on;" if self.resolves else ""

    def sidecar(self) -> str:
        """The sections of the sidecar's configuration."""
        if not self.resolves:
            return ""
        return (
            f'\n[resolver]\nlisten = "127.0.0.1:{self.resolver}"\n'
            f'\n[unavailable]\nlisten = "127.0.0.1:{self.unavailable}"\n'
        )


_RELOADED = """\
    upstream {service} {{
        least_conn;
        include upstream.conf;
        keepalive 32;
    }}
"""

_RESOLVED = """\
    # nginx/resolve.conf tells what each line is for.
    upstream {service} {{
        least_conn;
        zone {service} 1m;
        resolver 127.0.0.1:{resolver} ipv6=off;
        resolver_timeout 30s;
        server {service}.upstreamd service=http resolve;
        keepalive 32;
    }}

    upstream {service}_last_good {{
        least_conn;
        include upstream.conf;
    }}

    map "$request_method $upstream_addr" ${service}_again {{
        default "";
        "~^[A-Z]+ {service}$" 1;
        "~^(GET|HEAD|OPTIONS) .*, {service}$" 1;
    }}

    map $upstream_addr ${service}_empty {{
        default "";
        "~^{service} : {service}$" 1;
    }}
"""

_AGAIN = """\
        location @{service}_again {{
            if (${service}_again = "") {{ return 502; }}
            error_page 502 = @{service}_last_good;
            recursive_error_pages on;
            proxy_pass http://{service};
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
        }}
        location @{service}_last_good {{
            if (${service}_empty = "") {{ return 502; }}
            proxy_pass http://{service}_last_good;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
        }}
"""
