"""Reading an nginx configuration for where its directives stand."""

from __future__ import annotations

from pathlib import Path

import crossplane
import pytest

from upstreamd.apply.syntax import directives, quoted

CONFIGURATION = r"""# include commented.conf;
user "www data"; pid /run/nginx.pid;
include modules/*.conf;   include 'a file'  ;
events{}
http {
    log_format main '$remote_addr "$request" {not a block; include no.conf;}';
    map $uri ${x}y { default 1; ~^/a\;b "include no.conf;"; }
    upstream app { include upstream.conf; # include no.conf;
        keepalive 32; }
    server { if ($host = "a\"b") { return 200 "}"; } include
        two-lines.conf
        ; }
}
"""


def found(text: str, name: str = "include") -> list[tuple[list[str], int]]:
    return [([a.value for a in d.arguments], d.depth) for d in directives(text) if d.name == name]


def test_includes_are_found_where_nginx_finds_them_and_nowhere_else() -> None:
    """Comments, quoted text and map values that look like includes are none; depth counts the blocks around."""
    assert found(CONFIGURATION) == [
        (["modules/*.conf"], 0),
        (["a file"], 0),
        (["upstream.conf"], 2),
        (["two-lines.conf"], 2),
    ]
    assert found(CONFIGURATION, "pid") == [(["/run/nginx.pid"], 0)]


def test_the_words_are_those_that_crossplane_reads(tmp_path: Path) -> None:
    """Our reader and crossplane's cut the same text into the same directives and arguments, escapes aside."""
    file = tmp_path / "nginx.conf"
    file.write_text(CONFIGURATION)
    theirs: list[list[str]] = [[]]
    for token, _, is_quoted in crossplane.lex(str(file)):
        if not is_quoted and token.startswith("#"):
            continue
        if not is_quoted and token in ("{", "}", ";"):
            theirs.append([])
        else:
            theirs[-1].append(token)
    ours = [[d.name, *(a.value for a in d.arguments)] for d in directives(CONFIGURATION)]
    assert [[word.replace("\\", "") for word in each] for each in ours] == [
        [word.replace("\\", "") for word in each] for each in theirs if each
    ]


def test_a_span_covers_the_argument_as_it_was_written() -> None:
    """Replacing the span replaces the argument, quotes and all, and nothing else."""
    text = "include \"a b.conf\" ; include 'c'; # end"
    first, second = directives(text)
    spans = [text[d.arguments[0].start : d.arguments[0].end] for d in (first, second)]
    assert spans == ['"a b.conf"', "'c'"]


def test_lua_blocks_are_passed_over_whole() -> None:
    """Braces in Lua strings and comments do not end the block, and nothing in it counts as a directive."""
    text = """
    content_by_lua_block {
        -- a comment with } and include no.conf;
        local t = { "}", '}', [[ } ]] }
        include no.conf;
    }
    include yes.conf;
    """
    assert found(text) == [(["yes.conf"], 0)]


@pytest.mark.parametrize("text", ['include "open', "include a", "}}}; include a.conf", "\\", "{{{{", "include 'a\\"])
def test_malformed_text_ends_without_an_error(text: str) -> None:
    """What is wrong with the operator's text is for nginx to say; reading it neither raises nor hangs."""
    list(directives(text))


@pytest.mark.parametrize("name", ["/etc/nginx/a.conf", "/a b/c.conf", '/a"b\\c;{}#$x.conf', "/ünï.conf", "/a'b"])
def test_a_quoted_path_is_read_back_as_itself(name: str) -> None:
    """Whatever characters a path has, nginx reads the very same path in the shadow."""
    (directive,) = directives(f"include {quoted(name)};")
    assert [argument.value for argument in directive.arguments] == [name]
