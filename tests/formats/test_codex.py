"""Codex rollouts: two interleaved logs become one conversation; no line is ever lost."""

import copy
import json

import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st

from fairtrial.formats.codex import CODEX
from fairtrial.formats.format import Notes, Numbered, RowError, Skip, decode

NS = "codex"
ID = "019a8c3e-11f0-7b52-9d1e-3c5d0a9b7e01"


class Rollout:
    """Writes lines as the program does."""

    def __init__(self):
        self.lines = []

    def put(self, type, /, **payload):
        stamp = f"2026-04-01T00:00:{len(self.lines):02}.000Z"
        self.lines.append({"timestamp": stamp, "type": type, "payload": payload})
        return self

    def meta(self, **payload):
        head = {"id": ID, "timestamp": "2026-04-01T00:00:00.000Z", "cwd": "/work/shop", "cli_version": "0.104.0"}
        return self.put("session_meta", **head, originator="codex_cli_rs", source="cli", **payload)

    def turn(self, model="gpt-x-codex"):
        return self.put("turn_context", turn_id="t1", cwd="/work/shop", model=model, approval_policy="never")

    def event(self, type, /, **payload):
        return self.put("event_msg", type=type, **payload)

    def item(self, type, /, **payload):
        return self.put("response_item", type=type, **payload)

    def user(self, *words, mirrored=True):
        self.item("message", role="user", content=[{"type": "input_text", "text": text} for text in words])
        return self.event("user_message", message=words[0], kind="plain") if mirrored else self

    def says(self, words):
        self.item("message", role="assistant", content=[{"type": "output_text", "text": words}])
        return self.event("agent_message", message=words)

    def thinks(self, words):
        self.event("agent_reasoning", text=words)
        summary = [{"type": "summary_text", "text": words}]
        return self.item("reasoning", summary=summary, content=None, encrypted_content="gAAAA")

    def calls(self, id, name="exec_command", **given):
        return self.item("function_call", name=name, arguments=json.dumps(given), call_id=id)

    def answers(self, id, output, code=None):
        if code is not None:
            self.event("exec_command_end", call_id=id, aggregated_output=output, exit_code=code)
        return self.item("function_call_output", call_id=id, output=output)

    def tokens(self, input, cached, output, total):
        last = {"input_tokens": input, "cached_input_tokens": cached, "output_tokens": output}
        return self.event("token_count", info={"total_token_usage": {"total_tokens": total}, "last_token_usage": last})


def plain():
    r = Rollout().meta(base_instructions={"text": "You are a coding agent."}, git={"branch": "main"}).turn()
    r.item("message", role="developer", content=[{"type": "input_text", "text": "<permissions instructions>ask"}])
    r.user("# AGENTS.md instructions for /work/shop\n\nTabs.", "<environment_context>\n</environment_context>")
    r.lines.pop()  # what the program injects is not shown
    r.event("task_started", turn_id="t1").user("Run the tests.")
    r.thinks("**Looking around**").says("I run them.")
    r.calls("c1", cmd="make test").calls("c2", cmd=["bash", "-lc", "ls"], workdir="/work").tokens(100, 25, 40, 145)
    r.answers("c1", "2 failed", code=2).answers("c2", "a.py", code=0)
    r.says("Two tests fail.").tokens(200, 100, 10, 355).tokens(200, 100, 10, 355).event("task_complete", turn_id="t1")
    return r


def tools():
    r = Rollout().meta().turn().user("Do it all.")
    r.item(
        "custom_tool_call", status="completed", call_id="p", name="apply_patch", input="*** Begin Patch\n*** End Patch"
    )
    r.event("patch_apply_end", call_id="p", success=False, stdout="", stderr="no such file")
    r.item("custom_tool_call_output", call_id="p", output='{"output":"no such file","metadata":{"exit_code":1}}')
    action = {"type": "exec", "command": ["bash", "-lc", "pwd"], "timeout_ms": None}
    r.item("local_shell_call", call_id="l", status="completed", action=action)
    r.answers("l", "Exit code: 0\nWall time: 0 seconds\nOutput:\n/work")
    r.event("web_search_end", call_id="ws_1", query="x", action={"type": "search", "query": "x"})
    r.item("web_search_call", status="completed", action={"type": "search", "query": "x"})
    r.calls("v", "view_image", path="a.png")
    r.item(
        "function_call_output",
        call_id="v",
        output=[
            {"type": "input_text", "text": "seen"},
            {"type": "input_image", "image_url": "data:image/png;base64,aa"},
        ],
    )
    r.item("function_call", name="exec_command", arguments='{"cmd": "l', call_id="bad")
    r.item("function_call_output", call_id="bad", output={"content": "cannot parse", "success": False})
    r.item("ghost_snapshot", ghost_commit={"id": "abc"})
    return r


