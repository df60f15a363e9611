from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Self

import pytest

from tests.unit.cli.command_line import Run, environment, sidecar, write_configuration
from tests.unit.observe.pictures import DIGEST, clock, member, picture, wall
from upstreamd.cli.ask import UnreachableError, ask
from upstreamd.config import AdminSettings, Listen
from upstreamd.model import NginxView, Outcome, OutcomeKind, Skipped, State
from upstreamd.observe.status import status_document
from upstreamd.picture import Peer, Picture, Served, Sharing

HOSTILE = "evil \x1b[2J\x1b]0;owned\x07 [bold]x[/bold]\n10.0.0.9:3000  healthy"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def seen() -> Picture:
    return picture(
        member(),
        member("10.0.0.2", State.UNHEALTHY, reason="timed out after 1s", since=5, version="blue"),
        member("10.0.0.3", State.UNHEALTHY, reason=HOSTILE, serving=True),
        member("10.0.0.4", State.CHECKING, reason="not probed yet", since=0),
        alarms=("one address has two owners",),
    )


@pytest.fixture
async def configuration(tmp_path: Path) -> AsyncIterator[Path]:
    """The configuration of a sidecar that runs and shows `seen`."""
    async with sidecar(seen) as listen:
        yield write_configuration(tmp_path / "upstreamd.toml", listen)


async def test_it_prints_an_aligned_table(upstreamd: Run, configuration: Path) -> None:
    """Into a pipe goes plain aligned text: state, since, probe, version, source and reason of every instance."""
    ended = await upstreamd("status", "-c", str(configuration))
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0] == "app: nginx serves 2 of 4, generation 42, running 3f2a3f2a3f2a, applied 12s ago"
    assert lines[1] == "! one address has two owners"
    columns = [lines[2].index(name) for name in ("INSTANCE", "STATE", "SINCE", "PROBED", "VERSION", "SOURCE", "REASON")]
    cells = [lines[4][at:to].strip() for at, to in zip(columns, [*columns[1:], None], strict=True)]
    assert cells == ["10.0.0.2:3000", "unhealthy", "5s", "1s", "blue", "file:app", "timed out after 1s"]
    assert lines[5][columns[1] :].startswith("unhealthy, serves")
    assert lines[6][columns[2]] == "-"
    assert "file:app  ok     2s   4" in ended.out
    assert "nginx 1.31.3, master 1234, 4 workers, 1 draining" in ended.out


async def test_discovered_text_cannot_forge_a_row(upstreamd: Run, configuration: Path) -> None:
    """Newlines and escape sequences in a reason are shown, not obeyed."""
    ended = await upstreamd("status", "-c", str(configuration))
    assert "\x1b" not in ended.out
    assert not any(line.startswith("10.0.0.9") for line in ended.out.splitlines())
    assert r"evil \x1b[2J\x1b]0;owned\x07 [bold]x[/bold]\n10.0.0.9:3000" in ended.out


async def test_it_tells_with_whom_orders_are_shared(upstreamd: Run, tmp_path: Path) -> None:
    """The other machines by name; nobody; or what keeps them from sharing, and since when."""
    peer = Peer("lb2", {"app": Served(DIGEST, 41, wall() - 60)}, {"app": 16.5})
    told = [
        (Sharing("lb1", peers=(peer,)), "orders are shared by lb1 with lb2"),
        (Sharing("lb1"), "with nobody: no other machine is alive"),
        (
            Sharing("lb1", "no \x1b leader", wall() - 60, {"app": "a drain"}),
            r"! trouble with other machines for 60s: no \x1b",
        ),
    ]
    for sharing, sentence in told:
        async with sidecar(lambda sharing=sharing: replace(seen(), sharing=sharing)) as listen:
            path = write_configuration(tmp_path / "upstreamd.toml", listen)
            assert sentence in (await upstreamd("status", "-c", str(path))).out
            document = json.loads((await upstreamd("status", "--json", "-c", str(path))).out)
            assert document["sharing"]["unshared"] == sharing.unshared
            assert list(document["peers"]) == [peer.name for peer in sharing.peers]


