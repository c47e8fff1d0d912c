import shlex
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairtrial.formats.gates.shell import (
    NotOneCommand,
    ShellSyntaxError,
    argv,
    command_runs_same_code,
    verdict,
)
from fairtrial.formats.sft.printing import ansi_c

CODE = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=60)


@given(CODE)
def test_code_that_is_escaped_arrives(code):
    assert command_runs_same_code(f"python -c {ansi_c(code)}", code)
    assert command_runs_same_code(f"python -c {shlex.quote(code)}", code)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("print(1)", "same"),
        ('print("a")\nprint(2)', "same"),
        ("print('a')", "same program?"),
        ('print("it\'s (x)")', "syntax error"),
        ("print('a b')", "different"),
        (r"print('\n')", "different"),
        (r'print("\n")', "different"),
        ("x = {'a': 1}", "different"),
        ("s.replace(' ', '')", "different"),
        ("# it's", "syntax error"),
    ],
)
def test_code_put_between_quotes_as_it_is(code, expected):
    # quotes around a word without spaces vanish: another program
    expected = "different" if expected == "same program?" else expected
    assert verdict(f"python -c $'{code}'", code) == expected


@pytest.mark.parametrize(
    "command", ["a 'b", 'a "b', "a $'b", "a $(b", "a `b", "a (b)", "a | ", "a && ", "a ;; b", "| a", "a >", "a > | b"]
)
def test_what_the_shell_refuses(command):
    with pytest.raises(ShellSyntaxError):
        argv(command)


@pytest.mark.parametrize("command", ["a | b", "a; b", "a > b", "a $x", 'a "$x"', "a `b`", "a $(b c)", "a\nb", "a & b"])
def test_more_than_words(command):
    with pytest.raises(NotOneCommand):
        argv(command)


def test_words():
    assert argv(r"""python -c 'a b' "c \"d\" \n" e\ f$'\t\x41\102\u263a\q'""") == [
        "python", "-c", "a b", 'c "d" \\n', "e f\tAB\u263a\\q",
    ]  # fmt: skip
    assert argv('a "$" $ # rest') == ["a", "$", "$"]
    assert argv("") == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not here")
@settings(max_examples=60, deadline=None)
@given(st.text("ab '\"\\$#nx41\n\t=,.", max_size=24))
def test_words_are_those_of_bash(tail):
    """Only plain words are handed to bash, where printf shows what it makes of them."""
    command = f"printf '%s\\0' w {tail}"
    refused = subprocess.run(["bash", "-n", "-c", command], capture_output=True).returncode != 0
    try:
        words = argv(command)
    except ShellSyntaxError:
        assert refused
    except NotOneCommand:
        pass
    else:
        assert not refused
        out = subprocess.run(["bash", "-c", f"set -f; {command}"], capture_output=True, check=True).stdout
        assert out.decode().split("\0")[:-1] == words[2:]
