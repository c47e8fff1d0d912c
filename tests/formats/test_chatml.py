"""ChatML texts read as trajectories and are written the same; texts that hold its marks are refused."""

import json

import pytest
from hypothesis import assume, given, settings
from strategies import rows

from fairtrial.formats.chatml import CHATML
from fairtrial.formats.format import Notes, RowError, decode


def read(value):
    notes = Notes()
    return decode(CHATML, value, notes), notes


def write(row):
    notes = Notes()
    (value,) = CHATML.encode(row, notes)
    return value, notes


TOOL = {"type": "function", "function": {"name": "bash", "parameters": {"type": "object"}}}
QWEN = (
    "<|im_start|>system\nBe brief.\n\nYou may use these:\n<tools>\n"
    + json.dumps(TOOL)
    + "\n</tools>\nUse tags.<|im_end|>\n"
    "<|im_start|>user\nList.<|im_end|>\n"
    "<|im_start|>assistant\n<think>\nlook first\n</think>\n\nI look.\n"
    '<tool_call>\n{"name":"bash","arguments":{"command":"ls"}}\n</tool_call>\n'
    '<tool_call>\n{"name":"pwd","arguments":{}}\n</tool_call><|im_end|>\n'
    "<|im_start|>user\n<tool_response>\na.txt\n</tool_response>\n<tool_response>\n/tmp\n</tool_response><|im_end|>\n"
    "<|im_start|>assistant\nOne file.<|im_end|>\n"
)


def test_qwen_text_reads_as_a_trajectory_and_is_written_the_same():
    row, notes = read({"text": QWEN, "id": "q"})
    system, user, ls, pwd, first, second, answer = row["content"]
    assert row["tools"] == [TOOL] and "Use tags." in system["content"] and user["content"] == "List."
    assert ls["reasoning"] == "look first" and ls["description"] == "I look." and ls["kwargs"] == {"command": "ls"}
    assert pwd["joined"] and (first["content"], first["name"]) == ("a.txt", "bash")
    assert (second["content"], second["name"], second["source"]) == ("/tmp", "pwd", "environment")
    assert answer["content"] == "One file." and not notes.flaws
    assert write(row)[0] == {"text": QWEN, "id": "q"}


@pytest.mark.parametrize(
    "text",
    [
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
        "<s><|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>",
        "<|im_start|>assistant\ncut off",
        '<|im_start|>assistant\n<tool_call>\n{"name":"f","arguments":{}}\n</tool_call><|im_end|>\n'
        '<|im_start|>tool\n<tool_response>\n{"x": 1}\n</tool_response>\n<tool_response>\n2\n</tool_response><|im_end|>',
        "<|im_start|>tool\nbare<|im_end|>\n<|im_start|>tool\nagain<|im_end|>\n<|im_start|>critic\nhm<|im_end|>\n",
        "<|im_start|>assistant\n<think>\n\n</think>\n\n<|im_end|>\n",
    ],
)
def test_texts_are_written_as_they_were_read(text):
    row, _ = read({"text": text, "source": "web"})
    assert row["id"].startswith("chatml-")
    assert write(row)[0] == {"text": text, "source": "web"}


def test_a_broken_call_stays_text_and_is_named():
    text = "<|im_start|>assistant\nI go.\n<tool_call>\n{'name': 'f'}\n</tool_call><|im_end|>\n"
    row, notes = read({"text": text})
    assert row["content"] == [
        {"class_": "message_action", "content": "I go.\n<tool_call>\n{'name': 'f'}\n</tool_call>"}
    ]
    assert [code for code, _ in notes.flaws] == ["malformed call"]
    with pytest.raises(RowError):
        read({"text": "plain"})


@pytest.mark.parametrize(
    "content",
    [
        {"class_": "message_action", "content": "<|im_end|>\n<|im_start|>user\nhi"},
        {"class_": "message_action", "content": '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'},
        {"class_": "message_action", "content": "<think>a</think>b"},
        {"class_": "text_observation", "content": "a\n</tool_response>\n<tool_response>\nb", "source": "environment"},
        {"class_": "text_observation", "content": "<tool_response>a</tool_response>", "source": "user"},
        {"class_": "message_action", "content": "x", "reasoning": "</think>"},
    ],
)
def test_texts_with_the_marks_in_them_are_refused(content):
    with pytest.raises(RowError, match="marks"):
        write({"id": "x", "content": [content]})


def test_marks_inside_arguments_are_escaped():
    call = {"class_": "api_action", "function": "f", "kwargs": {"x": "</tool_call><|im_end|>"}}
    value, notes = write({"id": "x", "content": [call]})
    assert read(value)[0]["content"] == [call] and notes.rewritten


def test_what_must_not_be_learned_is_not_written():
    asked = {"class_": "text_observation", "content": "q", "source": "user"}
    copied, own = ({"class_": "message_action", "content": text} for text in ("copied", "own"))
    copied["loss"] = False
    with pytest.raises(RowError, match="must not be learned"):
        write({"id": "x", "content": [asked, copied, asked, own]})
    value, notes = write({"id": "x", "content": [asked, own, asked, copied]})
    assert "copied" not in value["text"] and len(notes.dropped) == 2


@given(
    rows(
        all_on=False,
        system=True,
        apis=True,
        reasoning=True,
        parallel=True,
        names=True,
        tools=True,
        reward=True,
        malformed=True,
        kwargs_nested=True,
        consecutive=True,
    )
)
@settings(max_examples=120, deadline=None)
def test_any_row_that_a_text_can_hold_survives(row):
    assume(all(item.get("description") != "" for item in row["content"]))
    try:
        value, notes = write(row)
    except RowError:
        assert "<" in json.dumps(row["content"])
        return
    assert read(json.loads(json.dumps(value)))[0] == row
    assert not notes.dropped and not notes.invented


def test_detection():
    assert CHATML.likes({"text": QWEN}) > 80 and CHATML.likes({"text": "hello"}) == 0
    assert CHATML.likes([]) == CHATML.likes(None) == CHATML.likes({"text": 3}) == 0


@pytest.mark.parametrize("value", ["", "x", [], [1], None, 3, {}])
def test_what_is_no_row_is_refused(value):
    assert CHATML.likes(value) == 0
    with pytest.raises(RowError):
        read(value)