async def test_json_is_the_servers_document(upstreamd: Run, configuration: Path) -> None:
    """`--json` prints one document on stdout and nothing else; with a service, that one alone."""
    ended = await upstreamd("status", "--json", "-c", str(configuration))
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out) == json.loads(json.dumps(status_document(seen(), clock, wall)))
    assert "\x1b" not in ended.out
    alone = await upstreamd("status", "app", "--json", "-c", str(configuration))
    assert set(json.loads(alone.out)["services"]) == {"app"}


async def test_one_service_can_be_asked_for(upstreamd: Run, tmp_path: Path) -> None:
    """Other services are left out, sources and nginx stay."""
    both = seen()
    both = replace(both, services={**both.services, "api": both.services["app"]})
    async with sidecar(lambda: both) as listen:
        path = write_configuration(tmp_path / "upstreamd.toml", listen)
        ended = await upstreamd("status", "api", "-c", str(path))
    assert "api: nginx serves 2 of 4" in ended.out
    assert "app: " not in ended.out
    assert "file:app  ok" in ended.out


async def test_an_unknown_service_suggests_the_nearest(upstreamd: Run, configuration: Path) -> None:
    """Exit code 1, and the name that was probably meant."""
    near = await upstreamd("status", "ap", "-c", str(configuration))
    assert (near.code, near.err) == (1, "there is no service ap; did you mean app?\n")
    far = await upstreamd("status", "--json", "zzz\x1b[2J", "-c", str(configuration))
    assert (far.code, far.out) == (1, "")
    assert far.err == "there is no service zzz\\x1b[2J; known are app\n"


async def test_what_is_wrong_stands_at_the_top(upstreamd: Run, tmp_path: Path) -> None:
    """Not being ready, a rejected apply, skipped entries and a lost nginx each have a line that begins with `!`."""
    base = picture(member(), ready=False)
    source = replace(
        base.sources["file:app"], ok=False, error="gone", skipped=tuple(Skipped(f"web-{n}", "port 0") for n in range(5))
    )
    bad = replace(
        base,
        sources={"file:app": source},
        outcome=Outcome(OutcomeKind.REJECTED, DIGEST, "nginx: [emerg] no servers", 0.1),
        nginx=replace(base.nginx, problem="its processes cannot be looked at"),
    )
    async with sidecar(lambda: bad) as listen:
        ended = await upstreamd("status", "-c", str(write_configuration(tmp_path / "upstreamd.toml", listen)))
    assert ended.code == 0
    alarms = [line for line in ended.out.splitlines() if line.startswith("! ")]
    assert alarms == [
        "! nginx: its processes cannot be looked at",
        "! not ready: nginx has not confirmed a configuration yet",
        "! the last apply was rejected: nginx: [emerg] no servers",
        "! file:app skips web-0: port 0",
        "! file:app skips web-1: port 0",
        "! file:app skips web-2: port 0",
        "! file:app skips 2 more",
        "! nginx: see above",
    ]


async def shown(upstreamd: Run, tmp_path: Path, seen: Picture) -> list[str]:
    """The lines of `status` where the sidecar sees this."""
    async with sidecar(lambda: seen) as listen:
        ended = await upstreamd("status", "-c", str(write_configuration(tmp_path / "upstreamd.toml", listen)))
    assert (ended.code, ended.err) == (0, "")
    return ended.out.splitlines()


async def test_one_cause_is_told_once(upstreamd: Run, tmp_path: Path) -> None:
    """Where nginx is not there, nothing is ready, the apply failed and nginx is missing: one sentence, not three."""
    cause = "no nginx master: /run/nginx.pid does not exist; start nginx"
    detail = f"{cause}; the new file is in place and is read when nginx starts"
    base = picture(member(), ready=False)
    view = replace(base.services["app"], generation=0, digest="", applied_at=None)
    lost = replace(
        base,
        services={"app": view},
        reason=f"failed: {detail}",
        pending=True,
        outcome=Outcome(OutcomeKind.FAILED, DIGEST, detail, 0.1),
        nginx=NginxView(problem=cause),
    )
    lines = await shown(upstreamd, tmp_path, lost)
    assert lines[0] == "! nginx is not running: /run/nginx.pid does not exist; start nginx"
    assert lines[1] == "! not ready; the last apply failed: the new file is in place and is read when nginx starts"
    assert lines[3] == "app: nginx serves 0 of 1, nothing is confirmed yet"
    assert lines[-1] == "! nginx: see above"
    assert "\n".join(lines).count("does not exist") == 1


