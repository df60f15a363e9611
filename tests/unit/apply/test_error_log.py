"""What nginx said in its error log since we last looked."""

from __future__ import annotations

from pathlib import Path

from upstreamd.apply.binary import Build
from upstreamd.apply.configuration import Configuration
from upstreamd.apply.errorlog import ErrorLog, find_error_log, in_one_line
from upstreamd.config import NginxSettings

EMERGENCY = "2026/01/02 03:04:05 [emerg] 7#7: bind() to 127.0.0.1:80 failed (98: Address already in use)\n"
FATAL = "2026/01/02 03:04:05 [alert] 7#7: worker process 9 exited with fatal code 2 and cannot be respawned\n"
NOISE = '2026/01/02 03:04:05 [error] 8#8: *1 connect() failed, request: "GET /[emerg] HTTP/1.1"\n'


def append(path: Path, *lines: str) -> None:
    with path.open("a") as file:
        file.writelines(lines)


def test_only_what_was_logged_since_counts(tmp_path: Path) -> None:
    """An old emergency is not the reason of a new failure; client noise never is."""
    path = tmp_path / "error.log"
    append(path, EMERGENCY)
    log = ErrorLog(str(path))
    append(path, NOISE)
    assert log.complaints() == []
    append(path, EMERGENCY, FATAL)
    assert [line[:7] for line in log.complaints()] == ["[emerg]", "[alert]"]
    assert log.complaints(pid=8) == []


def test_a_rotated_or_truncated_log_is_read_from_its_start(tmp_path: Path) -> None:
    """A new file in the log's place has only new lines."""
    path = tmp_path / "error.log"
    append(path, NOISE * 100)
    log = ErrorLog(str(path))
    path.rename(tmp_path / "error.log.1")
    append(path, EMERGENCY)
    assert len(log.complaints()) == 1


def test_a_flood_is_read_from_its_end_only(tmp_path: Path) -> None:
    """However much was logged, little is read, and the newest of it."""
    path = tmp_path / "error.log"
    path.touch()
    log = ErrorLog(str(path))
    append(path, NOISE * 20_000, EMERGENCY)
    assert len(log.complaints()) == 1
    assert len(in_one_line([EMERGENCY * 1000])) == 2048


def test_a_log_that_is_no_file_has_nothing_to_say(tmp_path: Path) -> None:
    """/dev/stderr, a missing file and no file at all are no error."""
    for path in ("", "/dev/stderr", str(tmp_path / "missing")):
        assert ErrorLog(path).complaints() == []


def test_the_log_is_found_as_nginx_finds_it(tmp_path: Path) -> None:
    """The key first, then the main context's directive, included files too, then what the binary was built with."""
    main = tmp_path / "nginx.conf"
    (tmp_path / "log.conf").write_text("error_log logs/e.log notice;")
    build = Build("1.30.0", "/usr/share/nginx", "/var/log/nginx/error.log")

    def found(text: str, **settings: str) -> str:
        main.write_text(text)
        return find_error_log(NginxSettings(config=str(main), **settings), Configuration(str(main)), build)

    assert found("error_log /a.log;", error_log="/mine.log") == "/mine.log"
    assert found("error_log syslog:server=x; error_log stderr; error_log /a.log warn;") == "/a.log"
    assert found("include log.conf;", prefix="/opt/nginx") == "/opt/nginx/logs/e.log"
    assert found("include log.conf;") == "/usr/share/nginx/logs/e.log"
    assert found("http { error_log /http.log; }") == "/var/log/nginx/error.log"
    assert found("error_log stderr;") == ""
