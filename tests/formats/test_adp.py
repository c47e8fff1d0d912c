"""ADP v1 and 1.x: the published files come back as they are; canonical rows survive as far as each can hold them."""

import copy
import json
import warnings

import pytest
from casefiles import CASES, case
from hypothesis import given, settings
from strategies import damaged, json_values, rows

from fairtrial.formats.adp import ADP, ADP_V1
from fairtrial.formats.format import Notes, RowError, decode
from fairtrial.formats.languages import normal_language

PUBLISHED = sorted(path.parent.name for path in (CASES / "adp").glob("*/sample_std.json")) or ["swe-smith"]


def read(format, value, notes=None):
    row = decode(format, value, notes or Notes())
    assert isinstance(row, dict)
    return row


def written(format, row, notes=None):
    [value] = format.encode(row, notes or Notes())
    return json.loads(json.dumps(value))


def without_prints(row):
    """The row without the fragments that v1 keeps of printed arguments."""
    row = copy.deepcopy(row)
    for item in row["content"]:
        item.get("extra", {}).pop("adp-v1", None)
        if item.get("extra") == {}:
            del item["extra"]
    return row


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_file_is_written_as_it_was_read(name):
    for value in case(f"adp/{name}/sample_std.json"):
        notes = Notes()
        original = json.dumps(value)
        row = read(ADP_V1, value, notes)
        assert json.loads(original) == written(ADP_V1, row, notes)
        assert not notes.flaws
        assert ADP_V1.likes(value) > max(90, ADP.likes(value))


def test_arguments_of_calls_that_came_as_code_become_values():
    [first, *_] = case("adp/nnetnav-live/sample_std.json")
    row = read(ADP_V1, first)
    kwargs = next(item["kwargs"] for item in row["content"] if item.get("function") == "type")
    assert kwargs["bid"].isdigit()
    assert kwargs["press_enter_after"] in (0, 1)
    plain = read(ADP_V1, case("adp/x_swe-play/sample_std.json")[0])
    ranges = [i["kwargs"]["view_range"] for i in plain["content"] if "view_range" in i.get("kwargs", {})]
    assert all(isinstance(given, str) for given in ranges), "arguments that came as JSON are values already"


def v1(*items, **root):
    return {"id": "t", "content": list(items), "details": {}} | root


def call(function="f", description=None, **kwargs):
    return {"class_": "api_action", "function": function, "kwargs": kwargs, "description": description}


def seen(content="ok", source="environment", name=None):
    return {"class_": "text_observation", "content": content, "name": name, "source": source}


@pytest.mark.parametrize(
    ("printed", "value"),
    [
        ('"149"', "149"),
        ("'it is'", "it is"),
        ('"two\nlines of "text""', 'two\nlines of "text"'),
        ("536", 536),
        ("True", True),
        ("None", None),
        ("['a', 'b']", ["a", "b"]),
        ("(1, 2)", [1, 2]),
        ('""', ""),
    ],
)
def test_printed_arguments(printed, value):
    source = v1(call(bid='"1"', x=printed), seen())
    row = read(ADP_V1, source)
    assert row["content"][0]["kwargs"] == {"bid": "1", "x": value}
    assert written(ADP_V1, row) == source


def test_escapes_are_read_where_every_print_is_escaped_and_kept_where_one_shows_that_none_is():
    escaped = read(ADP_V1, v1(call(a=r'"one\ntwo"', b=r'"say \"hi\""')))
    assert escaped["content"][0]["kwargs"] == {"a": "one\ntwo", "b": 'say "hi"'}
    wrapped = read(ADP_V1, v1(call(a=r'"one\ntwo"', b='"say "hi""')))
    assert wrapped["content"][0]["kwargs"] == {"a": r"one\ntwo", "b": 'say "hi"'}


def test_one_plain_text_argument_means_that_none_is_printed():
    row = read(ADP_V1, v1(call(command='"quoted"', path="/tmp/x")))
    assert row["content"][0]["kwargs"] == {"command": '"quoted"', "path": "/tmp/x"}
    assert "extra" not in row["content"][0]


def test_reading_prints_emits_no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(ADP_V1, v1(call(a='"x"', b=r"['\d']")))
        read(ADP_V1, v1(call(a='"x"', b="(1)(2)")))