def compacted():
    r = Rollout().meta().turn().user("Long work.").says("Half done.")
    r.put(
        "compacted", message="Half is done.", replacement_history=[{"type": "message", "role": "user", "content": []}]
    )
    r.event("context_compacted").turn("gpt-y").says("All done.").tokens(5, 0, 1, 6)
    return r


def events_only():
    """The protocol's log was not kept: everything is in the events."""
    r = Rollout().meta().turn().event("user_message", message="Hello.").event("agent_reasoning", text="Greet back.")
    r.event("agent_message", message="Hello!")
    r.event("exec_command_end", call_id="u", command=["zsh", "-lc", "ls"], source="user_shell", exit_code=0)
    r.lines[-1]["payload"]["aggregated_output"] = "a.py"
    return r


def bare():
    """Before the envelope."""
    content = [{"type": "input_text", "text": "<environment_context>\n  <cwd>/work</cwd>\n</environment_context>"}]
    r = Rollout()
    r.lines += [
        {"id": ID, "timestamp": "2025-08-18T01:16:13.522Z", "instructions": None, "git": {"branch": "main"}},
        {"record_type": "state"},
        {"type": "message", "id": None, "role": "user", "content": content},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {
            "type": "function_call",
            "name": "shell",
            "arguments": '{"command":["bash","-lc","ls"]}',
            "call_id": "c1",
            "id": "fc",
        },
        {"type": "function_call_output", "call_id": "c1", "output": '{"output":"a","metadata":{"exit_code":0}}'},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
    ]
    return r


ROLLOUTS = {f.__name__: f for f in (plain, tools, compacted, events_only, bare)}


def read(lines, faults=()):
    notes = Notes()
    (rollout,) = CODEX.gather(Numbered(n, copy.deepcopy(line)) for n, line in enumerate(lines, 1))
    row = decode(CODEX, rollout.value, notes)
    assert tuple(code for code, _ in notes.flaws) == faults
    return row


def brief(row):
    return [item.get("function") or item.get("content") for item in row["content"]]


@pytest.mark.parametrize("name", ROLLOUTS)
def test_a_rollout_is_written_again_line_by_line(name):
    lines = ROLLOUTS[name]().lines
    row = read(lines, ("malformed arguments",) if name == "tools" else ())
    assert list(CODEX.encode(row, Notes())) == lines


def test_two_logs_become_one_conversation():
    row = read(plain().lines)
    prompt, developer, agents, place, asked, one, two, failed, listed, said = row["content"]
    assert (prompt["source"], prompt["content"]) == ("system", "You are a coding agent.")
    assert (developer["source"], developer["name"]) == ("system", "developer")
    assert (agents["source"], agents["name"]) == ("system", "user_instructions")
    assert (place["source"], place["name"], place["joined"]) == ("system", "environment_context", True)
    assert asked["source"] == "user" and asked["content"] == "Run the tests."
    assert (one["reasoning"], one["description"]) == ("**Looking around**", "I run them.")
    assert (one["function"], one["kwargs"], one["call_id"]) == ("exec_command", {"cmd": "make test"}, "c1")
    assert two["joined"] and two["kwargs"] == {"cmd": "ls", "workdir": "/work"}
    assert (failed["is_error"], failed["name"], listed["is_error"]) == (True, "exec_command", False)
    assert said["class_"] == "message_action" and row["id"] == ID


def test_usage_counts_once_for_each_response():
    row = read(plain().lines)
    used = {"calls": 1, "input_tokens": 100, "output_tokens": 40, "cached_tokens": 25}
    assert row["model_calls"] == [
        {"model": "gpt-x-codex", "usage": used},
        {"model": "gpt-x-codex", "usage": {**used, "input_tokens": 200, "output_tokens": 10, "cached_tokens": 100}},
    ]
    assert [item["model_call"] for item in row["content"] if "model_call" in item] == [0, 0, 1]


def test_an_argument_list_is_told_as_rewritten():
    notes = Notes()
    decode(CODEX, plain().lines, notes)
    assert notes.rewritten == [("a shell's argument list as the command that it runs", '["bash","-lc","ls"]')]


def test_every_kind_of_call_and_result():
    row = read(tools().lines, ("malformed arguments",))
    calls = [item for item in row["content"] if item["class_"] == "api_action"]
    assert [item["function"] for item in calls] == [
        "apply_patch",
        "local_shell",
        "web_search",
        "view_image",
        "exec_command",
    ]
    assert calls[0]["kwargs"]["input"].startswith("*** Begin") and calls[1]["kwargs"]["command"] == "pwd"
    assert calls[4]["malformed"] == '{"cmd": "l'
    errors = {
        item["call_id"]: item.get("is_error") for item in row["content"] if "source" in item and "call_id" in item
    }
    assert errors == {"p": True, "l": False, "v": None, "bad": True}
    assert row["content"][-3]["content"] == "data:image/png;base64,aa" and row["content"][-3]["joined"]


