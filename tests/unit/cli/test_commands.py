from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tests.unit.cli.command_line import Run, sidecar, write_configuration
from upstreamd import __version__
from upstreamd.picture import Picture

COMMANDS = ("run", "demo", "check-config", "plan", "status")


@pytest.mark.parametrize("command", COMMANDS)
async def test_every_command_explains_itself_with_an_example(upstreamd: Run, command: str) -> None:
    """`--help` fits 80 columns and ends with a line that can be copied."""
    ended = await upstreamd(command, "--help")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[-1].startswith(f"  upstreamd {command}")
    assert max(map(len, ended.out.splitlines())) <= 80


async def test_the_overview_names_every_command(upstreamd: Run) -> None:
    """`--help` lists the commands on one line each, within 80 columns."""
    ended = await upstreamd("--help")
    assert ended.code == 0
    for command in COMMANDS:
        assert f"\n  {command} " in ended.out
    assert max(map(len, ended.out.splitlines())) <= 80


async def test_no_command_is_a_usage_error(upstreamd: Run) -> None:
    """Without a word the overview goes to stderr, exit code 2."""
    ended = await upstreamd()
    assert (ended.code, ended.out) == (2, "")
    assert "status" in ended.err


async def test_the_version_is_told(upstreamd: Run) -> None:
    """`--version` prints one line."""
    assert await upstreamd("--version") == (0, f"upstreamd {__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("stauts",), "status"),
        (("chek-config",), "check-config"),
        (("config",), "check-config"),
        (("--versoin",), "--version"),
        (("status", "--jsno"), "--json"),
        (("demo", "--durration", "3"), "--duration"),
    ],
)
async def test_a_typing_mistake_gets_the_nearest_word(upstreamd: Run, words: tuple[str, ...], meant: str) -> None:
    """A wrong command or option is exit code 2 and one sentence with what was probably meant."""
    ended = await upstreamd(*words)
    assert (ended.code, ended.out) == (2, "")
    assert f"did you mean {meant}?" in ended.err
    assert len(ended.err.splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("demo", "--port", "99999"),
        ("demo", "--port", "http"),
        ("demo", "--duration", "-1"),
        ("demo", "--duration", "nan"),
        ("status", "--json", "--watch"),
        ("status", "one", "two"),
        ("plan", "-c"),
        ("drain", "app"),
        ("drain", "app", "10.0.0.1:3000", "--timeout", "5\x1b"),
    ],
)
async def test_wrong_arguments_are_exit_code_2(upstreamd: Run, words: tuple[str, ...]) -> None:
    """What cannot be meant is refused before anything starts, in one sentence that names the command's help."""
    ended = await upstreamd(*words)
    assert (ended.code, ended.out) == (2, "")
    assert len(ended.err.splitlines()) == 1
    assert ended.err.endswith(f"see `upstreamd {words[0]} --help`\n")


async def test_a_good_configuration_is_called_good(upstreamd: Run, tmp_path: Path) -> None:
    """`check-config` names file, services and admin address; what is not there is a warning, and no more."""
    path = write_configuration(tmp_path / "mine.toml", "127.0.0.1:9145")
    ended = await upstreamd("check-config", "-c", str(path), UPSTREAMD_LOG_LEVEL="debug")
    assert (ended.code, ended.out) == (0, f"{path} is good: services app; admin server at 127.0.0.1:9145\n")
    warnings = ended.err.splitlines()
    assert all(line.startswith("warning: ") for line in warnings)
    assert any("UPSTREAMD_LOG_LEVEL" in line and "UPSTREAMD__LOG__LEVEL" in line for line in warnings)
    assert any('admin.token_file = "/run/secrets/token": does not exist here' in line for line in warnings)