async def test_that_nginx_has_stopped_is_told_first(upstreamd: Run, tmp_path: Path) -> None:
    """However well all was when it was last applied, the first line says that nobody serves."""
    stopped = NginxView(problem="no nginx master: pid 1234 has ended")
    lines = await shown(upstreamd, tmp_path, replace(picture(member()), nginx=stopped))
    assert lines[0] == "! nginx is not running: pid 1234 has ended"
    assert lines[2].startswith("app: nginx serves 1 of 1")
    assert lines[-1] == "! nginx: see above"


async def test_a_change_that_waits_is_told(upstreamd: Run, tmp_path: Path) -> None:
    """What nginx serves stands apart from what was decided: the change that waits, why, and who serves on meanwhile."""
    base = replace(picture(member()), pending=True)
    assert (await shown(upstreamd, tmp_path, base))[0] == "a change is waiting to be applied"
    view = replace(base.services["app"], kept=("10.0.0.9:3000",))
    refused = replace(
        base, services={"app": view}, outcome=Outcome(OutcomeKind.REJECTED, DIGEST, "nginx: [emerg] no", 0.1)
    )
    lines = await shown(upstreamd, tmp_path, refused)
    assert lines[0] == "! a change is waiting: the last apply was rejected: nginx: [emerg] no"
    assert lines[2].startswith("app: nginx serves 1 of 1 and 1 that no source names any more, generation 42")
    assert any(line.startswith("10.0.0.9:3000  gone, serves") for line in lines)


async def test_refused_entries_are_the_reason_where_nobody_is_known(upstreamd: Run, tmp_path: Path) -> None:
    """Not ready because every entry was refused is told as that."""
    base = picture(ready=False)
    source = replace(base.sources["file:app"], skipped=(Skipped("a", "outside"), Skipped("b", "outside")))
    lines = await shown(upstreamd, tmp_path, replace(base, sources={"file:app": source}))
    assert lines[0] == "! not ready: no instance is known: 2 were refused"


async def test_a_container_is_shown_by_its_short_id(upstreamd: Run, tmp_path: Path) -> None:
    """Of a container's id stands what `docker ps` shows; an identity that somebody chose stands whole."""
    container, chosen = member(), member("10.0.0.2")
    container = container._replace(instance=replace(container.instance, id="4f2a" * 16))
    chosen = chosen._replace(instance=replace(chosen.instance, id="web-1"))
    lines = await shown(upstreamd, tmp_path, picture(container, chosen))
    assert [line.split()[:2] for line in lines[1:4]] == [
        ["INSTANCE", "ID"],
        ["10.0.0.1:3000", "4f2a4f2a4f2a"],
        ["10.0.0.2:3000", "web-1"],
    ]


async def test_a_sidecar_that_knows_nothing_yet_can_be_shown(upstreamd: Run, tmp_path: Path) -> None:
    """Right after its start there is a reason instead of a table."""
    async with sidecar(Picture) as listen:
        ended = await upstreamd("status", "-c", str(write_configuration(tmp_path / "upstreamd.toml", listen)))
    assert ended.code == 0
    assert "no configuration has been applied yet" in ended.out


async def test_it_asks_through_a_unix_socket(upstreamd: Run, tmp_path: Path) -> None:
    """`listen = "unix:/path"` is found as well."""
    async with sidecar(seen, Listen("", 0, str(tmp_path / "admin.sock"))) as listen:
        ended = await upstreamd("status", "-c", str(write_configuration(tmp_path / "upstreamd.toml", listen)))
    assert (ended.code, ended.err) == (0, "")


async def test_a_server_on_every_address_is_asked_on_loopback(upstreamd: Run, tmp_path: Path) -> None:
    """`0.0.0.0` is where to listen, not where to ask."""
    async with sidecar(seen) as listen:
        path = write_configuration(tmp_path / "upstreamd.toml", f"0.0.0.0:{listen.port}")
        assert (await upstreamd("status", "-c", str(path))).code == 0


