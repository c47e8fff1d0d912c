import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairtrial.core.errors import UserError
from fairtrial.tasks.harbor.dockerfile import assignments, parse_dockerfile, substitute, words
from fairtrial.tasks.harbor.shell import split

quick = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SHELLISH = st.text() | st.text("abRUN COPYFROM \n\\\"'`$(){}<<EOF&|;#=[]*?/.-~!:")


def parse(text):
    return parse_dockerfile(text, where="Dockerfile")


def test_continuations_comments_and_line_numbers():
    found = parse("# syntax\nFROM ubuntu:24.04\n\nRUN apt-get update && \\\n    # a comment\n    echo hi\nWORKDIR /a\n")
    assert [(item.keyword, item.line) for item in found] == [("FROM", 2), ("RUN", 4), ("WORKDIR", 7)]
    assert found[1].text.split() == ["apt-get", "update", "&&", "echo", "hi"]


def test_here_documents_belong_to_their_instruction():
    text = "FROM x\nRUN <<'EOF'\necho $A\nFROM inside\nEOF\nCOPY <<A /a\nbody\nA\n"
    found = parse(text + "RUN cat <<-ONE > /x\n\tone\n\tONE\nUSER root\n")
    assert [item.keyword for item in found] == ["FROM", "RUN", "COPY", "RUN", "USER"]
    assert found[1].heredocs[0].body == "echo $A\nFROM inside\n"
    assert found[1].heredocs[0].literal
    assert found[2].heredocs[0].body == "body\n"
    assert found[3].heredocs[0].body == "one\n"


def test_a_quoted_or_arithmetic_shift_is_no_here_document():
    assert parse("RUN echo '<<EOF' \"<<B\" && cat <<< word\nUSER x\n")[1].keyword == "USER"


def test_an_unclosed_here_document_is_refused_with_its_line():
    with pytest.raises(UserError, match="line 2: the here-document EOF is not closed"):
        parse("FROM x\nRUN <<EOF\nnever\n")


def test_the_escape_directive_and_windows_line_ends():
    found = parse("# escape=`\r\nFROM x\r\nRUN echo a `\r\n  b\r\n")
    assert found[1].text.split() == ["echo", "a", "b"]


def test_variables_and_quotes():
    known = {"A": "1", "EMPTY": ""}
    assert substitute("$A ${A} ${EMPTY:-x} ${A:+y} \\$A $NONE|", known) == "1 1 x y $A |"
    assert words("""a "b $A" 'c $A' d\\ e""", known) == ["a", "b 1", "c $A", "d e"]
    assert assignments('A="x y" B=2 C=$A', known) == {"A": "x y", "B": "2", "C": "1"}
    assert assignments("OLD some value", known) == {"OLD": "some value"}


def test_flags_are_taken_off():
    item = parse("COPY --chown=1:1 --chmod=755 a /b")[0]
    assert item.flags == (("chown", "1:1"), ("chmod", "755"))
    assert item.text == "a /b"


def test_commands_of_a_script():
    script = "set -e; if [ -f a ]; then\n  pip install x # no\nfi\ncurl -L u | sh && "
    script += "A=1 uvx \\\n --with p 'q r' > /dev/null 2>&1\n"
    found = [(command.words, command.nested) for command in split(script) if command.words]
    assert found == [
        (("set", "-e"), False),
        (("[", "-f", "a", "]"), True),
        (("pip", "install", "x"), True),
        (("curl", "-L", "u"), False),
        (("sh",), False),
        (("uvx", "--with", "p", "q r"), False),
    ]


def test_here_documents_and_substitutions_are_no_commands():
    script = "cat <<'EOF' > /x && echo done\ncurl evil | sh\nEOF\nA=$(dpkg --print-architecture) && echo ok\n"
    found = [command.words for command in split(script) if command.words]
    assert found == [("cat",), ("echo", "done"), ("echo", "ok")]


@quick
@given(SHELLISH)
def test_any_text_is_instructions_or_a_user_error(text):
    try:
        for item in parse_dockerfile(text, where="Dockerfile"):
            words(item.text, {})
            assignments(item.text, {})
    except UserError as error:
        assert str(error).startswith("Dockerfile, line ")


@quick
@given(SHELLISH)
def test_splitting_a_script_loses_nothing(text):
    found = split(text)
    assert "".join(command.text + command.after for command in found).strip() == text.strip() or not text.strip()
