"""What is printed reads back: Python by Python, shell words by bash, calls by the harnesses' own rules."""

import ast
import re
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import json_values

from fairtrial.formats.format import RowError
from fairtrial.formats.sft.printing import ansi_c, block_literal, documentation, expression, literal, xml_call

texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.lists(
        st.sampled_from(["'", '"', '"""', "\\", "\n", "\r\n", "$x", "`ls`", "!", "a", "\\n", "\t"]), max_size=8
    ).map("".join),
)


@given(texts)
def test_literals_evaluate_to_the_text(text):
    assert ast.literal_eval(literal(text)) == text
    assert ast.literal_eval(block_literal(text)) == text


@given(json_values)
def test_literals_evaluate_to_the_value(value):
    assert ast.literal_eval(literal(value)) == value


@given(st.dictionaries(st.sampled_from(["path", "text", "n"]), json_values, max_size=3))
def test_a_printed_call_has_its_arguments(kwargs):
    call = ast.parse(expression("search", kwargs), mode="eval").body
    assert {word.arg: ast.literal_eval(word.value) for word in call.keywords} == kwargs


@settings(max_examples=40, deadline=None)
@given(st.lists(texts.filter(lambda text: "\x00" not in text), min_size=1, max_size=20))
def test_bash_reads_shell_words_as_the_same_bytes(codes):
    script = "printf '%s\\0' " + " ".join(map(ansi_c, codes))
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True, env={"LC_ALL": "C"})
    assert done.stdout.split(b"\x00")[:-1] == [code.encode() for code in codes]


def test_a_shell_word_cannot_hold_nul():
    with pytest.raises(RowError, match="NUL"):
        ansi_c("a\x00b")


def _read(text):
    """As OpenHands 0.30 and SWE-agent 1.1 find a call and its parameters."""
    call = re.search(r"<function=([^>]+)>\n(.*?)</function>", text, re.DOTALL)
    found = re.findall(r"<parameter=([^>]+)>(.*?)</parameter>", call[2], re.DOTALL)
    return call[1], {name: value.removeprefix("\n").removesuffix("\n") for name, value in found}


@given(st.dictionaries(st.sampled_from(["command", "path", "new_str"]), texts | st.just("<parameter=x>\n")))
def test_a_call_reads_back(parameters):
    assert _read(xml_call("str_replace_editor", parameters)) == ("str_replace_editor", parameters)


@pytest.mark.parametrize("value", ["echo '</parameter>'", "x</function>y"])
def test_a_value_that_would_end_its_call_is_refused(value):
    with pytest.raises(RowError, match="stop reading"):
        xml_call("bash", {"command": value})


def test_values_that_are_no_text_are_printed_as_json():
    text = xml_call("str_replace_editor", {"view_range": [1, -1], "insert_line": 3, "is_input": True, "new_str": "1"})
    assert _read(text)[1] == {"view_range": "[1, -1]", "insert_line": "3", "is_input": "true", "new_str": "1"}


def test_functions_are_documented_with_signature_and_description():
    tool = {
        "type": "function",
        "function": {
            "name": "go",
            "description": "Goes there.",
            "parameters": {
                "type": "object",
                "properties": {
                    "place": {"type": "string", "description": "where to"},
                    "fast": {"type": "boolean", "default": False},
                },
                "required": ["place"],
            },
        },
    }
    text = documentation([tool], "bash")
    assert "go(place: str, fast: bool = False)\n    Goes there.\n    place: where to" in text
    assert documentation([], "bash") == ""
