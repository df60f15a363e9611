from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.page_fakes import LookedAt, looked_at, member
from tests.unit.cli.command_line import Run, environment, write_configuration
from tests.unit.cli.test_status import speaker
from upstreamd.events import Kind
from upstreamd.history import Now, Served

HOSTILE = "evil \x1b[2J\n2027-01-15T08:00:00Z  apply      nothing happened"


@pytest.fixture
async def shown() -> AsyncIterator[LookedAt]:
    """A sidecar with one instance."""
    async with looked_at(member(0)) as one:
        yield one


@pytest.fixture
def configuration(shown: LookedAt, tmp_path: Path) -> Path:
    """The configuration of that sidecar."""
    return write_configuration(tmp_path / "upstreamd.toml", shown.url.split("/")[2])


@asynccontextmanager
async def tail(configuration: Path, *words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`upstreamd events`, running."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "upstreamd", "events", *words, "-c", str(configuration)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line(process: asyncio.subprocess.Process) -> str:
    """The next line that it prints."""
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), 30)).decode().rstrip("\n")


async def test_events_are_printed_as_they_happen(shown: LookedAt, configuration: Path) -> None:
    """Each on a line: time, kind, sentence and cause, the service named once; Ctrl-C ends with 0."""
    shown.events.publish(Kind.HEALTH, "10.0.0.1:3000 is healthy: answered 200", service="app")
    cause = shown.events.cause("app")
    async with tail(configuration) as process:
        first = await line(process)
        assert first.split("Z  ", 1)[1] == f"health     app: 10.0.0.1:3000 is healthy: answered 200  [{cause}]"
        shown.events.publish(Kind.APPLY, "nginx serves generation 7 of app", service="app", cause=cause)
        assert (await line(process)).split("Z  ", 1)[1] == f"apply      nginx serves generation 7 of app  [{cause}]"
        shown.events.publish(Kind.DECISION, "1 instance shall serve app: +10.0.0.1:3000", service="app")
        assert (await line(process)).split("Z  ", 1)[1] == "decision   1 instance shall serve app: +10.0.0.1:3000"
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 30) == 0


async def test_json_is_an_object_a_line(shown: LookedAt, configuration: Path) -> None:
    """`--json` prints what the sidecar says of each event, beginning with `--last`; a service's name chooses."""
    shown.events.publish(Kind.APPLY, "long ago", service="app")
    async with tail(configuration, "app", "--json", "--last", "1") as process:
        assert json.loads(await line(process))["text"] == "long ago"
        shown.events.publish(Kind.APPLY, "another's", service="api")
        shown.events.publish(Kind.APPLY, HOSTILE, service="app")
        told = json.loads(await line(process))
        assert (told["number"], told["kind"], told["text"]) == (3, "apply", HOSTILE)


async def test_the_last_events_of_a_service_are_its_own(shown: LookedAt, configuration: Path) -> None:
    """`--last` counts events of the service that is asked for, however many others have had since."""
    for number in range(3):
        shown.events.publish(Kind.APPLY, f"event {number}", service="app")
    for number in range(30):
        shown.events.publish(Kind.APPLY, f"other {number}", service="api")
    async with tail(configuration, "app", "--last", "2") as process:
        assert "event 1" in await line(process)
        assert "event 2" in await line(process)


async def test_the_past_alone_can_be_printed(upstreamd: Run, shown: LookedAt, configuration: Path) -> None:
    """With `--no-follow` it ends with what has happened, also where that is nothing."""
    nothing = await upstreamd("events", "app", "--no-follow", "-c", str(configuration))
    assert nothing == (0, "", "")
    shown.events.publish(Kind.APPLY, "long ago", service="app")
    shown.events.publish(Kind.APPLY, "just now", service="app")
    ended = await upstreamd("events", "app", "--no-follow", "--last", "1", "-c", str(configuration))
    assert (ended.code, ended.err, len(ended.out.splitlines())) == (0, "", 1)
    assert "just now" in ended.out


@pytest.mark.parametrize("command", ["events", "events --json", "history", "history --json"])
async def test_a_service_that_is_not_there_is_told(
    upstreamd: Run, shown: LookedAt, configuration: Path, command: str
) -> None:
    """A typing mistake is no empty answer: the sentence names the nearest service, or the known ones."""
    shown.applied(1, "10.0.0.1", cause="upstreamd has started")
    name, *form = command.split()
    wrong = await upstreamd(name, "ap", *form, "-c", str(configuration))
    assert wrong == (1, "", "there is no service ap; did you mean app?\n")
    other = await upstreamd(name, "zzz", *form, "-c", str(configuration))
    assert other == (1, "", "there is no service zzz; known are app\n")


async def test_discovered_text_cannot_forge_an_event(shown: LookedAt, configuration: Path) -> None:
    """Newlines and escape sequences are shown, not obeyed."""
    shown.events.publish(Kind.HEALTH, HOSTILE, service="app")
    async with tail(configuration) as process:
        told = await line(process)
    assert r"evil \x1b[2J\n2027" in told
    assert "\x1b" not in told


async def test_it_waits_for_a_sidecar_that_restarts(tmp_path: Path) -> None:
    """A stream that ends is told on stderr and followed again when the sidecar is back."""
    events = b'id: a-1\nevent: apply\ndata: {"text": "one", "at": "Z"}\n\n'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nretry: 1\n\n: beat\n\n"
    async with speaker(head + events) as listen:
        path = write_configuration(tmp_path / "upstreamd.toml", listen)
        async with tail(path, "--json") as process:
            assert json.loads(await line(process))["text"] == "one"
            assert json.loads(await line(process))["text"] == "one"
            assert process.stderr is not None
            assert b"ended the stream; trying again" in await process.stderr.readline()