def test_neighbouring_calls_are_one_response():
    row = read(ADP_V1, v1(seen("do", "user"), call(a=1), call(a=2), seen("1"), seen("2"), call(a=3), seen("3")))
    assert [item.get("joined", False) for item in row["content"]] == [False, False, True, False, False, False, False]


def test_system_text_comes_back_from_v1():
    row = read(ADP_V1, v1(seen("Be brief.", name="system"), seen("More.", name="system/developer"), seen("hi", "user")))
    assert [(item["source"], item.get("name")) for item in row["content"]] == [
        ("system", None),
        ("system", "developer"),
        ("user", None),
    ]


def test_what_v1_cannot_hold_is_told():
    row = {
        "id": "t",
        "content": [
            {"class_": "api_action", "function": "f", "kwargs": {}, "reasoning": "hm", "call_id": "c1", "reward": 0.5},
            {"class_": "text_observation", "content": "no", "source": "environment", "call_id": "c1", "is_error": True},
        ],
        "reward": 1.0,
        "details": {"n": 3},
    }
    notes = Notes()
    value = written(ADP_V1, row, notes)
    assert value["content"][0]["description"] == "hm"
    assert value["details"] == {"n": "3"}
    told = " ".join(reason for reason, _ in notes.dropped)
    assert all(field in told for field in ("call_id", "reward", "is_error"))
    assert {text for _, text in notes.rewritten} == {"hm", "3"}


def test_results_in_another_order_are_put_in_call_order():
    row = {
        "id": "t",
        "content": [
            {"class_": "api_action", "function": "f", "kwargs": {}, "call_id": "a"},
            {"class_": "api_action", "function": "g", "kwargs": {}, "call_id": "b", "joined": True},
            {"class_": "text_observation", "content": "of g", "source": "environment", "call_id": "b"},
            {"class_": "text_observation", "content": "of f", "source": "environment", "call_id": "a"},
        ],
    }
    notes = Notes()
    assert [item.get("content") for item in written(ADP_V1, row, notes)["content"]][2:] == ["of f", "of g"]
    assert notes.rewritten


@pytest.mark.parametrize(
    "value",
    [
        [],
        "text",
        {"id": "t"},
        v1({"content": "x", "source": "user"}),
        v1({"class_": "MessageAction", "content": "x"}),
        v1({"class_": ["api_action"]}),
        v1({"class_": "api_action", "function": "f", "kwargs": "x"}),
        v1({"class_": "text_observation", "content": "x", "source": "assistant"}),
        v1(5),
        {"id": 5, "content": [], "details": {}},
    ],
)
@pytest.mark.parametrize("format", [ADP_V1, ADP])
def test_a_value_of_another_shape_is_a_row_error(format, value):
    with pytest.raises(RowError) as error:
        decode(format, value, Notes())
    assert "\n" not in str(error.value)
    assert isinstance(format.likes(value), int)


def test_unknown_fields_come_back():
    source = v1({**seen(), "tags": [1]}, {"class_": "message_action", "content": "x"}, split="train")
    row = read(ADP_V1, source)
    assert written(ADP_V1, row) == source


V1_HOLDS = {
    "call_ids": False,
    "reasoning": False,
    "errors": False,
    "timestamps": False,
    "model_calls": False,
    "rewards": False,
    "reward": False,
    "tools": False,
    "malformed": False,
    "message_descriptions": True,
    "images": False,
}


@settings(max_examples=150)
@given(rows(**V1_HOLDS))
def test_v1_keeps_what_it_can_hold(row):
    notes = Notes()
    assert without_prints(read(ADP_V1, written(ADP_V1, row, notes))) == row
    assert not notes.dropped and not notes.invented


@settings(max_examples=100)
@given(rows())
def test_any_row_is_written_as_v1_and_keeps_its_texts(row):
    value = written(ADP_V1, row)
    again = read(ADP_V1, value)
    assert written(ADP_V1, again) == value
    assert [i.get("content") for i in again["content"]] == [i.get("content") for i in row["content"]]


# 1.x

V1X_HOLDS = {
    "errors": False,
    "timestamps": False,
    "model_calls": False,
    "reward": False,
    "tools": False,
    "malformed": False,
    "unanswered": False,
    "shuffled": True,
    "message_descriptions": True,
    "images": False,
}


