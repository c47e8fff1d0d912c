"""What a gateway records of a session: each message once, every prompt recoverable, ids put back."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairtrial.core.clock import SystemClock, VirtualClock
from fairtrial.core.errors import InfraError, LockedError, UserError
from fairtrial.core.redact import Redactor
from fairtrial.core.trajectory import Trajectory
from fairtrial.formats.exporting import export_trajectories
from fairtrial.formats.format import named
from fairtrial.models.gateway.messages import items_of, key
from fairtrial.models.gateway.recorder import prompt_of
from fairtrial.models.gateway.recording import Recording, Route
from fairtrial.models.gateway.sessions import Sessions, trajectory_of
from fairtrial.models.model import Message, Reply, Request
from fairtrial.models.scripted import Script, ScriptedModel

TOOL = {"type": "function", "function": {"name": "bash", "parameters": {"type": "object"}}}
OTHER = {"type": "function", "function": {"name": "python", "parameters": {"type": "object"}}}


def say(role: Any, content: str, **fields: Any) -> Message:
    return Message(role=role, content=content, **fields)


def scripted(*replies: Any, clock: Any = None, **settings_: Any) -> ScriptedModel:
    return ScriptedModel(Script(replies=replies, **settings_), clock or VirtualClock())


class Bench:
    """A recorded model over a folder, called as the server calls it."""

    def __init__(self, folder: Path, model: Any, redactor: Redactor | None = None, kept: int = 512) -> None:
        self.folder, self.model = folder, model
        self.sessions = Sessions(folder, VirtualClock(), redactor or Redactor({}), kept=kept)

    async def ask(
        self, messages: list[Message], session: str | None = None, route: Route | None = None, **fields: Any
    ) -> tuple[Reply, str]:
        route = route or Route(session)
        model = Recording(self.model, self.sessions, route)
        reply = await model.generate(Request(messages=tuple(messages), **fields))
        assert route.session is not None
        return reply, route.session

    def row(self, session: str) -> dict[str, Any]:
        row = trajectory_of(self.folder / "sessions" / f"{session}.jsonl")
        Trajectory.model_validate(row)
        return row


def texts(row: dict[str, Any]) -> list[str]:
    return [item.get("content", item.get("description")) for item in row["content"]]


def as_sent(messages: list[Message]) -> list[bytes]:
    return [key(items_of(message, {})) for message in messages]


def test_a_conversation_with_tools_is_recorded_once_and_in_order(tmp_path: Path) -> None:
    model = scripted(
        {"text": "look", "reasoning": "hm", "tool_calls": [
            {"name": "bash", "arguments": {"command": "ls"}},
            {"name": "bash", "arguments": '{"command": '},
        ]},
        "done",
    )  # fmt: skip
    bench = Bench(tmp_path / "out", model)

    async def main() -> str:
        messages = [say("system", "be brief"), say("user", "list files")]
        reply, name = await bench.ask(messages, tools=(TOOL,))
        # as agents do: reasoning dropped, white space gone, arguments written anew
        calls = (reply.message.tool_calls[0].model_copy(update={"arguments": '{ "command":"ls" }'}),)
        back = Message(role="assistant", content="look ", tool_calls=(*calls, reply.message.tool_calls[1]))
        messages += [back, say("tool", "a.txt", tool_call_id="call_1_1"), say("tool", "no", tool_call_id="call_1_2")]
        reply, again = await bench.ask(messages, tools=(TOOL,))
        assert again == name
        return name

    row = bench.row(asyncio.run(main()))
    kinds = [(item["class_"], item.get("call_id"), item.get("joined", False)) for item in row["content"]]
    assert kinds == [
        ("text_observation", None, False),
        ("text_observation", None, False),
        ("api_action", "call_1_1", False),
        ("api_action", "call_1_2", True),
        ("text_observation", "call_1_1", False),
        ("text_observation", "call_1_2", False),
        ("message_action", None, False),
    ]
    first, second = row["content"][2], row["content"][3]
    assert (first["description"], first["reasoning"], first["kwargs"]) == ("look", "hm", {"command": "ls"})
    assert second["kwargs"] == {} and second["malformed"] == '{"command": '
    assert [item["model_call"] for item in row["content"] if "model_call" in item] == [0, 0, 1]
    assert [item.get("name") for item in row["content"][4:6]] == ["bash", "bash"]
    assert row["tools"] == [TOOL] and "extra" not in row


def test_the_next_prompt_continues_the_sampled_ids_and_is_stored_as_a_delta(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "out", scripted({"text": "one", "reasoning": "because"}, "two", "three"))

    async def main() -> tuple[list[Reply], str]:
        messages, replies, name = [say("user", "go")], list[Reply](), ""
        for turn in range(3):
            reply, name = await bench.ask(messages)
            replies.append(reply)
            messages = [*messages, say("assistant", f" {reply.text}\n"), say("user", f"more {turn}")]
        return replies, name

    replies, name = asyncio.run(main())
    trajectory = Trajectory.model_validate(bench.row(name))
    for index, reply in enumerate(replies):
        assert trajectory.prompt_ids(index) == reply.prompt_ids
        assert trajectory.model_calls[index].completion_ids == reply.completion_ids
        if index:
            before = (*(replies[index - 1].prompt_ids or ()), *(replies[index - 1].completion_ids or ()))
            assert (reply.prompt_ids or ())[: len(before)] == before
            delta = trajectory.model_calls[index].prompt
            assert delta is not None and (delta.base, delta.keep) == (index - 1, len(before))


def test_a_folded_history_is_a_branch_whose_prompt_is_kept(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "out", scripted("a", "b", "c", "d", after="last"))
    sent: list[list[Message]] = []

    async def ask(messages: list[Message]) -> None:
        sent.append(messages)
        await bench.ask(messages, "s1")

    async def main() -> None:
        s, u = say("system", "s"), say("user", "u")
        first = [s, u, say("assistant", "a"), say("user", "continue")]
        await ask([s, u])
        await ask(first)
        await ask([*first, say("assistant", "b"), say("user", "continue")])  # the same words again: a new message
        folded = [s, say("user", "so far: a, b"), say("assistant", "b"), say("user", "continue")]
        await ask(folded)
        await ask([*folded, say("assistant", "d"), say("user", "end")])
        await ask([s, u])  # a fresh start inside the session
        await ask([s, u, say("assistant", "never said"), say("user", "and?")])

    asyncio.run(main())
    row = bench.row("s1")
    for call, messages in enumerate(sent):
        assert [key(group) for group in prompt_of(row, call)] == as_sent(messages), call
    assert texts(row)[:9] == ["s", "u", "a", "continue", "b", "continue", "c", "so far: a, b", "b"]
    assert [note["call"] for note in row["extra"]["gateway"]["prompts"]] == [3, 4, 5, 6]
    [stranger] = [item for item in row["content"] if item.get("content") == "never said"]
    assert stranger["loss"] is False and "model_call" not in stranger


def test_a_reply_is_known_again_after_a_side_call_and_keeps_its_ids(tmp_path: Path) -> None:
    call = {"text": "look", "reasoning": "first", "tool_calls": [{"name": "bash"}]}
    bench = Bench(tmp_path / "out", scripted(call, "done", rules=[{"contains": "title", "text": "a title"}]))
    s, u = say("system", "s"), say("user", "u")

    async def main() -> Reply:
        reply, _ = await bench.ask([s, u], "s")
        said = Message(role="assistant", content="look", tool_calls=reply.message.tool_calls)
        result = say("tool", "f", tool_call_id="call_1_1")
        await bench.ask([s, u, said, result], "s")
        await bench.ask([s, say("user", "a title, please")], "s")
        last, _ = await bench.ask([s, say("user", "summary"), said, result], "s")
        ids, sampled = last.prompt_ids or (), reply.completion_ids or ()
        assert any(ids[at : at + len(sampled)] == sampled for at in range(len(ids))), "the reasoning was lost"
        return last

    asyncio.run(main())
    row = bench.row("s")
    assert [item.get("function") for item in row["content"]].count("bash") == 1
    assert row["extra"]["gateway"]["prompts"][-1] == {"call": 3, "messages": [[0, 1], [7, 8], [2, 4]]}
    for name in ("adp", "openai-chat"):
        written = export_trajectories([row], tmp_path / f"{name}.jsonl", named(name))
        assert (written.trajectories, written.flaws) == (1, {})


def test_texts_and_ids_to_continue_are_recorded_too_and_survive_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        for _ in range(2):
            bench = Bench(tmp_path / "out", scripted("a", "b", after="last"))
            model = Recording(bench.model, bench.sessions, Route("s"))
            await model.generate(Request(prompt="Once upon"))
            await model.generate(Request(prompt_ids=(72, 105)))
            bench.sessions.close()

    asyncio.run(main())
    row = trajectory_of(tmp_path / "out" / "sessions" / "s.jsonl")
    trajectory = Trajectory.model_validate(row)
    assert texts(row) == ["Once upon", "a", "", "a", "a", "a"]  # each prompt once, its replies where they came
    assert row["content"][2]["extra"]["gateway"] == {"prompt": "token ids", "token_ids": [72, 105]}
    assert [trajectory.prompt_ids(call) for call in (1, 3)] == [(72, 105)] * 2


def test_failures_are_noted_and_a_retry_goes_on_in_the_same_session(tmp_path: Path) -> None:
    faults = [{"kind": "rate_limit", "calls": [1], "seconds": 2.0}, {"kind": "truncated", "calls": [3]}]
    bench = Bench(tmp_path / "out", scripted("a", "b", faults=faults))

    async def main() -> str:
        first = [say("user", "u")]
        with pytest.raises(InfraError):
            await bench.ask(first)
        _, name = await bench.ask(first)
        second = [*first, say("assistant", "a"), say("user", "v")]
        with pytest.raises(InfraError):
            await bench.ask(second)
        assert (await bench.ask(second))[1] == name
        return name

    row = bench.row(asyncio.run(main()))
    assert texts(row) == ["u", "a", "v", "b"]
    failures = row["extra"]["gateway"]["failures"]
    assert [(note["cause"], note["after_calls"]) for note in failures] == [("rate_limit", 0), ("truncated", 1)]
    assert len(row["model_calls"]) == 2


def test_a_cancelled_call_is_a_hang_up_unless_the_gateway_stops(tmp_path: Path) -> None:
    clock = SystemClock()
    bench = Bench(tmp_path / "out", scripted("slow", clock=clock, seconds_per_token=30.0))

    async def main() -> None:
        for session in ("left", "stopped"):
            route = Route(session)
            task = asyncio.create_task(bench.ask([say("user", "u")], route=route))
            await asyncio.sleep(0)
            route.gone = session == "left"
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    for session, cause in (("left", "hang_up"), ("stopped", "stopped")):
        row = bench.row(session)
        assert texts(row) == ["u"] and "model_calls" not in row
        assert [note["cause"] for note in row["extra"]["gateway"]["failures"]] == [cause]


def test_a_change_of_tools_is_told_from_which_call_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "out", scripted("a", "b", "c", after="last"))

    async def main() -> None:
        messages = [say("user", "u")]
        for tools in ((TOOL,), (TOOL,), (TOOL, OTHER), (OTHER,)):
            reply, _ = await bench.ask(messages, "s", tools=tools)
            messages = [*messages, reply.message, say("user", "more")]

    asyncio.run(main())
    row = bench.row("s")
    assert row["tools"] == [TOOL, OTHER]
    told = row["extra"]["gateway"]["tools"]
    assert told == [{"call": 0, "offered": [0]}, {"call": 2, "offered": [0, 1]}, {"call": 3, "offered": [1]}]


@pytest.mark.parametrize("kept", [512, 2])
def test_unnamed_sessions_with_the_same_beginning_stay_apart(tmp_path: Path, kept: int) -> None:
    bench = Bench(tmp_path / "out", scripted("same", "r", "end"), kept=kept)

    async def agent(number: int) -> str:
        messages = [say("user", "the same task")]
        reply, _ = await bench.ask(messages)
        await asyncio.sleep(0)
        messages = [*messages, reply.message, say("user", f"agent {number}")]
        reply, name = await bench.ask(messages)  # twins cannot be told apart before they differ
        assert (await bench.ask([*messages, reply.message, say("user", "more")]))[1] == name
        return name

    async def main() -> list[str]:
        return list(await asyncio.gather(*(agent(number) for number in range(20))))

    names = asyncio.run(main())
    assert len(set(names)) == 20
    for number, name in enumerate(names):
        assert texts(bench.row(name)) == ["the same task", "same", f"agent {number}", "r", "more", "end"]


def test_calls_of_one_session_at_the_same_time_keep_their_own_prompts(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "out", scripted("root", "r", rules=[{"matches": "branch (.)", "text": "to {1}"}]))
    s, u = say("system", "s"), say("user", "u")

    async def main() -> None:
        await bench.ask([s, u], "s")
        asks = [[s, u, say("assistant", "root"), say("user", f"branch {number}")] for number in range(5)]
        await asyncio.gather(*(bench.ask(messages, "s") for messages in asks))

    asyncio.run(main())
    row = bench.row("s")
    for item in row["content"]:
        if item["class_"] == "message_action" and item["model_call"]:
            said = [group[0]["content"] for group in prompt_of(row, item["model_call"])]
            assert said == ["s", "u", "root", f"branch {item['content'][-1]}"]
    assert len(row["model_calls"]) == 6 and len(row["content"]) == 3 + 5 * 2


def test_a_gateway_started_again_goes_on_with_old_sessions_and_starts_new_ones(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    turns = [say("user", "u")]

    async def once(names: list[str], beginning: bool) -> None:
        nonlocal turns
        bench = Bench(folder, scripted({"text": "a", "reasoning": "x"}, "b", "c"))
        reply, name = await bench.ask(turns)
        names.append(name)
        turns = [*turns, say("assistant", reply.text), say("user", "next")]
        if not beginning:
            row = bench.row(name)
            before = Trajectory.model_validate(row)
            assert before.model_calls[1].prompt is not None and before.model_calls[1].prompt.base == 0
            _, fresh = await bench.ask([say("user", "something else")])
            names.append(fresh)
        bench.sessions.close()

    names: list[str] = []
    asyncio.run(once(names, True))
    with (folder / "sessions" / f"{names[0]}.jsonl").open("ab") as file:
        file.write(b'{"content": [{"class_"')  # what a kill in the middle of a write leaves
    asyncio.run(once(names, False))
    assert names == ["session-000001", "session-000001", "session-000002"]
    row = trajectory_of(folder / "sessions" / "session-000001.jsonl")
    assert texts(row) == ["u", "a", "next", "b"] and len(row["model_calls"]) == 2


def test_a_folder_is_used_by_one_gateway_and_never_taken_from_somebody_else(tmp_path: Path) -> None:
    first = Sessions(tmp_path / "out", VirtualClock())
    with pytest.raises(LockedError):
        Sessions(tmp_path / "out", VirtualClock())
    first.close()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not made by a gateway"):
        Sessions(tmp_path / "other", VirtualClock())


def test_secrets_do_not_reach_the_disk_and_the_session_goes_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "out", scripted("a", "b"), Redactor({"MY_API_KEY": "open-sesame-123"}))

    async def main() -> None:
        messages = [say("user", "the key is open-sesame-123")]
        reply, _ = await bench.ask(messages, "s")
        await bench.ask([*messages, reply.message, say("user", "next")], "s")

    asyncio.run(main())
    assert b"open-sesame" not in (tmp_path / "out" / "sessions" / "s.jsonl").read_bytes()
    assert texts(bench.row("s")) == ["the key is [redacted MY_API_KEY]", "a", "next", "b"]


def test_a_kill_loses_at_most_the_call_in_flight(tmp_path: Path) -> None:
    program = """
