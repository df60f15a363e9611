"""What an operator may write, and what they are told where it is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from upstreamd.config import Config, doubts, load, parse
from upstreamd.errors import ConfigError

FILE_SOURCE = '[services.app.file]\npaths = ["/etc/upstreamd/*.json"]\n'


def problems(content: str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(content, environ)
    return [str(problem) for problem in caught.value.problems]


def only_service(config: Config) -> object:
    (service,) = config.services
    return service


def test_a_minimal_file_gets_the_documented_defaults() -> None:
    """A service with a source is enough; the rest has the defaults of docs/configuration.md."""
    (service,) = parse(FILE_SOURCE).services
    assert service.output == "/etc/nginx/upstream.conf"
    assert (service.health.interval, service.health.timeout, service.health.rise, service.health.fall) == (2, 1, 2, 3)
    assert service.health.expect_json == (("status", "==", "healthy"),)
    assert [str(network) for network in service.allow] == ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"]


def test_every_problem_is_named_in_one_pass() -> None:
    """All mistakes are reported together, each with key path, value, reason and remedy."""
    found = problems(
        FILE_SOURCE
        + '[services.app.health]\ninterval = "2x"\nrise = 0\nexpect_status = "2oo"\n[nginx]\nvalidate = "yes"\n'
        + '[admin]\nlisten = "localhost:1"\n'
    )
    assert found == [
        'services.app.health.interval = "2x": not a duration; write it like "500ms", "2s" or "1m"',
        "services.app.health.rise = 0: must be between 1 and 100",
        (
            'services.app.health.expect_status = "2oo": \'2oo\' is not a status code or range; write it like "200" or '
            '"200-299,304"'
        ),
        'nginx.validate = "yes": must be true or false, without quotes',
        (
            'admin.listen = "localhost:1": \'localhost\' is not an IP address; write it like "127.0.0.1:9145", '
            '"[::1]:9145" or "unix:/run/upstreamd/admin.sock"'
        ),
    ]


@pytest.mark.parametrize(
    ("content", "path", "suggestion"),
    [
        ('[nginx]\nbinry = "nginx"\n', "nginx.binry", "did you mean binary?"),
        ("[servces.app]\n", "servces", "did you mean services?"),
        ("[services.app.helth]\n", "services.app.helth", "did you mean health?"),
        ("[services.app.health]\nzzzzzz = 1\n", "services.app.health.zzzzzz", "services.app.health knows path,"),
    ],
)
def test_an_unknown_key_suggests_the_nearest(content: str, path: str, suggestion: str) -> None:
    """A typing mistake is an error that names the key meant."""
    assert any(line.startswith(path) and suggestion in line for line in problems(FILE_SOURCE + content))


def test_the_environment_overrides_the_file() -> None:
    """UPSTREAMD__SECTION__KEY replaces what the file says, whatever the type of the key."""
    config = parse(
        FILE_SOURCE,
        {
            "UPSTREAMD__SERVICES__APP__HEALTH__INTERVAL": "5s",
            "UPSTREAMD__SERVICES__APP__HEALTH__EXPECT_STATUS": "204",
            "UPSTREAMD__SERVICES__APP__ALLOW": '["127.0.0.0/8"]',
            "UPSTREAMD__NGINX__VALIDATE": "false",
            "UPSTREAMD__NGINX__BINARY": "/opt/nginx",
            "UPSTREAMD__APPLY__MAX_DRAINING_WORKERS": "3",
        },
    )
    (service,) = config.services
    assert service.health.interval == 5
    assert service.health.expect_status == ((204, 204),)
    assert [str(network) for network in service.allow] == ["127.0.0.0/8"]
    assert config.nginx.validate is False
    assert config.nginx.binary == "/opt/nginx"
    assert config.apply.max_draining_workers == 3


def test_a_bad_environment_variable_is_named_like_a_key() -> None:
    """A wrong value, an unknown key and an unknown section are reported with the variable that has set them."""
    found = problems(
        FILE_SOURCE,
        {
            "UPSTREAMD__SERVICES__APP__HEALTH__RISE": "many",
            "UPSTREAMD__NGINX__BINRY": "x",
            "UPSTREAMD__NGNIX__BINARY": "x",
        },
    )
    assert found == [
        (
            "services.app.health.rise = many: must be a whole number between 1 and 100 "
            "(set by UPSTREAMD__SERVICES__APP__HEALTH__RISE)"
        ),
        "nginx.binry = x: unknown key; did you mean binary? (set by UPSTREAMD__NGINX__BINRY)",
        'ngnix = {"binary": "x"}: unknown key; did you mean nginx? (set by UPSTREAMD__NGNIX__BINARY)',
    ]
    (lonely,) = problems(FILE_SOURCE, {"UPSTREAMD__SERVICES__APQ__PORT": "80"})[:1]
    assert lonely.startswith("services.apq: has no source;")
    assert lonely.endswith("(set by UPSTREAMD__SERVICES__APQ__PORT)")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "services: none is declared; add [services.NAME] with a source"),
        ("[services.app]\n", "services.app: has no source; add [services.app.consul]"),
        ("[services.app.consul]\n", "services.app.consul.service: is missing"),
        ('[services."a b"]\n', "services.a b: a service's name has letters"),
        (FILE_SOURCE + '[services.b]\n[services.b.file]\npaths=["/x"]\n', "is also the output of services.app"),
        (FILE_SOURCE + '[admin]\nlisten = "0.0.0.0:9145"\n', "set admin.token_file, or listen on 127.0.0.1"),
        (FILE_SOURCE + '[services.app]\nallow = ["10.0.0.1/8"]\n', "has host bits set"),
        (FILE_SOURCE + "[services.app]\nallow = []\n", "must name at least one range"),
        (
            FILE_SOURCE + '[services.app]\nallow = ["x", "10.0.0.0/8", "y"]\n',
            "'x' does not appear to be an IPv4 or IPv6",
        ),
        (FILE_SOURCE + '[services.app]\nallow = ["x", "10.0.0.0/8", "y"]\n', "and 'y' does not appear"),
        (FILE_SOURCE + '[apply]\ngather = "2s"\n', "apply.gather = 2s: is longer than apply.max_gather (1s)"),
        (
            '[services.app.file]\npaths = ["targets.json"]\n',
            'services.app.file.paths = "targets.json": is relative, to whatever directory upstreamd starts in; write',
        ),
        (FILE_SOURCE + '[services.app]\nmethod = "hash $x; evil"\n', "services.app.method"),
        (FILE_SOURCE + '[services.app.health]\npath = "/a b"\n', "services.app.health.path"),
        (FILE_SOURCE + '[services.app.health.headers]\nConnection = "close"\n', "is set by the prober itself"),
        (FILE_SOURCE + '[services.app.health.headers]\nX = "a\\nb"\n', "must be plain ASCII text on one line"),
        (FILE_SOURCE + '[services.app.health]\ninterval = "1s"\ntimeout = "11s"\n', "more than ten times the interval"),
        ("this is not toml", "upstreamd.toml: is not TOML"),
    ],
)
def test_bad_configurations_are_refused_with_a_remedy(content: str, expected: str) -> None:
    """What cannot work is refused before anything runs, in a sentence that says what to do."""
    if content.count("[services.app]") and content.startswith(FILE_SOURCE):
        content = content.removeprefix(FILE_SOURCE) + FILE_SOURCE
    assert any(expected in line for line in problems(content)), problems(content)


def test_a_missing_file_says_how_to_name_one(tmp_path: Path) -> None:
    """Without a configuration file the operator is told how to give one."""
    with pytest.raises(ConfigError, match="no such file; name yours with -c FILE or UPSTREAMD_CONFIG"):
        load(tmp_path / "absent.toml", {})


def test_a_file_that_cannot_be_read_is_told_in_plain_words(tmp_path: Path) -> None:
    """A directory in its place, and bytes that are no text, are one clause each, without Python's own words."""
    with pytest.raises(ConfigError, match=r": cannot be read: Is a directory$"):
        load(tmp_path, {})
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not text in UTF-8"):
        load(tmp_path / "binary.toml", {})


