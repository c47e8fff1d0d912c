"""ShareGPT rows in their spellings; what LLaMA-Factory would leave out without a word is refused with one."""

import json

import pytest
from casefiles import case
from hypothesis import given, settings
from strategies import rows

from fairtrial.formats.format import Notes, RowError, decode
from fairtrial.formats.sharegpt import LLAMA_FACTORY, SHAREGPT


def read(value):
    notes = Notes()
    return decode(SHAREGPT, value, notes), notes


def write(row, format=SHAREGPT):
    notes = Notes()
    (value,) = format.encode(row, notes)
    return value, notes


TOOL = {"type": "function", "function": {"name": "ls", "parameters": {"type": "object", "properties": {}}}}
ROW = {
    "id": "s",
    "system": "Be brief.",
    "tools": json.dumps([TOOL], separators=(",", ":")),
    "conversations": [
        {"from": "human", "value": "List."},
        {"from": "function_call", "value": '{"name":"ls","arguments":{"path":"/"}}'},
        {"from": "observation", "value": "a"},
        {
            "from": "function_call",
            "value": 'Again.<tool_call>[{"name":"ls","arguments":{}},{"name":"pwd","arguments":{}}]</tool_call>',
        },
        {"from": "observation", "value": "b"},
        {"from": "observation", "value": "c"},
        {"from": "gpt", "value": "<think>\nhm\n</think>\n\nDone."},
    ],
}


def test_calls_results_and_thoughts_are_read_and_written_the_same():
    row, notes = read(ROW)
    system, user, one, a, two, pwd, b, c, answer = row["content"]
    assert system["source"] == "system" and user["source"] == "user" and row["tools"] == [TOOL]
    assert one["kwargs"] == {"path": "/"} and a["name"] == "ls" and a["source"] == "environment"
    assert two["description"] == "Again." and pwd["joined"] and (b["name"], c["name"]) == ("ls", "pwd")
    assert answer["content"] == "Done." and answer["reasoning"] == "hm" and not notes.flaws
    assert write(row)[0] == ROW


@pytest.mark.parametrize(
    "turns",
    [
        [{"from": "user", "value": "a", "lang": "en"}, {"from": "chatgpt", "value": "b", "weight": 0}],
        [{"from": "system", "value": "s"}, {"from": "human", "value": "h"}, {"from": "tool", "value": "t"}],
        [{"from": "narrator", "value": "n"}, {"from": "gpt", "value": None}, {"from": "gpt", "value": {"a": 1}}],
        [{"from": "function_call", "value": "{ls -la"}, {"from": "gpt", "value": "<function=ls></function>"}],
    ],
)
def test_spellings_and_odd_turns_are_written_as_they_were_read(turns):
    value = {"conversations": turns, "score": 0.5, "tools": ""}
    assert write(read(value)[0])[0] == value


def test_calls_in_texts_stay_text_and_broken_calls_are_named():
    turns = [{"from": "gpt", "value": "<function=ls></function>"}, {"from": "function_call", "value": "{ls"}]
    row, notes = read({"conversations": turns})
    assert [item["class_"] for item in row["content"]] == ["message_action"] * 2
    assert [code for code, _ in notes.flaws] == ["malformed call"]
    with pytest.raises(RowError):
        read({"conversations": [{"role": "user", "content": "x"}]})


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
        loss=True,
    )
)
@settings(max_examples=120, deadline=None)
def test_any_row_that_sharegpt_can_hold_survives(row):
    try:
        value, notes = write(row)
    except RowError:
        assert "<" in json.dumps(row["content"])
        return
    assert read(json.loads(json.dumps(value)))[0] == row
    assert not notes.dropped and not notes.invented


def test_llama_factory_gets_alternating_turns_and_its_dataset_info():
    row, _ = read(ROW)
    value, notes = write(row, LLAMA_FACTORY)
    assert value["system"] == "Be brief." and json.loads(value["tools"]) == [TOOL]
    speakers = [turn["from"] for turn in value["conversations"]]
    assert speakers == ["human", "function_call", "observation", "function_call", "observation", "gpt"]
    assert value["conversations"][4]["value"] == "b\n</tool_response>\n<tool_response>\nc" and notes.rewritten
    info = json.loads(LLAMA_FACTORY.beside("mix.jsonl")["dataset_info.json"])["mix"]
    assert info["file_name"] == "mix.jsonl" and info["formatting"] == "sharegpt"
    assert set(info["columns"].values()) <= set(value)
    assert set(speakers) <= set(info["tags"].values())


