"""OpenTelemetry spans: the GenAI conventions in their forms, OpenInference, and the grouping of a file's spans."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairtrial.formats.format import Notes, Numbered, RowError, decode
from fairtrial.formats.otel import OPENINFERENCE, OTEL_GENAI
from fairtrial.formats.span_groups import IDLE

CALL = {"id": "c1", "name": "weather", "arguments": {"city": "Oslo"}}
ASK = {"role": "user", "parts": [{"type": "text", "content": "Weather in Oslo?"}]}
CALLED = {
    "role": "assistant",
    "parts": [
        {"type": "reasoning", "content": "I need the tool."},
        {"type": "text", "content": "I look."},
        {"type": "tool_call", **CALL},
    ],
    "finish_reason": "tool_calls",
}
RAIN = {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "rain"}]}
DONE = {"role": "assistant", "parts": [{"type": "text", "content": "It rains."}], "finish_reason": "stop"}
SYSTEM = [{"type": "text", "content": "Be brief."}]
TOOL = {"type": "function", "name": "weather", "description": "Looks up.", "parameters": {"type": "object"}}
TOLD = ["Be brief.", "Weather in Oslo?", "weather", "rain", "It rains."]


def any_value(value):
    kinds = ((bool, "boolValue"), (int, "intValue"), (float, "doubleValue"), (str, "stringValue"))
    for kind, name in kinds:
        if isinstance(value, kind):
            return {name: str(value) if name == "intValue" else value}
    if isinstance(value, list):
        return {"arrayValue": {"values": [any_value(element) for element in value]}}
    return {"kvlistValue": {"values": key_values(value)}}


def key_values(attributes):
    return [{"key": key, "value": any_value(value)} for key, value in attributes.items()]


def span(id, parent, name, at, attributes, events=(), trace="5b8a", **rest):
    return {
        "traceId": trace,
        "spanId": id,
        "parentSpanId": parent or "",
        "name": name,
        "kind": 1,
        "startTimeUnixNano": str(at * 10**9),
        "endTimeUnixNano": str(at * 10**9 + 10**8),
        "attributes": key_values(attributes),
        "status": {},
        "events": [{"name": n, "timeUnixNano": "1", "attributes": key_values(a)} for n, a in events],
        **rest,
    }


def otlp(*spans):
    scope = {"scope": {"name": "lib", "version": "1"}, "spans": list(spans)}
    return {"resourceSpans": [{"resource": {"attributes": key_values({"service.name": "bot"})}, "scopeSpans": [scope]}]}


def chat(id, at, prompt, output, structured=False, **more):
    put = (lambda value: value) if structured else json.dumps
    return span(
        id,
        "a",
        "chat gpt",
        at,
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "gpt",
            "gen_ai.response.model": "gpt-5",
            "gen_ai.request.temperature": 0.5,
            "gen_ai.usage.input_tokens": 11,
            "gen_ai.usage.output_tokens": 3,
            "gen_ai.usage.cache_read.input_tokens": 4,
            "gen_ai.response.finish_reasons": ["stop"],
            "gen_ai.system_instructions": put(SYSTEM),
            "gen_ai.input.messages": put(prompt),
            "gen_ai.output.messages": put([output]),
            "gen_ai.tool.definitions": put([TOOL]),
            **more,
        },
    )


def agent_trace(structured=False):
    return [
        span("a", None, "invoke_agent bot", 1, {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "bot"}),
        chat("b", 2, [ASK], CALLED, structured),
        span(
            "c",
            "a",
            "execute_tool weather",
            3,
            {
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": "weather",
                "gen_ai.tool.call.id": "c1",
                "gen_ai.tool.call.arguments": '{"city": "Oslo"}',
                "gen_ai.tool.call.result": "rain",
            },
        ),
        chat("d", 4, [ASK, CALLED, RAIN], DONE, structured),
    ]


def read(format, *values):
    found = []
    for item in format.gather(iter([Numbered(n, value) for n, value in enumerate(values, 1)])):
        notes = Notes()
        found.append((decode(format, item.value, notes), notes))
    return found


def texts(row):
    return [item.get("content", item.get("function")) for item in row["content"]]


@pytest.mark.parametrize("structured", [False, True])
def test_an_agents_trace_is_one_trajectory(structured):
    ((row, notes),) = read(OTEL_GENAI, otlp(*agent_trace(structured)))
    assert texts(row) == TOLD
    call = row["content"][2]
    assert (call["kwargs"], call["call_id"], call["description"]) == ({"city": "Oslo"}, "c1", "I look.")
    assert (call["reasoning"], call["timestamp"]) == ("I need the tool.", "1970-01-01T00:00:02+00:00")
    assert row["content"][3]["name"] == "weather" and row["content"][3]["call_id"] == "c1"
    first = row["model_calls"][call["model_call"]]
    assert first["model"] == "gpt-5" and first["sampling"] == {"temperature": 0.5}
    assert first["usage"] == {"calls": 1, "input_tokens": 11, "output_tokens": 3, "cached_tokens": 4}
    assert row["tools"][0]["function"]["name"] == "weather"
    assert row["details"] == {"service": "bot", "agent": "bot"}
    assert not notes.flaws and row["id"] == "5b8a"


def test_every_span_and_attribute_is_kept_or_told():
    ((row, _),) = read(OTEL_GENAI, otlp(*agent_trace()))
    spans = {entry["id"]: entry for entry in row["extra"]["otel-genai"]["spans"]}
    assert sorted(spans) == ["a", "b", "c", "d"]
    assert spans["b"]["attributes"]["gen_ai.provider.name"] == "openai"
    assert "gen_ai.input.messages" not in spans["b"]["attributes"]
    assert row["extra"]["otel-genai"]["about"][0]["scope"]["version"] == "1"


def test_the_python_sdks_console_form_says_the_same():
    lines = []
    for one in agent_trace(structured=True):
        values = {pair["key"]: plain(pair["value"]) for pair in one["attributes"]}
        lines.append(
            {
                "name": one["name"],
                "context": {"trace_id": "0x5b8a", "span_id": "0x" + one["spanId"], "trace_state": "[]"},
                "kind": "SpanKind.INTERNAL",
                "parent_id": "0x" + one["parentSpanId"] if one["parentSpanId"] else None,
                "start_time": f"2026-01-01T00:00:{int(one['startTimeUnixNano']) // 10**9:02}.0Z",
                "end_time": f"2026-01-01T00:00:{int(one['startTimeUnixNano']) // 10**9:02}.5Z",
                "status": {"status_code": "UNSET"},
                "attributes": values,
                "events": [],
                "links": [],
                "resource": {},
            }
        )
    assert OTEL_GENAI.likes(lines[1]) > 80
    ((row, _),) = read(OTEL_GENAI, *reversed(lines))
    assert texts(row) == TOLD


def plain(value):
    ((kind, inner),) = value.items()
    if kind == "arrayValue":
        return [plain(element) for element in inner["values"]]
    if kind == "kvlistValue":
        return {pair["key"]: plain(pair["value"]) for pair in inner["values"]}
    return int(inner) if kind == "intValue" else inner


def test_the_events_of_older_versions():
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    calls = json.dumps([call])
    ask = [
        ("gen_ai.system.message", {"content": "Be brief."}),
        ("gen_ai.user.message", {"content": "Weather in Oslo?"}),
    ]
    choice = (
        "gen_ai.choice",
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": json.dumps({"role": "assistant", "content": "I look.", "tool_calls": json.loads(calls)}),
        },
    )
    shown = [
        ("gen_ai.assistant.message", {"content": "I look.", "tool_calls": calls}),
        ("gen_ai.tool.message", {"id": "c1", "content": "rain"}),
    ]
    model = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt"}
    one = span("b", None, "chat gpt", 2, model, [*ask, choice])
    two = span(
        "d",
        None,
        "chat gpt",
        4,
        model,
        [*ask, *shown, ("gen_ai.choice", {"index": 0, "finish_reason": "stop", "message": "It rains."})],
    )
    ((row, notes),) = read(OTEL_GENAI, otlp(one, two))
    assert texts(row) == TOLD and not notes.flaws
    assert [call["finish_reason"] for call in row["model_calls"]] == ["tool_calls", "stop"]


def test_prompt_and_completion_events_and_log_records():
    events = [
        ("gen_ai.content.prompt", {"gen_ai.prompt": json.dumps([{"role": "user", "content": "hi"}])}),
        ("gen_ai.content.completion", {"gen_ai.completion": json.dumps([{"role": "assistant", "content": "ho"}])}),
    ]
    ((row, _),) = read(OTEL_GENAI, otlp(span("b", None, "chat m", 1, {"gen_ai.request.model": "m"}, events)))
    assert texts(row) == ["hi", "ho"]
    record = {
        "traceId": "5b8a",
        "spanId": "b",
        "eventName": "gen_ai.client.inference.operation.details",
        "attributes": key_values(
            {"gen_ai.input.messages": json.dumps([ASK]), "gen_ai.output.messages": json.dumps([DONE])}
        ),
    }
    logs = {"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]}
    ((row, notes),) = read(OTEL_GENAI, logs, otlp(span("b", None, "chat m", 1, {"gen_ai.operation.name": "chat"})))
    assert texts(row) == ["Weather in Oslo?", "It rains."] and not notes.flaws


def test_traceloops_flat_attributes():
    ask = {
        "gen_ai.prompt.0.role": "system",
        "gen_ai.prompt.0.content": "Be brief.",
        "gen_ai.prompt.1.role": "user",
        "gen_ai.prompt.1.content": '[{"type": "text", "text": "Weather in Oslo?"}]',
    }
    calls = {
        "role": "assistant",
        "content": "I look.",
        "tool_calls.0.id": "c1",
        "tool_calls.0.name": "weather",
        "tool_calls.0.arguments": '{"city": "Oslo"}',
    }
    one = ask | {f"gen_ai.completion.0.{key}": value for key, value in calls.items()}
    one |= {"llm.request.functions.0.name": "weather", "llm.request.functions.0.parameters": '{"type": "object"}'}
    two = ask | {f"gen_ai.prompt.2.{key}": value for key, value in calls.items()}
    two |= {"gen_ai.prompt.3.role": "tool", "gen_ai.prompt.3.content": "rain", "gen_ai.prompt.3.tool_call_id": "c1"}
    two |= {"gen_ai.completion.0.role": "assistant", "gen_ai.completion.0.content": "It rains."}
    two |= {"gen_ai.usage.prompt_tokens": 9, "gen_ai.completion.0.finish_reason": "stop"}
    base = {"llm.request.type": "chat", "gen_ai.request.model": "gpt"}
    ((row, _),) = read(
        OTEL_GENAI, otlp(span("b", None, "openai.chat", 1, base | one), span("d", None, "openai.chat", 3, base | two))
    )
    assert texts(row) == TOLD
    assert row["tools"][0]["function"]["parameters"] == {"type": "object"}
    assert row["model_calls"][1]["usage"]["input_tokens"] == 9


def test_an_evaluation_is_the_reward():
    result = ("gen_ai.evaluation.result", {"gen_ai.evaluation.name": "right", "gen_ai.evaluation.score.value": 0.75})
    trace = agent_trace()
    trace[3]["events"] = [{"name": result[0], "timeUnixNano": "1", "attributes": key_values(result[1])}]
    ((row, _),) = read(OTEL_GENAI, otlp(*trace))
    assert row["reward"] == 0.75
    assert row["details"]["evaluations"] == [{"name": "right", "score.value": 0.75}]


def test_images_and_parts_that_chat_messages_do_not_have():
    parts = [
        {"type": "blob", "modality": "image", "mime_type": "image/png", "content": "aGk="},
        {"type": "uri", "modality": "image", "uri": "https://x/y.png"},
        {"type": "file", "file_id": "f1"},
    ]
    ((row, _),) = read(OTEL_GENAI, otlp(chat("b", 1, [{"role": "user", "parts": parts}], DONE)))
    assert [item["content"] for item in row["content"][1:3]] == ["data:image/png;base64,aGk=", "https://x/y.png"]
    assert "f1" in json.dumps(row["content"][3])


def test_traces_that_are_interleaved_come_apart_and_conversations_together():
    one, two = agent_trace(), [dict(s, traceId="77") for s in agent_trace()]
    lines = [otlp(s) for pair in zip(one, two, strict=True) for s in pair]
    found = read(OTEL_GENAI, *lines)
    assert [(row["id"], texts(row)) for row, _ in found] == [("5b8a", TOLD), ("77", TOLD)]
    for spans in (one, two):
        spans[1]["attributes"] += key_values({"gen_ai.conversation.id": "talk"})
    more = {"role": "user", "parts": [{"type": "text", "content": "And now?"}]}
    two[1] = dict(chat("b2", 12, [ASK, CALLED, RAIN, DONE, more], CALLED), traceId="77", parentSpanId="a2")
    two[1]["attributes"] += key_values({"gen_ai.conversation.id": "talk"})
    later = [dict(two[0], spanId="a2", startTimeUnixNano=str(11 * 10**9)), two[1]]
    ((row, _),) = read(OTEL_GENAI, otlp(*one), otlp(*later))
    assert (row["id"], texts(row)) == ("talk", [*TOLD, "And now?", "weather"])
    assert row["extra"]["otel-genai"]["traces"] == ["5b8a", "77"]


def test_memory_is_bounded_by_open_traces_and_late_spans_are_told():
    held, most, ids = 0, 0, []

    def feed():
        nonlocal held
        for number in range(3 * IDLE):
            held += 1
            yield Numbered(number, span("a", None, "chat", 1, {"gen_ai.operation.name": "chat"}, trace=f"t{number}"))
        yield Numbered(3 * IDLE, span("late", "a", "chat", 1, {"gen_ai.operation.name": "chat"}, trace="t0"))

    for item in OTEL_GENAI.gather(feed()):
        held -= 1
        most = max(most, held)
        ids.append((item.value["group"], item.value.get("part", 1)))
    assert most <= IDLE + 1
    assert len(ids) == 3 * IDLE + 1 and ids[-1] == ("t0", 2)


def test_values_without_spans_are_reported():
    (item,) = OTEL_GENAI.gather(iter([Numbered(4, {"resourceMetrics": []})]))
    with pytest.raises(RowError, match="no spans"):
        decode(OTEL_GENAI, item.value, Notes())
    with pytest.raises(RowError, match="switched off"):
        decode(OTEL_GENAI, otlp(span("a", None, "GET /", 1, {"http.method": "GET"})), Notes())


MESSAGES = "llm.input_messages"


def inference(id, parent, kind, at, attributes):
    return span(id, parent, kind.lower(), at, {"openinference.span.kind": kind, **attributes})


def flat_messages(prefix, messages):
    flat = {}
    for n, message in enumerate(messages):
        for key, value in message.items():
            flat[f"{prefix}.{n}.message.{key}"] = value
    return flat


OI_ASK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "contents.0.message_content.type": "text", "contents.0.message_content.text": "Weather in Oslo?"},
]
OI_CALL = {
    "role": "assistant",
    "content": "I look.",
    "tool_calls.0.tool_call.id": "c1",
    "tool_calls.0.tool_call.function.name": "weather",
    "tool_calls.0.tool_call.function.arguments": '{"city": "Oslo"}',
}
OI_TRACE = [
    inference("a", None, "AGENT", 1, {"input.value": "Weather?", "output.value": "It rains.", "session.id": "s"}),
    inference(
        "b",
        "a",
        "LLM",
        2,
        {
            "llm.model_name": "gpt",
            "llm.invocation_parameters": '{"temperature": 0}',
            "llm.token_count.prompt": 8,
            "llm.token_count.completion": 2,
            "llm.token_count.prompt_details.cache_read": 3,
            "llm.cost.total": 0.5,
            "llm.tools.0.tool.json_schema": json.dumps({"type": "function", "function": {"name": "weather"}}),
            "input.value": "{}",
            **flat_messages(MESSAGES, OI_ASK),
            **flat_messages("llm.output_messages", [OI_CALL]),
        },
    ),
    inference("c", "a", "TOOL", 3, {"tool.name": "weather", "input.value": '{"city": "Oslo"}', "output.value": "rain"}),
    inference(
        "d",
        "a",
        "LLM",
        4,
        {
            **flat_messages(MESSAGES, [*OI_ASK, OI_CALL, {"role": "tool", "content": "rain", "tool_call_id": "c1"}]),
            **flat_messages("llm.output_messages", [{"role": "assistant", "content": "It rains."}]),
        },
    ),
]


def test_openinference_is_told_apart_and_read():
    assert OPENINFERENCE.likes(otlp(*OI_TRACE)) > OTEL_GENAI.likes(otlp(*OI_TRACE))
    ((row, notes),) = read(OPENINFERENCE, otlp(*OI_TRACE))
    assert texts(row) == TOLD and row["id"] == "s" and not notes.flaws
    first = row["model_calls"][0]
    assert first["usage"] == {"calls": 1, "input_tokens": 8, "output_tokens": 2, "cached_tokens": 3, "cost_usd": 0.5}
    assert first["sampling"] == {"temperature": 0}
    assert row["tools"] == [{"type": "function", "function": {"name": "weather"}}]
    assert row["content"][3]["timestamp"] == "1970-01-01T00:00:03+00:00"


def test_openinference_exports_with_nested_attributes():
    message = {"message": {"role": "user", "content": "hi"}}
    nested = {
        "name": "llm",
        "context": {"trace_id": "t", "span_id": "s"},
        "parent_id": None,
        "span_kind": "LLM",
        "attributes": {
            "openinference": {"span": {"kind": "LLM"}},
            "llm": {
                "input_messages": [message],
                "output_messages": [{"message": {"role": "assistant", "content": "ho"}}],
            },
        },
    }
    assert OPENINFERENCE.likes(nested) > 80
    ((row, _),) = read(OPENINFERENCE, nested)
    assert texts(row) == ["hi", "ho"]


@pytest.mark.parametrize("format", [OTEL_GENAI, OPENINFERENCE])
@given(data=st.data())
def test_spans_lost_reordered_or_broken_are_rows_or_row_errors(format, data):
    spans = json.loads(json.dumps(agent_trace() if format is OTEL_GENAI else OI_TRACE))
    spans = data.draw(st.permutations(spans))[: data.draw(st.integers(1, 4))]
    junk = st.sampled_from(
        [None, 7, "x", [], {}, [3], {"a": None}, "[1", '{"role": 3}', '[{"parts": 1}]', '[{"type": []}]']
    )
    for one in spans:
        for _ in range(data.draw(st.integers(0, 3))):
            attributes = one["attributes"]
            if isinstance(attributes, list) and attributes:
                at = data.draw(st.integers(0, len(attributes) - 1))
                if data.draw(st.booleans()):
                    del attributes[at]
                else:
                    attributes[at] = {"key": attributes[at]["key"], "value": data.draw(junk)}
        if data.draw(st.integers(0, 4)) == 0:
            one[data.draw(st.sampled_from(sorted(one)))] = data.draw(junk)
    value = otlp(*spans)
    format.likes(value)
    seen = 0
    for item in format.gather(iter([Numbered(1, value)])):
        try:
            row = decode(format, item.value, Notes())
        except RowError:
            continue
        kept = row["extra"][format.name]["spans"]
        seen += len(kept)
        assert len(kept) == len(item.value["spans"])