def test_a_compaction_is_an_event_with_its_summary_and_models_change():
    row = read(compacted().lines)
    assert brief(row) == ["Long work.", "Half done.", "Half is done.", "All done."]
    assert (row["content"][2]["source"], row["content"][2]["name"]) == ("system", "compaction")
    assert [call["model"] for call in row["model_calls"]] == ["gpt-x-codex", "gpt-y"]


def test_what_only_the_events_say_is_kept():
    row = read(events_only().lines)
    assert brief(row) == ["Hello.", "Hello!", "a.py"]
    assert row["content"][1]["reasoning"] == "Greet back." and row["content"][2]["is_error"] is False


def test_rollouts_before_the_envelope_are_read():
    row = read(bare().lines)
    assert row["id"] == ID and brief(row)[1:] == ["hello", "shell", '{"output":"a","metadata":{"exit_code":0}}', "a"]
    assert row["content"][2]["kwargs"] == {"command": "ls"} and row["content"][3]["is_error"] is False


def test_changed_text_is_what_is_written():
    row = read(plain().lines)
    call = row["content"][5]
    call["reasoning"], call["description"], call["kwargs"] = "short", "other", {"cmd": "true"}
    row["content"][7]["content"] = "[secret]"
    again = read(list(CODEX.encode(row, Notes())))
    assert again["content"][5]["reasoning"] == "short" and again["content"][5]["description"] == "other"
    assert again["content"][5]["kwargs"] == {"cmd": "true"} and again["content"][7]["content"] == "[secret]"


def test_a_line_cut_short_is_told_and_the_rest_is_read():
    values = [Numbered(n, line) for n, line in enumerate(bare().lines, 1)]
    broken = Numbered(99, problem="cut short", raw=b'{"type":"as')
    problem, rollout = CODEX.gather(iter([*values, broken]))
    assert problem == broken and len(decode(CODEX, rollout.value, Notes())["content"]) == 5


@pytest.mark.parametrize("name", ["plain", "tools", "compacted", "events_only"])
def test_each_line_is_recognised(name):
    assert all(CODEX.likes(line) >= 90 for line in ROLLOUTS[name]().lines)


@given(strategies.json_values)
def test_anything_is_looked_at_without_an_error(value):
    for wrapped in (value, {"type": value}, {"type": "event_msg", "payload": value}, {"payload": {}, "type": value}):
        assert 0 <= CODEX.likes(wrapped) <= 100


def key(line):
    return json.dumps(line, sort_keys=True)


@given(st.data())
@settings(max_examples=250)
def test_no_line_is_lost_whatever_happens_to_the_file(data):
    names = data.draw(st.lists(st.sampled_from(list(ROLLOUTS)), min_size=1, max_size=2))
    lines = [line for name in names for line in ROLLOUTS[name]().lines]
    lines = data.draw(st.permutations(lines)) if data.draw(st.booleans()) else lines
    lines = [line for line in lines if data.draw(st.integers(0, 9)) != 0]
    for _ in range(data.draw(st.integers(0, 3))):
        if lines:
            line = lines[data.draw(st.integers(0, len(lines) - 1))]
            inner = line["payload"] if isinstance(line.get("payload"), dict) and data.draw(st.booleans()) else line
            if inner:
                inner[data.draw(st.sampled_from(sorted(inner)))] = data.draw(strategies.json_values)
    lines += data.draw(st.lists(strategies.json_values, max_size=1))
    values = [Numbered(n, copy.deepcopy(line)) for n, line in enumerate(lines, 1)]
    for rollout in CODEX.gather(iter(values)):
        try:
            row = decode(CODEX, rollout.value, Notes())
        except RowError as error:
            assert str(error).startswith("not the lines of")
            continue
        if isinstance(row, Skip):
            continue  # no message is left; whoever reads it has the lines
        assert list(map(key, CODEX.encode(row, Notes()))) == list(map(key, lines))


def stripped(row):
    """A row without what the format keeps for itself and without who shares a turn with whom."""
    content = [{k: v for k, v in item.items() if k not in ("extra", "joined")} for item in row["content"]]
    calls = [{**call, "usage": {"cached_tokens": 0, **call["usage"]}} for call in row.get("model_calls", ())]
    return content, calls


def named_throughout(row):
    """A turn's model holds for every response after it: one without a model call would be given that."""
    actions = [item for item in row["content"] if "source" not in item]
    return len({"model_call" in item for item in actions}) < 2


HELD = strategies.rows(
    code=False,
    web=False,
    result_timestamps=False,
    token_ids=False,
    tools=False,
    rewards=False,
    reward=False,
    details=False,
    developer=True,
    result_images=True,
).filter(named_throughout)


@given(HELD)
@settings(max_examples=150)
def test_rows_survive_writing_and_reading(row):
    lines = list(CODEX.encode(copy.deepcopy(row), Notes()))
    again = decode(CODEX, json.loads(json.dumps(lines)), Notes())
    assert again["id"] == row["id"]
    assert stripped(again) == stripped(row)