import asyncio, os, signal, sys
from pathlib import Path
from fairtrial.core.clock import SystemClock
from fairtrial.models.gateway.recording import Recording, Route
from fairtrial.models.gateway.sessions import Sessions
from fairtrial.models.model import Message, Request
from fairtrial.models.scripted import Script, ScriptedModel
async def main():
    model = ScriptedModel(Script(replies=("a", "b", "c")), SystemClock())
    sessions = Sessions(Path(sys.argv[1]), SystemClock())
    messages = (Message(role="user", content="u"),)
    for turn in range(2):
        reply = await Recording(model, sessions, Route()).generate(Request(messages=messages))
        messages = (*messages, reply.message, Message(role="user", content=f"next {turn}"))
    asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGKILL)
    await Recording(model, sessions, Route()).generate(Request(messages=messages))
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "out")], capture_output=True, check=False)
    assert done.returncode == -9, done.stderr.decode()
    row = trajectory_of(tmp_path / "out" / "sessions" / "session-000001.jsonl")
    assert texts(row)[:4] == ["u", "a", "next 0", "b"]
    Sessions(tmp_path / "out", VirtualClock()).close()


WORDS = st.sampled_from(["x", "y", "z"])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), WORDS), min_size=1, max_size=12))
def test_every_prompt_can_be_had_back_whatever_an_agent_does_to_its_history(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, str]]
) -> None:
    bench = Bench(tmp_path_factory.mktemp("g") / "out", scripted("x", "y", after="again"))
    sent: list[list[Message]] = []
    replies: list[Reply] = []

    async def main() -> None:
        history = [say("system", "s")]
        for drop, at, word in steps:
            history = history[: max(1, len(history) - drop)] if at < 3 else [history[0], *history[1 + drop :]]
            if at == 5:
                history = list(reversed(history))
            history = [*history, say("user", word)]
            sent.append(history)
            reply, _ = await bench.ask(history, "s")
            replies.append(reply)
            history = [*history, say("assistant", reply.text)]

    asyncio.run(main())
    row = bench.row("s")
    trajectory = Trajectory.model_validate(row)
    for call, (messages, reply) in enumerate(zip(sent, replies, strict=True)):
        assert [key(group) for group in prompt_of(row, call)] == as_sent(messages)
        assert trajectory.prompt_ids(call) == reply.prompt_ids


def test_recording_loads_no_heavy_library() -> None:
    code = "import fairtrial.models.gateway.recording, sys; print(sorted(m for m in sys.modules if m in "
    code += "('torch', 'transformers', 'openai', 'uvicorn', 'starlette')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=dict(os.environ))
    assert orjson.loads(done.stdout.replace(b"'", b'"')) == []