def test_what_may_not_work_here_is_doubted(tmp_path: Path) -> None:
    """Files that are not there and variables that nobody reads have a sentence each; what is there has none."""
    for name in ("nginx.conf", "ca.pem"):
        (tmp_path / name).touch()
    nginx = f'[nginx]\nconfig = "{tmp_path}/nginx.conf"\nvalidate = false\n'
    source = FILE_SOURCE.replace("/etc/upstreamd", str(tmp_path))
    good = parse(f'[services.app]\noutput = "{tmp_path}/u.conf"\n' + source + nginx)
    assert doubts(good, {"UPSTREAMD_CONFIG": "x", "UPSTREAMD__NGINX__BINARY": "x"}) == ()
    bad = parse(
        f'[services.app]\noutput = "{tmp_path}/missing/u.conf"\n'
        + source
        + f'[services.app.health]\nca_file = "{tmp_path}/none.pem"\n'
        + f'[nginx]\nbinary = "{tmp_path}/nginx"\nconfig = "{tmp_path}/none.conf"\n'
    )
    named = {"UPSTREAMD_ADMIN_LISTEN": "x", "UPSTREAMD_NGINX__BINARY": "x", "UPSTREAMD_TEST_NGINX": "x"}
    found = doubts(bad, named)
    starts = [
        "UPSTREAMD_ADMIN_LISTEN is set in the environment and nobody reads it; a key is written like UPSTREAMD__ADMIN",
        "UPSTREAMD_NGINX__BINARY is set in the environment and nobody reads it; a key is written like UPSTREAMD__NGINX",
        f'nginx.binary = "{tmp_path}/nginx": is not there or not executable',
        f'nginx.config = "{tmp_path}/none.conf": does not exist here',
        f'services.app.health.ca_file = "{tmp_path}/none.pem": does not exist here',
        f'services.app.output = "{tmp_path}/missing/u.conf": its directory does not exist here',
    ]
    assert [line[: len(start)] for line, start in zip(found, starts, strict=True)] == starts