def asked(text="q"):
    return {"class_": "text_observation", "content": text, "source": "user"}


def said(text="a", **more):
    return {"class_": "message_action", "content": text, **more}


def result(text="r"):
    return {"class_": "text_observation", "content": text, "source": "environment"}


def called(**more):
    return {"class_": "api_action", "function": "f", "kwargs": {}, **more}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([said()], "the agent speaks first"),
        ([asked(), said(), said()], "two responses in a row"),
        ([asked(), called(), result(), asked(), said()], "a user turn follows a tool turn"),
        ([asked(), said(), {**asked(), "source": "system"}, said()], "system message inside"),
        ([asked()], "nothing to learn"),
        ([asked(), said(loss=False), asked(), said()], "must not be learned"),
        ([asked(), called(malformed="{")], "malformed"),
        ([asked(), called(description="<tool_call>")], "marks"),
    ],
)
def test_what_llama_factory_would_leave_out_is_refused_with_the_reason(content, reason):
    with pytest.raises(RowError, match=reason):
        write({"id": "x", "content": content}, LLAMA_FACTORY)


def test_what_comes_after_the_last_response_to_learn_from_is_cut_off():
    content = [asked("1"), asked("2"), called(), result("3"), said("4", loss=False)]
    value, notes = write({"id": "x", "content": content}, LLAMA_FACTORY)
    assert [turn["value"] for turn in value["conversations"]] == ["1\n\n2", '{"name":"f","arguments":{}}']
    assert [text for _, text in notes.dropped] == ["3", "4"]


@given(
    rows(all_on=False, system=True, apis=True, reasoning=True, parallel=True, call_ids=True, shuffled=True, loss=True)
)
@settings(max_examples=100, deadline=None)
def test_every_row_that_is_written_is_one_that_llama_factory_takes(row):
    try:
        value, _ = write(row, LLAMA_FACTORY)
    except RowError:
        return
    speakers = [turn["from"] for turn in value["conversations"]]
    assert len(speakers) % 2 == 0 and set(value) == {"id", "conversations", "system", "tools"}
    assert set(speakers[::2]) <= {"human", "observation"} and set(speakers[1::2]) <= {"gpt", "function_call"}
    for turn in value["conversations"]:
        if turn["from"] == "function_call":
            text = turn["value"].partition("</think>\n\n")[2] or turn["value"]
            calls = json.loads(text.partition("<tool_call>")[2].removesuffix("</tool_call>") or text)
            assert all({"name", "arguments"} == set(call) for call in (calls if isinstance(calls, list) else [calls]))


def test_results_go_in_the_order_of_their_calls():
    content = [asked(), called(call_id="a"), called(call_id="b", joined=True)]
    content += [{**result("of b"), "call_id": "b"}, {**result("of a"), "call_id": "a"}, said()]
    value, _ = write({"id": "x", "content": content})
    assert [turn["value"] for turn in value["conversations"][2:4]] == ["of a", "of b"]


def test_published_rows_are_written_as_they_were_read():
    for name in ("swe-smith", "code_feedback", "nebius_swe_agent"):
        for value in case(f"adp/{name}/sample_sft.json"):
            row, notes = read(value)
            assert write(row)[0] == value and not notes.flaws


def test_detection():
    assert SHAREGPT.likes(ROW) > 80
    assert SHAREGPT.likes({"conversations": [{"role": "user", "content": "x"}]}) == 0
    assert SHAREGPT.likes({"conversations": [3]}) == SHAREGPT.likes(None) == 0


@pytest.mark.parametrize("value", ["", "x", [], [1], None, 3, {}])
def test_what_is_no_row_is_refused(value):
    assert SHAREGPT.likes(value) == 0
    with pytest.raises(RowError):
        read(value)
