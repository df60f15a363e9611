"""What is right in itself and may not work here."""

from __future__ import annotations

from pathlib import Path

from upstreamd.config import doubts, parse


def test_a_directory_of_targets_that_is_not_there_is_a_doubt(tmp_path: Path) -> None:
    """A mistyped path is named; patterns and files that may come later are not."""
    (tmp_path / "targets").mkdir()
    config = parse(
        f"[services.app]\noutput = '{tmp_path}/upstream.conf'\n[nginx]\nvalidate = false\nconfig = '{tmp_path}'\n"
        f"[services.app.file]\npaths = ['{tmp_path}/targets/*.json', '{tmp_path}/*/a.json', '{tmp_path}/tragets/*']\n",
    )
    (found,) = doubts(config, {})
    assert found.startswith(f'services.app.file.paths = "{tmp_path}/tragets/*": its directory does not exist here')


def test_a_key_that_the_layout_does_not_write_is_a_doubt(tmp_path: Path) -> None:
    """With layout "servers" method, keepalive and zone are for the operator to write; with "upstream" they are ours."""
    text = f"[nginx]\nvalidate = false\nconfig = '{tmp_path}'\n[services.app]\noutput = '{tmp_path}/upstream.conf'\n"
    keys = 'method = "ip_hash"\nkeepalive = 0\nzone = "64k"\n'
    source = f"[services.app.file]\npaths = ['{tmp_path}/*.json']\n"
    found = doubts(parse(text + keys + source), {})
    assert [each.split(":")[0] for each in found] == [
        'services.app.method = "ip_hash"',
        "services.app.keepalive = 0",
        'services.app.zone = "64k"',
    ]
    assert doubts(parse(f'{text}{keys}layout = "upstream"\n{source}'), {}) == ()


def test_a_variable_that_names_the_token_file_is_none(tmp_path: Path) -> None:
    """Commands read UPSTREAMD_TOKEN_FILE, so nobody is told that it is read by none."""
    text = f"[nginx]\nvalidate = false\nconfig = '{tmp_path}'\n[services.app]\noutput = '{tmp_path}/upstream.conf'\n"
    config = parse(f"{text}[services.app.file]\npaths = ['{tmp_path}/*.json']\n")
    assert doubts(config, {"UPSTREAMD_TOKEN_FILE": "/run/token"}) == ()
