"""The shadow of the operator's configuration: only what leads to the output changes, and nothing is left behind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.apply.documents import made, names
from upstreamd.apply.candidate import Candidate
from upstreamd.apply.configuration import Configuration
from upstreamd.apply.files import OutputFile
from upstreamd.errors import ApplyError


class Tree:
    """A configuration on disk, the output staged, and its candidate."""

    def __init__(
        self, root: Path, main: str, output: str = "upstream.conf", files: dict[str, str] | None = None
    ) -> None:
        self.root = root
        for name, text in {"nginx.conf": main, **(files or {})}.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        self.output = OutputFile(made(root / output, 3000))
        self.output.stage()
        self.candidate = Candidate(Configuration(str(root / "nginx.conf")), [self.output])

    def written(self) -> str:
        self.candidate.write()
        return Path(self.candidate.path).read_text()

    def shadow_of(self, path: str) -> str:
        """The text of the shadow that the main shadow names; `path` as nginx's words would name it."""
        (shadow,) = [word for word in self.written().replace(";", " ").replace('"', " ").split() if "shadow" in word]
        assert self.candidate.in_their_names(shadow) == str(self.root / path)
        return Path(shadow).read_text()


def test_only_the_include_of_the_output_and_the_pid_file_change(tmp_path: Path) -> None:
    """Everything else, comments and spacing too, stays byte for byte, so line numbers in nginx's words are right."""
    main = "# mine\npid  /run/nginx.pid ;\nhttp {\n\tinclude  mime.types;\n\tupstream a { include upstream.conf; }\n}\n"
    tree = Tree(tmp_path, main)
    shadow = tree.written()
    assert shadow.split()[3] == "/dev/null"
    assert shadow.replace("/dev/null", "/run/nginx.pid").replace(tree.output.staged, "upstream.conf") == main


def test_a_configuration_without_pid_gets_one_that_leaves_nothing(tmp_path: Path) -> None:
    """The pid file that nginx was built with is not opened or created by the test; no line moves."""
    tree = Tree(tmp_path, "events {}\nhttp { upstream a { include upstream.conf; } }\n")
    first_line = tree.written().splitlines()[0]
    assert first_line.startswith("pid /dev/null; ")
    assert first_line.endswith("; events {}")


def test_a_pid_in_an_included_file_is_replaced_there(tmp_path: Path) -> None:
    """A second `pid` would be refused as a duplicate, so the included file gets a shadow."""
    main = "include main.d/*.conf;\nhttp { include upstream.conf; }"
    tree = Tree(tmp_path, main, files={"main.d/pid.conf": "pid /p;"})
    assert "pid /p" not in tree.shadow_of("main.d/pid.conf")


def test_the_chain_of_includes_is_followed_through_globs(tmp_path: Path) -> None:
    """A glob whose files lead to the output becomes the list of its files, in nginx's order, one of them a shadow."""
    files = {
        "conf.d/a.conf": "# a",
        "conf.d/b.conf": "upstream x { include upstream.conf; }",
        "conf.d/c.conf": "# c",
    }
    tree = Tree(tmp_path, "pid p; http { include conf.d/*.conf; }", files=files)
    shadow = tree.shadow_of("conf.d/b.conf")
    assert shadow == f"upstream x {{ include {tree.output.staged}; }}"
    main = Path(tree.candidate.path).read_text()
    first, second, third = re.findall(r"include (\S+);", main)
    assert (first, third) == (f"{tmp_path}/conf.d/a.conf", f"{tmp_path}/conf.d/c.conf")
    assert second.endswith(".shadow")


def test_an_output_that_does_not_exist_yet_counts_where_a_glob_will_match_it(tmp_path: Path) -> None:
    """The first file in an empty conf.d is tested as it will be read."""
    (tmp_path / "conf.d").mkdir()
    tree = Tree(tmp_path, "pid p; http { include conf.d/*.conf; }", "conf.d/app.conf")
    assert f"include {tree.output.staged};" in tree.written()
    assert tree.candidate.missing == []


def test_an_output_reached_through_a_link_is_recognised(tmp_path: Path) -> None:
    """An include that names the output by another path to the same file is swapped too."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "upstream.conf").write_text("old")
    (tmp_path / "link").symlink_to("real")
    tree = Tree(tmp_path, "http { include link/upstream.conf; }", "real/upstream.conf")
    assert f"include {tree.output.staged};" in tree.written()


def test_an_output_that_is_never_included_is_missing(tmp_path: Path) -> None:
    """The candidate knows which output no include leads to."""
    tree = Tree(tmp_path, "http { include other.conf; include nothing/*.conf; }")
    tree.candidate.write()
    assert tree.candidate.missing == [tree.output]


def test_shadows_are_hidden_private_and_gone_after_remove(tmp_path: Path) -> None:
    """No glob of the operator's matches a shadow, nobody else may read it, and `remove` leaves nothing."""
    tree = Tree(tmp_path, "http { include sites/*; include up*.conf; include upstream.conf; }")
    before = names(tmp_path)
    tree.candidate.write()
    shadows = [tmp_path / name for name in set(names(tmp_path)) - set(before)]
    assert shadows
    for shadow in shadows:
        assert shadow.name.startswith(".")
        assert not shadow.name.endswith(".conf")
        assert shadow.stat().st_mode & 0o777 == 0o600
    tree.candidate.remove()
    assert names(tmp_path) == before


def test_bytes_that_are_not_utf8_survive(tmp_path: Path) -> None:
    """A Latin-1 comment in the operator's file reaches the shadow unchanged."""
    tree = Tree(tmp_path, "")
    (tmp_path / "nginx.conf").write_bytes(b"# caf\xe9\nhttp { include upstream.conf; }\r\n")
    tree.candidate.write()
    shadow = Path(tree.candidate.path).read_bytes()
    assert b"# caf\xe9\n" in shadow
    assert shadow.endswith(b"}\r\n")


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    """What was read once is kept only while the file on disk stays the same."""
    tree = Tree(tmp_path, "http { }")
    tree.candidate.write()
    assert tree.candidate.missing
    configuration = tree.candidate._configuration
    (tmp_path / "nginx.conf").write_text("http { include upstream.conf; }")
    again = Candidate(configuration, [tree.output])
    again.write()
    assert not again.missing


def test_files_that_include_themselves_are_reported(tmp_path: Path) -> None:
    """A circle of includes ends in a sentence, not in a hang."""
    tree = Tree(tmp_path, "include nginx.conf;")
    with pytest.raises(ApplyError, match="include itself"):
        tree.candidate.write()


def test_a_main_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The sentence names the key to correct."""
    tree = Tree(tmp_path, "")
    (tmp_path / "nginx.conf").unlink()
    with pytest.raises(ApplyError, match=r"nginx\.config .*nginx\.conf cannot be read"):
        tree.candidate.write()
