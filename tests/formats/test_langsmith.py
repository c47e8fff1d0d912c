"""LangSmith runs, in the shape that LangChain's tracer posts them (langchain-core 1.7.2) and that wrappers do."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairtrial.formats.format import Notes, Numbered, RowError, decode
from fairtrial.formats.langsmith import LANGSMITH

TOLD = ["Be brief.", "Weather in Oslo?", "weather", "rain", "It rains."]
ROOT, NODE, ONE, TOOL, TWO = "r-root", "r-node", "r-one", "r-tool", "r-two"


def lc(kind, /, **fields):
    return {"lc": 1, "type": "constructor", "id": ["langchain", "schema", "messages", kind], "kwargs": fields}


ASK = [
    lc("SystemMessage", content="Be brief.", type="system"),
    lc("HumanMessage", content="Weather in Oslo?", type="human"),
]
CALL = lc(
    "AIMessage", content="I look.", type="ai", id="lc-1",
    tool_calls=[{"name": "weather", "args": {"city": "Oslo"}, "id": "c1", "type": "tool_call"}],
    usage_metadata={"input_tokens": 9, "output_tokens": 4, "input_token_details": {"cache_read": 2}},
    response_metadata={"model_name": "gpt-5", "finish_reason": "tool_calls"},
)  # fmt: skip
RAIN = lc("ToolMessage", content="rain", type="tool", name="weather", tool_call_id="c1", status="success")
DONE = lc(
    "AIMessage", content="It rains.", type="ai", response_metadata={"model_name": "gpt-5", "finish_reason": "stop"}
)


def run(id, kind, at, inputs, outputs, above=(ROOT,), **more):
    path = [f"20260101T00000{n}000000Z{name}" for n, name in enumerate(above)]
    path = [*path, f"20260101T0000{at:02}000000Z{id}"] if id not in above else path
    return {
        "id": id, "name": more.pop("name", kind), "run_type": kind, "trace_id": ROOT,
        "inputs": inputs, "outputs": outputs,
        "parent_run_id": above[-1] if id not in above else None, "dotted_order": ".".join(path), "error": None,
        "start_time": f"2026-01-01T00:00:{at:02}.000000", "end_time": f"2026-01-01T00:00:{at:02}.500000", "extra": {},
        "session_id": "project", "status": "success", **more,
    }  # fmt: skip


def answered(message):
    return {"generations": [[{"text": "", "type": "ChatGeneration", "message": message}]], "llm_output": None}


def trace():
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    extra = {
        "invocation_params": {"model": "gpt", "temperature": 0.5, "tools": tools},
        "metadata": {"ls_provider": "openai"},
    }
    feedback = {"correctness": {"n": 1, "avg": 1.0, "values": {}}}
    return [
        run(ROOT, "chain", 0, {"messages": [["user", "Weather in Oslo?"]]}, {"output": "It rains."}, name="LangGraph",
            feedback_stats=feedback, extra={"metadata": {"thread_id": "th"}}),
        run(NODE, "chain", 1, {}, {}, name="model"),
        run(ONE, "llm", 2, {"messages": [ASK]}, answered(CALL), (ROOT, NODE), extra=extra),
        run(TOOL, "tool", 3, {"input": "{'city': 'Oslo'}"}, {"output": RAIN}, name="weather"),
        run(TWO, "llm", 4, {"messages": [[*ASK, CALL, RAIN]]}, answered(DONE), (ROOT, NODE)),
    ]  # fmt: skip


def read(*values):
    found = []
    for item in LANGSMITH.gather(iter([Numbered(n, value) for n, value in enumerate(values, 1)])):
        notes = Notes()
        found.append((decode(LANGSMITH, item.value, notes), notes))
    return found


def texts(row):
    return [item.get("content", item.get("function")) for item in row["content"]]


def test_a_traces_runs_are_one_trajectory_in_any_order():
    for runs in (trace(), trace()[::-1]):
        ((row, notes),) = read(*runs)
        assert texts(row) == TOLD and row["id"] == ROOT and not notes.flaws
        call = row["content"][2]
        assert (call["kwargs"], call["call_id"], call["description"]) == ({"city": "Oslo"}, "c1", "I look.")
        first = row["model_calls"][call["model_call"]]
        assert first["usage"] == {"calls": 1, "input_tokens": 9, "output_tokens": 4, "cached_tokens": 2}
        assert (first["model"], first["finish_reason"], first["sampling"]) == (
            "gpt-5",
            "tool_calls",
            {"temperature": 0.5},
        )
        assert row["tools"][0]["function"]["name"] == "weather"
        assert row["reward"] == 1.0
        assert row["details"]["thread"] == "th" and "correctness" in row["details"]["feedback"]


def test_every_run_is_kept():
    ((row, _),) = read(*trace())
    spans = {entry["id"]: entry for entry in row["extra"]["langsmith"]["spans"]}
    assert sorted(spans) == sorted([ROOT, NODE, ONE, TOOL, TWO])
    assert spans[ONE]["extra"]["metadata"] == {"ls_provider": "openai"}
    assert "inputs" not in spans[ONE] and spans[ROOT]["outputs"] == {"output": "It rains."}


def test_a_tree_of_child_runs_says_the_same():
    root, node, one, tool, two = trace()
    for child in (node, one, tool, two):
        del child["trace_id"], child["parent_run_id"], child["dotted_order"]
    ((row, _),) = read({**root, "child_runs": [{**node, "child_runs": [one]}, tool, two]})
    assert texts(row) == TOLD


def test_bulk_exports_hold_json_as_text_and_parents_as_a_list():
    rows = []
    for one in trace():
        parents = [] if one["parent_run_id"] is None else [ROOT, one["parent_run_id"]]
        del one["parent_run_id"]
        rows.append(
            {**one, "parent_run_ids": parents, **{k: json.dumps(one[k]) for k in ("inputs", "outputs", "extra")}}
        )
    ((row, _),) = read(*rows)
    assert texts(row) == TOLD


def test_runs_of_the_openai_wrapper():
    calls = [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}]
    ask = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Weather in Oslo?"}]
    said = {"role": "assistant", "content": "I look.", "tool_calls": calls}
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}
    one = {
        "choices": [{"index": 0, "finish_reason": "tool_calls", "message": said}],
        "model": "gpt-5",
        "usage": usage,
        "id": "x",
    }
    two = {"choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": "It rains."}}]}
    result = {"role": "tool", "tool_call_id": "c1", "content": "rain"}
    tools = [{"type": "function", "function": {"name": "weather"}}]
    ((row, _),) = read(
        run(ROOT, "chain", 0, {}, {}),
        run(ONE, "llm", 1, {"messages": ask, "tools": tools, "model": "gpt", "user": "u"}, one),
        run(TWO, "llm", 3, {"messages": [*ask, said, result], "model": "gpt"}, two),
    )
    assert texts(row) == TOLD
    assert row["model_calls"][0]["usage"] == {"calls": 1, "input_tokens": 7, "output_tokens": 2, "cached_tokens": 1}
    assert row["tools"] == tools
    kept = row["extra"]["langsmith"]["spans"][1]
    assert kept["inputs"] == {"user": "u"} and kept["outputs"] == {"id": "x"}


def test_runs_of_the_responses_api_and_of_anthropic():
    items = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Oslo"}'},
    ]
    ask = [{"role": "user", "content": "Weather in Oslo?"}]
    result = {"type": "function_call_output", "call_id": "c1", "output": "rain"}
    said = [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "It rains."}]}]
    ((row, _),) = read(
        run(ROOT, "chain", 0, {}, {}),
        run(ONE, "llm", 1, {"input": ask, "instructions": "Be brief."}, {"output": items}),
        run(TWO, "llm", 3, {"input": [*ask, *items, result], "instructions": "Be brief."}, {"output": said}),
    )
    assert texts(row) == TOLD and row["content"][2]["reasoning"] == "hm"
    use = [
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Oslo"}},
    ]
    called = {"role": "assistant", "content": use}
    back = [{"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "rain"}]}]
    ((row, _),) = read(
        run(ROOT, "chain", 0, {}, {}),
        run(ONE, "llm", 1, {"system": "Be brief.", "messages": ask}, {**called, "stop_reason": "tool_use"}),
        run(TWO, "llm", 3, {"system": "Be brief.", "messages": [*ask, called, {"role": "user", "content": back}]},
            {"role": "assistant", "content": [{"type": "text", "text": "It rains."}]}),
    )  # fmt: skip
    assert texts(row) == TOLD
    assert row["model_calls"][0]["finish_reason"] == "tool_use"


def test_a_call_with_malformed_arguments_is_kept_as_it_came():
    bad = lc(
        "AIMessage",
        content="",
        type="ai",
        invalid_tool_calls=[{"name": "weather", "args": '{"city', "id": "c1", "error": "e"}],
    )
    ((row, notes),) = read(run(ROOT, "llm", 0, {"messages": [ASK]}, answered(bad)))
    assert row["content"][2]["malformed"] == '{"city'
    assert [code for code, _ in notes.flaws] == ["malformed arguments"]


def test_a_failed_tool_says_so():
    runs = trace()[:4]
    runs[3] |= {"outputs": None, "error": "ValueError('no such city')", "status": "error"}
    ((row, _),) = read(*runs)
    assert (row["content"][3]["content"], row["content"][3]["is_error"]) == ("ValueError('no such city')", True)


def test_likes():
    assert all(LANGSMITH.likes(one) > 90 for one in trace())
    for other in (None, [], {"run_type": 3, "id": 1}, {"id": "x"}, {"messages": []}, "x", {"group": "x", "spans": 3}):
        assert LANGSMITH.likes(other) == 0


JUNK = st.sampled_from(
    [None, 7, "x", [], {}, [3], {"a": None}, "[1", {"messages": 3}, {"generations": [[3]]}, {"lc": 1}]
)


@given(st.data())
def test_runs_lost_reordered_or_broken_are_rows_or_row_errors(data):
    runs = data.draw(st.permutations(json.loads(json.dumps(trace()))))[: data.draw(st.integers(1, 5))]
    for one in runs:
        for _ in range(data.draw(st.integers(0, 3))):
            key = data.draw(st.sampled_from(sorted(one)))
            if data.draw(st.booleans()):
                del one[key]
            else:
                one[key] = data.draw(JUNK)
        LANGSMITH.likes(one)
    for item in LANGSMITH.gather(iter([Numbered(n, one) for n, one in enumerate(runs)])):
        try:
            row = decode(LANGSMITH, item.value, Notes())
        except RowError:
            continue
        assert len(row["extra"]["langsmith"]["spans"]) == len(item.value["spans"])


def test_values_that_are_no_runs_are_reported():
    (item,) = LANGSMITH.gather(iter([Numbered(1, {"something": "else"})]))
    with pytest.raises(RowError, match="no LangSmith runs"):
        decode(LANGSMITH, item.value, Notes())