async def test_the_environment_overrides_where_to_ask(upstreamd: Run, tmp_path: Path) -> None:
    """`UPSTREAMD__ADMIN__LISTEN` holds for the commands as for the sidecar."""
    path = write_configuration(tmp_path / "upstreamd.toml", "127.0.0.1:1")
    async with sidecar(seen) as listen:
        assert (await upstreamd("status", "-c", str(path), UPSTREAMD__ADMIN__LISTEN=str(listen))).code == 0


@pytest.mark.parametrize("listen", ["127.0.0.1:1", "unix:/nowhere/admin.sock"])
async def test_nobody_there_is_exit_code_3(upstreamd: Run, tmp_path: Path, listen: str) -> None:
    """The sentence says where nobody was found and what to do; stdout stays empty."""
    path = write_configuration(tmp_path / "upstreamd.toml", listen)
    for words in ((), ("--json",), ("--watch",)):
        ended = await upstreamd("status", *words, "-c", str(path))
        assert (ended.code, ended.out) == (3, "")
        assert listen in ended.err
        assert "upstreamd run" in ended.err
        assert len(ended.err.splitlines()) == 1


@asynccontextmanager
async def speaker(answer: bytes | None) -> AsyncIterator[Listen]:
    """Something else that listens; it says `answer` to everybody, or nothing at all."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with server:
        yield Listen("127.0.0.1", server.sockets[0].getsockname()[1])


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"services": 1}',
        b'HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{"services": {"a":1}',
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 23\r\n\r\n{\"detail\": \"\\u001b[2J\"}\n",
        b"",
    ],
    ids=["ssh", "text", "list", "other", "cut", "refused", "nothing"],
)  # fmt: skip
async def test_something_else_there_is_exit_code_3(upstreamd: Run, tmp_path: Path, answer: bytes) -> None:
    """Another program at the address is told from a sidecar, in one sentence without a traceback."""
    async with speaker(answer) as listen:
        path = write_configuration(tmp_path / "upstreamd.toml", listen)
        ended = await upstreamd("status", "-c", str(path))
    assert (ended.code, ended.out) == (3, "")
    assert len(ended.err.splitlines()) == 1
    assert "\x1b" not in ended.err


async def test_a_silent_sidecar_is_given_up() -> None:
    """Who accepts and never answers is waited for so long and no longer."""
    async with speaker(None) as listen:
        with pytest.raises(UnreachableError, match=r"does not answer within 0\.2s"):
            await asyncio.to_thread(ask, AdminSettings(listen=listen), "/v1/status", 0.2)


async def test_the_token_is_sent_where_reads_need_it(upstreamd: Run, tmp_path: Path) -> None:
    """With `token_for_reads`, who may read the token file is answered; who may not is told what is missing, exit 1."""
    (tmp_path / "token").write_text("right\n")
    settings = {"token_file": str(tmp_path / "token"), "token_for_reads": True}
    async with sidecar(seen, **settings) as listen:
        path = write_configuration(tmp_path / "upstreamd.toml", listen)
        ended = await upstreamd("status", "-c", str(path), UPSTREAMD__ADMIN__TOKEN_FILE=str(tmp_path / "token"))
        assert (ended.code, ended.err) == (0, "")
        refused = await upstreamd("status", "-c", str(path))
        assert (refused.code, refused.out) == (1, "")
        assert "needs a token, and /run/secrets/token cannot be read: No such file" in refused.err
        assert "UPSTREAMD_TOKEN_FILE" in refused.err


@pytest.mark.parametrize(
    ("named", "content", "told"),
    [
        ("mine", "wrong", "this is not the token in admin.token_file; it was read from {}"),
        ("mine", "\n", "this needs a token, and the first line of {} is empty"),
        ("", "", "this needs a token: name the sidecar's configuration with -c FILE, or the token's file"),
    ],
)
async def test_a_token_that_does_not_open_is_told_with_its_file(
    upstreamd: Run, tmp_path: Path, named: str, content: str, told: str
) -> None:
    """The sentence says from which file the wrong token came, or how to name one."""
    (tmp_path / "token").write_text("right\n")
    mine = tmp_path / "mine"
    mine.write_text(content)
    async with sidecar(seen, token_file=str(tmp_path / "token"), token_for_reads=True) as listen:
        path = write_configuration(tmp_path / "upstreamd.toml", listen)
        variables = {"UPSTREAMD_TOKEN_FILE": str(mine)} if named else {"UPSTREAMD__ADMIN__TOKEN_FILE": ""}
        refused = await upstreamd("status", "-c", str(path), **variables)
    assert (refused.code, refused.out) == (1, "")
    assert told.format(mine) in refused.err


class Terminal:
    """A terminal of 80 columns with a command in it."""

    def __init__(self, *words: str, **more: str) -> None:
        self._words = words
        self._environment = environment(TERM="xterm-256color", **more)
        self.text = ""

    async def __aenter__(self) -> Self:
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (50, 80))
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "upstreamd", *self._words, stdin=theirs, stdout=theirs, stderr=theirs,
            env=self._environment,
        )  # fmt: skip
        os.close(theirs)
        self._ours = ours
        self._reading = asyncio.create_task(asyncio.to_thread(self._read))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await self._reading
        os.close(self._ours)

    def _read(self) -> None:
        while True:
            try:
                self.text += os.read(self._ours, 65536).decode(errors="replace")
            except OSError:  # EIO: the other side has closed its terminal
                return

    async def shows(self, words: str) -> None:
        """Waits until `words` have appeared."""
        async with asyncio.timeout(30):
            while words not in self.text:
                await asyncio.wait([self._reading], timeout=0.02)

    async def ends(self) -> int:
        """The exit code, once the command has ended and all it wrote was read."""
        code = await asyncio.wait_for(self.process.wait(), 30)
        await asyncio.wait_for(asyncio.shield(self._reading), 30)
        return code


async def test_a_terminal_gets_colour_and_its_own_width(configuration: Path) -> None:
    """On a terminal states are coloured, long reasons are folded into 80 columns, and nothing discovered is obeyed."""
    async with Terminal("status", "-c", str(configuration)) as terminal:
        assert await terminal.ends() == 0
    assert COLOUR.search(terminal.text)
    text = COLOUR.sub("", terminal.text)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "10.0.0.3:3000" in text


async def test_no_color_is_honoured(configuration: Path) -> None:
    """With NO_COLOR set there is no colour on a terminal either."""
    async with Terminal("status", "-c", str(configuration), NO_COLOR="1") as terminal:
        assert await terminal.ends() == 0
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", terminal.text)


async def test_watching_outlives_a_restart_of_the_sidecar(tmp_path: Path) -> None:
    """`--watch` on a terminal refreshes, waits for a sidecar that is away, and ends with 0 at Ctrl-C."""
    shown = [picture(member())]
    async with AsyncExitStack() as first:
        listen = await first.enter_async_context(sidecar(lambda: shown[0]))
        path = write_configuration(tmp_path / "upstreamd.toml", listen)
        async with Terminal("status", "--watch", "-c", str(path)) as terminal:
            await terminal.shows("serves 1 of 1")
            shown[0] = picture(member(), member("10.0.0.2"))
            await terminal.shows("serves 2 of 2")
            await first.aclose()
            await terminal.shows("nothing listens there")
            shown[0] = picture(member(), member("10.0.0.2"), member("10.0.0.3"))
            async with sidecar(lambda: shown[0], listen):
                await terminal.shows("serves 3 of 3")
                terminal.process.send_signal(signal.SIGINT)
                assert await terminal.ends() == 0


async def test_watching_into_a_pipe_prints_again(configuration: Path) -> None:
    """Into a pipe `--watch` prints one status after the other, and ends with 0 at SIGINT."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "upstreamd", "status", "--watch", "-c", str(configuration),
        stdout=asyncio.subprocess.PIPE, env=environment(),
    )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(30):
        for _ in range(2):
            assert await process.stdout.readuntil(b"nginx 1.31.3") != b""
        process.send_signal(signal.SIGINT)
        await process.stdout.read()
        assert await process.wait() == 0


async def test_a_reader_that_goes_away_is_no_error(configuration: Path) -> None:
    """`upstreamd status | head -1` shows one line and no traceback."""
    process = await asyncio.create_subprocess_shell(
        f"{sys.executable} -m upstreamd status --watch -c {configuration} | head -1",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert (out.decode().count("\n"), err) == (1, b"")