@pytest.mark.parametrize("command", ["check-config", "plan", "status", "run"])
async def test_every_problem_of_a_configuration_is_named(upstreamd: Run, tmp_path: Path, command: str) -> None:
    """Each problem is a line with key path, value and reason; the last line counts them; exit code 2."""
    path = tmp_path / "bad.toml"
    path.write_text('[admin]\nlistn = "x"\n[services.app]\noutput = "relative"\nport = 70000\n')
    ended = await upstreamd(command, "-c", str(path))
    assert (ended.code, ended.out) == (2, "")
    lines = ended.err.splitlines()
    assert 'admin.listn = "x": unknown key; did you mean listen?' in lines
    assert any(line.startswith('services.app.output = "relative": ') for line in lines)
    assert any(line.startswith("services.app.port = 70000: ") for line in lines)
    assert any(line.startswith("services.app: has no source; ") for line in lines)
    assert lines[-1] == f"{path} has 4 problems"


@pytest.mark.parametrize("command", ["check-config", "plan", "status", "run"])
async def test_a_missing_configuration_is_one_sentence(upstreamd: Run, command: str) -> None:
    """The file that was looked for is named, and how to name another."""
    ended = await upstreamd(command, "-c", "/nowhere/upstreamd.toml")
    assert ended.code == 2
    assert ended.err == "/nowhere/upstreamd.toml: no such file; name yours with -c FILE or UPSTREAMD_CONFIG\n"


async def test_without_any_configuration_both_places_are_named(upstreamd: Run) -> None:
    """Where nothing was named, the sentence says where was looked."""
    ended = await upstreamd("check-config")
    assert ended == (
        2,
        "",
        (
            "there is no /etc/upstreamd/upstreamd.toml and no ./upstreamd.toml; "
            "name yours with -c FILE or UPSTREAMD_CONFIG\n"
        ),
    )


async def test_why_the_sidecar_ends_is_logged_in_its_format(upstreamd: Run, tmp_path: Path) -> None:
    """An address that is taken ends `run` with exit code 1 and one more line of JSON, where the log is JSON."""
    async with sidecar(Picture) as listen:
        path = write_configuration(tmp_path / "upstreamd.toml", listen)
        ended = await upstreamd(
            "run",
            "-c",
            str(path),
            UPSTREAMD__LOG__FORMAT="json",
            UPSTREAMD__ADMIN__TOKEN_FILE="",
            UPSTREAMD__STATE__DIR="",
        )
    assert (ended.code, ended.out) == (1, "")
    last = [json.loads(line) for line in ended.err.splitlines()][-1]
    assert last["level"] == "error"
    assert last["message"].startswith(f'upstreamd ends: admin.listen = "{listen}" cannot be had: another program')


async def test_a_control_character_in_the_configuration_is_not_obeyed(upstreamd: Run, tmp_path: Path) -> None:
    """A problem's value is shown with escape sequences spelled out."""
    path = tmp_path / "bad.toml"
    path.write_text('[log]\nformat = "\\u001b[2J"\n')
    ended = await upstreamd("check-config", "-c", str(path))
    assert ended.code == 2
    assert "\x1b" not in ended.err


async def test_the_configuration_is_found_without_an_option(upstreamd: Run, tmp_path: Path) -> None:
    """`UPSTREAMD_CONFIG` names it; without that, `./upstreamd.toml` is taken; `-c` wins over both."""
    near = write_configuration(tmp_path / "upstreamd.toml", "127.0.0.1:1001")
    named = write_configuration(tmp_path / "named.toml", "127.0.0.1:1002")
    option = write_configuration(tmp_path / "option.toml", "127.0.0.1:1003")
    assert "127.0.0.1:1001" in (await upstreamd("check-config")).out
    assert "127.0.0.1:1001" in (await upstreamd("check-config", UPSTREAMD_CONFIG="")).out
    assert "127.0.0.1:1002" in (await upstreamd("check-config", UPSTREAMD_CONFIG=str(named))).out
    found = await upstreamd("check-config", "-c", str(option), UPSTREAMD_CONFIG=str(named))
    assert "127.0.0.1:1003" in found.out
    assert near.exists()


async def test_an_unreadable_configuration_is_one_sentence(upstreamd: Run, tmp_path: Path) -> None:
    """A directory in the file's place is told without a traceback."""
    path = tmp_path / "directory.toml"
    path.mkdir(mode=stat.S_IRWXU)
    ended = await upstreamd("check-config", "-c", str(path))
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1