def test_a_token_lets_the_admin_server_listen_elsewhere() -> None:
    """An address other machines reach is accepted once changes need a token."""
    config = parse(FILE_SOURCE + '[admin]\nlisten = "0.0.0.0:9145"\ntoken_file = "/run/secrets/token"\n')
    assert str(config.admin.listen) == "0.0.0.0:9145"


def test_nested_json_expectations_are_dotted_paths() -> None:
    """A table in expect_json means the same as a dotted path, and keeps the type of its value."""
    config = parse(FILE_SOURCE + "[services.app.health.expect_json]\ndb = { ready = true }\n")
    assert config.services[0].health.expect_json == (("db.ready", "==", True),)


def test_passive_evidence_is_off_until_it_is_given_an_address() -> None:
    """Without [passive] nothing listens; a unix socket or loopback address switches it on, with Envoy's defaults."""
    config = parse(FILE_SOURCE)
    assert config.passive.listen is None
    (service,) = config.services
    rules = service.passive
    assert (rules.eject, rules.consecutive, rules.base, rules.max_percent) == (False, 5, 30, 10)
    config = parse(
        FILE_SOURCE
        + '[services.app.passive]\neject = true\nbase = "10s"\n'
        + '[passive]\nlisten = "unix:/run/upstreamd/passive.sock"\nmode = "0622"\n'
    )
    assert str(config.passive.listen) == "unix:/run/upstreamd/passive.sock"
    assert config.passive.mode == 0o622
    assert (config.services[0].passive.eject, config.services[0].passive.base) == (True, 10)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("", 3),
        ('fail_timeout = "10s"\n', 10),
        ('health = { fall = 2, timeout = "400ms" }\n', 1),
        ("health = { fall = 50 }\n", 10),
    ],
)
def test_passive_evidence_shortens_nginx_own_ban(settings: str, expected: float) -> None:
    """With passive evidence on, nginx's ban lasts until the probes have judged, unless fail_timeout is set."""
    listen = '[passive]\nlisten = "127.0.0.1:5140"\n'
    service = "[services.app]\n" + settings
    assert parse(service + FILE_SOURCE + listen).services[0].fail_timeout == expected
    given = {"UPSTREAMD__SERVICES__APP__FAIL_TIMEOUT": "7s"}
    assert parse(service + FILE_SOURCE + listen, given).services[0].fail_timeout == 7
    assert parse(FILE_SOURCE).services[0].fail_timeout == 10


def test_passive_evidence_quickens_the_second_look() -> None:
    """With passive evidence on, a changing state is looked at four times an interval, unless fast_interval is set."""
    listen = '[passive]\nlisten = "127.0.0.1:5140"\n'
    assert parse(FILE_SOURCE).services[0].health.fast_interval == 0
    assert parse(FILE_SOURCE + listen).services[0].health.fast_interval == 0.5
    fast = '[services.app.health]\nfast_interval = "1s"\n'
    assert parse(FILE_SOURCE + fast + listen).services[0].health.fast_interval == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            '[passive]\nlisten = "0.0.0.0:5140"\n',
            "passive.listen = 0.0.0.0:5140: takes reports from other machines: listen on a unix socket or on 127.0.0.1",
        ),
        (
            "[services.app.passive]\neject = true\n",
            (
                "services.app.passive.eject = true: needs nginx to report: set passive.listen, like "
                '"unix:/run/upstreamd/passive.sock"'
            ),
        ),
        ('[passive]\nmode = "rw"\n', 'passive.mode = "rw": must be permission bits in quotes, like "0660"'),
        ("[passive]\nmode = 660\n", 'passive.mode = 660: must be permission bits in quotes, like "0660"'),
    ],
)
def test_passive_settings_that_cannot_work_are_refused(content: str, expected: str) -> None:
    """An address open to other machines, an ejection without reports and a wrong mode are each one sentence."""
    assert problems(FILE_SOURCE + content) == [expected]