@settings(max_examples=150)
@given(rows(**V1X_HOLDS))
def test_1x_keeps_what_it_can_hold(row):
    notes = Notes()
    value = written(ADP, row, notes)
    assert value["schema_version"] == "1.5.0"
    assert read(ADP, value) == row
    assert not notes.dropped and not notes.invented


@settings(max_examples=150)
@given(rows(result_images=True, shuffled=True, consecutive=True) | rows(call_ids=False))
def test_whatever_is_written_as_1x_keeps_its_rules(row):
    value = written(ADP, row)
    notes = Notes()
    again = read(ADP, value, notes)
    assert notes.flaws == []
    assert written(ADP, again) == value


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_v1_files_become_valid_1x(name):
    for source in case(f"adp/{name}/sample_std.json"):
        notes, told = Notes(), Notes()
        value = written(ADP, read(ADP_V1, source), told)
        row = read(ADP, value, notes)
        assert notes.flaws == []
        assert written(ADP, row) == value
        assert ADP.likes(value) > 90 > ADP_V1.likes(value)


def v1x(*items, **root):
    return {"schema_version": "1.5.0", "id": "t", "content": list(items), "details": {}} | root


@pytest.mark.parametrize(
    ("items", "code"),
    [
        ((call(), seen()), "call without id"),
        ((call() | {"tool_call_id": "a"},), "call without result"),
        ((seen() | {"tool_call_id": "a"},), "result without call"),
        (
            (call() | {"tool_call_id": "a"}, seen() | {"tool_call_id": "a"}, seen() | {"tool_call_id": "a"}),
            "second result",
        ),
        (
            (call() | {"tool_call_id": "a"}, call() | {"tool_call_id": "a"}, seen() | {"tool_call_id": "a"}),
            "duplicate call id",
        ),
        (({**seen(), "tags": []},), "unknown field"),
    ],
)
def test_broken_rules_of_1x_are_flaws_and_the_row_is_kept(items, code):
    notes = Notes()
    row = read(ADP, v1x(*items), notes)
    assert code in [told for told, _ in notes.flaws]
    assert len(row["content"]) == len(items)


def test_1x_files_come_back_with_what_they_offer():
    source = v1x(
        seen("do", "user"),
        {"class_": "code_action", "language": "bash", "content": "ls", "description": None, "tool_call_id": "c"},
        seen() | {"tool_call_id": "c", "reward": 0.5},
        {"class_": "message_action", "content": "done", "description": None, "reasoning_content": "so", "reward": None},
        available_custom_tools=["search"],
        available_code_languages=["bash"],
        schema_version="1.4.0",
        details={"n": 1},
    )
    notes = Notes()
    row = read(ADP, source, notes)
    assert notes.flaws == []
    assert row["content"][3]["reasoning"] == "so"
    assert row["content"][2]["reward"] == 0.5
    assert row["tools"][0]["function"]["name"] == "search"
    assert written(ADP, row) == source
    older = {
        "schema_version": "1.2.0",
        "id": "t",
        "content": source["content"][:1],
        "available_apis": ["f"],
        "details": {},
    }
    assert written(ADP, read(ADP, older)) == older


def test_an_unanswered_call_before_a_users_message_gets_an_empty_result():
    row = {
        "id": "t",
        "content": [
            {"class_": "api_action", "function": "f", "kwargs": {}, "call_id": "a"},
            {"class_": "text_observation", "content": "stop", "source": "user"},
        ],
    }
    notes = Notes()
    [_, result, _] = written(ADP, row, notes)["content"]
    assert (result["tool_call_id"], result["content"]) == ("a", "")
    assert notes.invented


@pytest.mark.parametrize(
    ("written_as", "name"),
    [
        ("Py3", "python"),
        ("dockefile", "dockerfile"),
        ("javasript", "javascript"),
        ("sh", "bash"),
        ("Brainfuck", "brainfuck"),
    ],
)
def test_spellings_of_languages(written_as, name):
    assert normal_language(written_as) == name
    assert normal_language(name) == name


@settings(max_examples=200)
@given(damaged(rows(names=False).map(lambda row: written(ADP, row))) | json_values)
def test_a_damaged_value_is_a_row_or_a_row_error(value):
    for format in (ADP_V1, ADP):
        assert 0 <= format.likes(value) <= 100
        try:
            row = decode(format, value, Notes())
        except RowError as error:
            assert "\n" not in str(error)
        else:
            written(format, row)
