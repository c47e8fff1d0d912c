"""Calls as text: what is printed is found again, types follow the declared schema, nothing is evaluated."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairtrial.formats.call_syntax import (
    coerce,
    fences,
    parse_python_call,
    parse_python_calls,
    parse_xml_calls,
    print_xml_call,
)

NAMES = st.text(string.ascii_letters + "_", min_size=1, max_size=8)
VALUES = st.text(max_size=40).filter(lambda value: "</parameter>" not in value)


@settings(max_examples=150)
@given(NAMES, st.dictionaries(NAMES, VALUES, max_size=3), st.booleans(), st.text(string.ascii_letters + " \n"))
def test_a_printed_call_is_found_again_with_its_text(name, parameters, inline, before):
    printed = print_xml_call(name, parameters, inline=inline)
    [call] = parse_xml_calls(before + printed + "\ntail")
    assert (call.before, call.name, call.parameters) == (before, name, parameters)
    assert (before + printed + "\ntail")[slice(*call.span)] == printed


def test_several_calls_and_the_text_between():
    text = "First.\n" + print_xml_call("bash", {"command": "ls"}) + "\nand\n" + print_xml_call("submit", {}) + " end"
    first, second = parse_xml_calls(text)
    assert (first.before, first.name, second.before, second.name) == ("First.\n", "bash", "\nand\n", "submit")
    assert text[second.span[1] :] == " end"


def test_a_value_may_quote_the_tags():
    value = "sed -i 's#</parameter>#x#' a.py  # </function> too"
    [call] = parse_xml_calls(print_xml_call("bash", {"command": value, "timeout": 3}))
    assert call.parameters == {"command": value, "timeout": "3"}


def test_a_block_that_the_server_cut_off_counts_and_a_broken_one_stays_text():
    assert parse_xml_calls("<function=bash>\n<parameter=command>ls</parameter>\n</function")[0].parameters == {
        "command": "ls"
    }
    for text in (
        "Write <function=NAME> to call.",
        "<function=bash>\n<parameter=command>ls\n</function>",
        "<function=bash>junk</function>",
        "<function=bash>\n<parameter=a>1</parameter>\n<parameter=a>2</parameter>\n</function>",
    ):
        assert parse_xml_calls(text) == []


@settings(max_examples=200)
@given(st.text("<function=parmet/>ab\n ", max_size=60))
def test_spans_and_texts_cover_the_source(text):
    at = 0
    for call in parse_xml_calls(text):
        assert text[at : call.span[0]] == call.before
        at = call.span[1]


@pytest.mark.parametrize(
    ("raw", "schema", "value"),
    [
        ("1", "string", "1"),
        ("1", None, "1"),
        ("1", {"type": "string"}, "1"),
        ("true", ["string", "null"], "true"),
        (" 12\n", "integer", 12),
        ("007", "integer", "007"),
        ("1_000", "integer", "1_000"),
        ("1.5", "number", 1.5),
        ("NaN", "number", "NaN"),
        ("True", "boolean", True),
        ("yes", "boolean", "yes"),
        ("[1, 40]", {"type": "array"}, [1, 40]),
        ("['a', 'b']", "array", ["a", "b"]),
        ("__import__('os')", "array", "__import__('os')"),
        ("[1]", "object", "[1]"),
        ("null", {"anyOf": [{"type": "integer"}, {"type": "null"}]}, None),
        ("2", {"enum": ["1", "2"]}, "2"),
    ],
)
def test_a_type_is_the_declared_one(raw, schema, value):
    found = coerce(raw, schema)
    assert found == value and type(found) is type(value)


@given(st.text(string.digits, min_size=1))
def test_digits_stay_text_for_a_string_parameter(digits):
    assert coerce(digits, "string") == digits


def test_python_calls_are_read_not_run():
    assert parse_python_call("click('12', button=\"left\")") == ("click", ["12"], {"button": "left"})
    assert parse_python_call("page.scroll(0, -200.5, [True, None], {'a': (1, +2)})") == (
        "page.scroll",
        [0, -200.5, [True, None], {"a": [1, 2]}],
        {},
    )
    assert [name for name, *_ in parse_python_calls("noop()\nfill('3', 'a\\d')")] == ["noop", "fill"]


@pytest.mark.parametrize(
    "source",
    ["", "x = 1", "f(open('x'))", "f(*a)", "f(**a)", "f(b'x')", "f(1e999)", "f(", "f(1)(2)", "f(x)", "\0", "(" * 999],
)
def test_what_is_no_plain_call_is_refused(source):
    with pytest.raises(ValueError):
        parse_python_call(source)


def test_fences_in_order_with_the_text_around_them():
    text = "Look:\n```bash\nls\n\ncd x\n```\nthen ```python\nx = '``'\n```\n````md\n```inner\n```\n````\nend"
    blocks = fences(text)
    assert [(block.before, block.word, block.body) for block in blocks] == [
        ("Look:\n", "bash", "ls\n\ncd x"),
        ("\nthen ", "python", "x = '``'"),
        ("\n", "md", "```inner\n```"),
    ]
    assert text[blocks[-1].span[1] :] == "\nend"


def test_an_empty_fence_one_closed_within_a_line_and_an_open_one():
    assert fences("```\n```")[0].body == ""
    assert fences("```sh\necho a```b")[0].body == "echo a"
    assert fences("```sh\necho a") == []
    assert fences("no ``` here") == []


@settings(max_examples=200)
@given(st.text("`ab \n", max_size=40))
def test_fences_cover_the_source(text):
    at = 0
    for block in fences(text):
        assert text[at : block.span[0]] == block.before
        assert block.body in text[slice(*block.span)]
        at = block.span[1]