def test_what_dns_does_not_allow_is_refused_where_a_service_is_resolved() -> None:
    """Sockets that cannot be asked or told, names that DNS has not or does not tell apart, a block that is not ours."""
    source = 'route = "resolve"\n[services.{name}.file]\npaths = ["/x"]\n'
    two = "".join(
        f'[services.{name}]\noutput = "/etc/nginx/{name}.conf"\n{source.format(name=name)}' for name in ("app", "App")
    )
    assert [each.partition(":")[0] for each in problems(two)] == ["services.App"]
    sockets = '[resolver]\nlisten = "unix:/run/r.sock"\n[unavailable]\nlisten = "unix:/run/u.sock"\n'
    block = f'[services.app]\nlayout = "upstream"\n{source.format(name="app")}'
    assert [each.partition(" ")[0] for each in problems(sockets + block)] == [
        "resolver.listen",
        "unavailable.listen",
        "services.app.layout",
    ]
    assert problems(f'[services."a..b"]\n{source.format(name=chr(34) + "a..b" + chr(34))}')


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ('[apply]\nstagger = "2s"', 'set state.backend = "consul"'),
        ('[state]\nbackend = "etcd"', "must be one of file, consul"),
        ('[state]\nprefix = "/upstreamd"', "the beginning of a key in Consul"),
        ('[state]\nprefix = "a/../b"', "the beginning of a key in Consul"),
        ('[state]\nnode = "lb/1"', "a name of letters, digits"),
    ],
)
def test_what_machines_cannot_share_by_is_refused(section: str, reason: str) -> None:
    """A stagger without other machines, and names that are no keys of Consul's, are named with the remedy."""
    with pytest.raises(ConfigError, match=re.escape(reason)):
        parse(f'{section}\n[services.app.file]\npaths = ["/a.json"]\n')


def test_problems_of_several_keys_are_told_with_those_of_one() -> None:
    """One run tells both; a rule that needs a value which could not be read has nothing to say."""
    found = problems(
        "[services.app]\nport = 70000\npasive = { eject = true }\n"
        '[services.app.health]\nrise = 0\ninterval = "1s"\ntimeout = "11s"\nsend = "x"\nscheme = "udp"\n'
        "[services.app.passive]\neject = true\n"
        '[services.api]\noutput = "relative"\n[services.api.file]\npaths = "one"\n'
        '[passive]\nlisten = "nowhere"\n[apply]\ngather = "2s"\n'
        '[admin]\nlisten = "0.0.0.0:9145"\ntoken_fil = "/token"\n'
    )
    assert [line.split(":", 1)[0].split(" =")[0] for line in found] == [
        "services.app.port",
        "services.app.pasive",
        "services.app.health.rise",
        "services.app.health.scheme",
        "services.api.output",
        "services.api.file.paths",
        "passive.listen",
        "admin.token_fil",
        "apply.gather",
        "services.app",
        "services.app.health.timeout",
    ]
    assert found[-2].startswith("services.app: has no source; ")


@pytest.mark.parametrize(
    ("content", "only"),
    [
        (FILE_SOURCE.replace("services", "servces"), "servces"),
        (FILE_SOURCE.replace("file", "fil"), "services.app.fil"),
        (FILE_SOURCE + "[services.b]\noutput = 1\n[services.b.docker]\n", "services.b.output"),
        (FILE_SOURCE.replace("app", '"a b"'), "services.a b"),
        ("admin = 1\nalerts = 1\n" + FILE_SOURCE, "admin, alerts"),
        ("[services]\napp = 1\n", "services.app"),
        ('[services.app]\nhealth = "x"\nroute = "x"\n' + FILE_SOURCE, "services.app.health, services.app.route"),
    ],
)
def test_one_mistake_is_told_once(content: str, only: str) -> None:
    """What follows from a key that could not be read, and would go with it, is not told beside it."""
    assert ", ".join(line.split(":")[0].split(" =")[0] for line in problems(content)) == only