@pytest.mark.parametrize("listen", ["127.0.0.1:1", "unix:/nowhere/admin.sock"])
@pytest.mark.parametrize("command", ["events", "history"])
async def test_nobody_there_is_exit_code_3(upstreamd: Run, tmp_path: Path, listen: str, command: str) -> None:
    """The sentence says where nobody was found and what to do."""
    ended = await upstreamd(command, "-c", str(write_configuration(tmp_path / "upstreamd.toml", listen)))
    assert (ended.code, ended.out) == (3, "")
    assert listen in ended.err
    assert "upstreamd run" in ended.err
    assert len(ended.err.splitlines()) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\n\r\nevent: x\ndata: [1]\n\n",
        b"HTTP/1.1 200 OK\r\n\r\ndata: " + b"x" * 70_000,
        b'HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n[{"changes": 1}]\n',
        b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\n{}",
        b"",
    ],
    ids=["ssh", "text", "list", "long", "other", "busy", "nothing"],
)
async def test_something_else_there_is_told(upstreamd: Run, tmp_path: Path, answer: bytes) -> None:
    """What is no history ends with exit code 3 and a sentence, without a traceback."""
    async with speaker(answer) as listen:
        path = write_configuration(tmp_path / "upstreamd.toml", listen)
        ended = await upstreamd("history", "-c", str(path))
    assert (ended.code, ended.out, len(ended.err.splitlines())) == (3, "", 1)


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\n{}", b""])
async def test_events_of_something_else_are_told(upstreamd: Run, tmp_path: Path, answer: bytes) -> None:
    """What never sent an event ends with exit code 3 and a sentence."""
    async with speaker(answer) as listen:
        ended = await upstreamd("events", "-c", str(write_configuration(tmp_path / "upstreamd.toml", listen)))
    assert (ended.code, ended.out, len(ended.err.splitlines())) == (3, "", 1)


async def test_the_history_is_a_table(upstreamd: Run, shown: LookedAt, configuration: Path) -> None:
    """A row for each service of each generation, newest first: time, servers, who came and went, and the cause."""
    shown.applied(41, *(f"10.0.0.{number}" for number in range(1, 12)), cause="upstreamd has started")
    shown.applied(42, "10.0.0.1", "10.0.0.99", cause=HOSTILE)
    ended = await upstreamd("history", "-c", str(configuration))
    head, newest, oldest = ended.out.splitlines()
    assert head.split() == ["GENERATION", "AT", "SERVICE", "SERVERS", "CHANGE", "CAUSE"]
    assert newest.startswith("42 ")
    assert "+10.0.0.99:3000 -10.0.0.2:3000" in newest
    assert r"evil \x1b[2J\n2027" in newest
    assert "and 5 more" in oldest
    assert oldest.endswith("upstreamd has started")
    found = json.loads((await upstreamd("history", "app", "--json", "--last", "1", "-c", str(configuration))).out)
    assert [each["generation"] for each in found] == [42]


async def test_what_a_server_was_before_is_told_in_words(upstreamd: Run, shown: LookedAt, configuration: Path) -> None:
    """A version where there was none, and a role, are words that a person reads."""
    for generation, server in (
        (1, Served("10.0.0.1", 3000)),
        (2, Served("10.0.0.1", 3000, version="blue")),
        (3, Served("10.0.0.1", 3000, 2, backup=True)),
    ):
        shown.history.record(
            generation, {"app": Now(f"{generation:064x}", (server,), {})}, cause="", cause_id="", digest=""
        )
    _, third, second, _ = (await upstreamd("history", "-c", str(configuration))).out.splitlines()
    assert "10.0.0.1:3000 (version none to blue)" in second
    assert "10.0.0.1:3000 (weight 1 to 2, backup no to yes, version blue to none)" in third


async def test_a_history_without_entries_says_so(upstreamd: Run, shown: LookedAt, configuration: Path) -> None:
    """Nothing applied is no error; a service that is not configured is."""
    nothing = await upstreamd("history", "-c", str(configuration))
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "nothing has been applied yet\n")
    unknown = await upstreamd("history", "a b&last=x", "-c", str(configuration))
    assert (unknown.code, unknown.out) == (1, "")
    assert unknown.err == "there is no service a b&last=x; known are app\n"


async def test_watching_prints_again_when_something_happens(shown: LookedAt, configuration: Path) -> None:
    """`status --watch` shows a change as soon as its event is there."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "upstreamd", "status", "--watch", "-c", str(configuration)),
        stdout=asyncio.subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    async with asyncio.timeout(30):
        await process.stdout.readuntil(b"serves 1 of 1")
        shown.members = (member(0), member(1))
        shown.events.publish(Kind.HEALTH, "10.0.0.2:3000 is healthy", service="app")
        await process.stdout.readuntil(b"serves 2 of 2")
        process.send_signal(signal.SIGINT)
        await process.stdout.read()
        assert await process.wait() == 0


async def test_the_commands_start_without_the_servers_libraries(configuration: Path) -> None:
    """A tail is there before the next event: what makes a server slow to start is not imported."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "importtime", "-m", "upstreamd", "history", "-c", str(configuration)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    _, err = await process.communicate()
    imported = {text.rpartition(b"|")[2].strip().partition(b".")[0].decode() for text in err.splitlines()}
    assert imported.isdisjoint({"aiohttp", "uvloop", "prometheus_client", "crossplane", "asyncio", "rich", "msgspec"})
