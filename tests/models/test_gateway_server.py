"""The gateway over HTTP: an agent with the openai SDK, sessions by header, path and conversation, hang-ups."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from fairtrial.core.clock import SystemClock
from fairtrial.core.errors import UserError
from fairtrial.core.redact import Redactor
from fairtrial.core.trajectory import Trajectory
from fairtrial.formats.exporting import export_trajectories, rows_of
from fairtrial.formats.format import named
from fairtrial.models.gateway.app import build
from fairtrial.models.gateway.sessions import Sessions, trajectory_of
from fairtrial.models.scripted import Script, ScriptedModel
from fairtrial.models.serving.listening import LOOPBACK_NAMES, listen, run, url
from fairtrial.models.serving.server import Serving

httpx = pytest.importorskip("httpx2")
openai = pytest.importorskip("openai")


@asynccontextmanager
async def gateway(folder: Path, model: Any, **serving: Any) -> AsyncGenerator[str]:
    """A gateway on a free port; gives its address."""
    sock, stop = listen("127.0.0.1", 0), asyncio.Event()
    sessions = Sessions(folder, SystemClock(), Redactor({}))
    app = build(model, sessions, Serving(hosts=LOOPBACK_NAMES, **serving), SystemClock())
    address = url(sock)
    task = asyncio.create_task(run(app, sock, stop, grace_s=1))
    try:
        yield address
    finally:
        stop.set()
        await task
        sessions.close()


def scripted(*replies: Any, **settings: Any) -> ScriptedModel:
    return ScriptedModel(Script(replies=replies, **settings), SystemClock())


def row(folder: Path, session: str) -> dict[str, Any]:
    found = trajectory_of(folder / "sessions" / f"{session}.jsonl")
    Trajectory.model_validate(found)
    return found


def texts(found: dict[str, Any]) -> list[str]:
    return [item["content"] for item in found["content"]]


async def chat(client: Any, messages: list[dict[str, Any]], **fields: Any) -> Any:
    return await client.chat.completions.create(model="scripted", messages=messages, **fields)


def test_sessions_by_header_and_by_path_never_mix(tmp_path: Path) -> None:
    out = tmp_path / "out"

    async def agent(address: str, name: str, by_path: bool) -> None:
        base = f"{address}/s/{name}/v1" if by_path else f"{address}/v1"
        headers = {} if by_path else {"X-Fairtrial-Session": name}
        async with openai.AsyncOpenAI(base_url=base, api_key="-", default_headers=headers) as client:
            messages: list[dict[str, Any]] = [{"role": "user", "content": "the same task"}]
            for turn in range(3):
                stream = turn == 1
                if stream:
                    parts = [
                        chunk.choices[0].delta.content or ""
                        async for chunk in await chat(client, messages, stream=True)
                    ]
                    said = "".join(parts)
                else:
                    said = (await chat(client, messages)).choices[0].message.content
                messages += [{"role": "assistant", "content": said}, {"role": "user", "content": f"{name} {turn}"}]

    async def main() -> None:
        async with gateway(out, scripted("one", "two", "three", seconds_per_token=0.001)) as address:
            await asyncio.gather(*(agent(address, f"a{number}", number % 2 == 0) for number in range(20)))

    asyncio.run(main())
    assert len(list((out / "sessions").iterdir())) == 20
    for number in range(20):
        found = row(out, f"a{number}")
        name = f"a{number}"
        assert texts(found) == ["the same task", "one", f"{name} 0", "two", f"{name} 1", "three"]
        deltas = [call["prompt"] for call in found["model_calls"]]
        assert [delta.get("base") for delta in deltas] == [None, 0, 1]
        assert "extra" not in found


def test_an_answer_says_where_it_was_recorded_and_a_conversation_goes_on_there(tmp_path: Path) -> None:
    async def main() -> None:
        async with gateway(tmp_path / "out", scripted("a", "b")) as address, httpx.AsyncClient() as client:
            first = [{"role": "user", "content": "u"}]
            body = {"messages": first}
            answer = await client.post(f"{address}/v1/chat/completions", json=body)
            name = answer.headers["x-fairtrial-session"]
            body = {"messages": [*first, answer.json()["choices"][0]["message"], {"role": "user", "content": "v"}]}
            again = await client.post(f"{address}/v1/chat/completions", json=body)
            assert again.headers["x-fairtrial-session"] == name
            other = await client.post(f"{address}/v1/chat/completions", json={"messages": first})
            assert other.headers["x-fairtrial-session"] != name
            bad = await client.get(f"{address}/s/a..b/v1/models")
            assert bad.status_code == 400 and "not a valid name" in bad.json()["error"]["message"]

    asyncio.run(main())


def test_a_client_that_hangs_up_and_a_request_that_is_refused_are_noted(tmp_path: Path) -> None:
    out = tmp_path / "out"

    async def main() -> None:
        async with gateway(out, scripted("slow and long", seconds_per_token=5.0)) as address:
            for stream in (False, True):
                body = {"messages": [{"role": "user", "content": "u"}], "stream": stream}
                async with httpx.AsyncClient() as client:
                    task = asyncio.create_task(client.post(f"{address}/s/gone/v1/chat/completions", json=body))
                    await asyncio.sleep(0.2)
                    task.cancel()
                    await asyncio.wait((task,))
            async with httpx.AsyncClient() as client:
                answer = await client.post(f"{address}/s/gone/v1/chat/completions", json={"messages": []})
                assert answer.status_code == 400
            await asyncio.sleep(0.2)

    asyncio.run(main())
    found = row(out, "gone")
    assert texts(found) == ["u"] and "model_calls" not in found
    assert [note["cause"] for note in found["extra"]["gateway"]["failures"]] == ["hang_up", "hang_up", "http_400"]


def test_a_client_that_hangs_up_in_the_queue_is_noted_and_a_stranger_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"

    async def main() -> None:
        model = scripted("slow and long", seconds_per_token=5.0)
        async with gateway(out, model, concurrency=1, api_key="s3cret") as address, httpx.AsyncClient() as client:
            body = {"messages": [{"role": "user", "content": "u"}]}
            answer = await client.post(f"{address}/s/stranger/v1/chat/completions", json=body)
            assert answer.status_code == 401
            client.headers["authorization"] = "Bearer s3cret"
            tasks = []
            for name in ("first", "waiting"):
                tasks.append(asyncio.create_task(client.post(f"{address}/s/{name}/v1/chat/completions", json=body)))
                await asyncio.sleep(0.2)
            for task in reversed(tasks):
                task.cancel()
                await asyncio.wait((task,))
                await asyncio.sleep(0.2)

    asyncio.run(main())
    assert sorted(path.stem for path in (out / "sessions").iterdir()) == ["first", "waiting"]
    for name, reason in (("first", "before the reply was complete"), ("waiting", "before the model was asked")):
        [note] = row(out, name)["extra"]["gateway"]["failures"]
        assert note["cause"] == "hang_up" and reason in note["message"]


def test_what_was_recorded_can_be_shown_and_exported_while_the_gateway_runs(tmp_path: Path) -> None:
    out = tmp_path / "out"
    call = {"text": "look", "tool_calls": [{"name": "bash", "arguments": {"command": "ls"}}]}
    tool = {"type": "function", "function": {"name": "bash", "parameters": {"type": "object"}}}

    async def main() -> None:
        async with gateway(out, scripted(call, "done")) as address:
            async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="-") as client:
                messages: list[dict[str, Any]] = [{"role": "user", "content": "list"}]
                said = (await chat(client, messages, tools=[tool])).choices[0].message
                messages += [said.model_dump(), {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": "f"}]
                await chat(client, messages, tools=[tool])
            shown = await asyncio.to_thread(
                subprocess.run,
                [
                    sys.executable,
                    "-c",
                    "from fairtrial.app.cli import main; main()",
                    "show",
                    str(out),
                    "session-000001",
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            assert "agent calls bash(command='ls')" in shown.stdout, shown.stderr

    asyncio.run(main())
    for format in ("adp", "openai-chat", "fairtrial"):
        written = export_trajectories(rows_of(out), tmp_path / f"{format}.jsonl", named(format))
        assert (written.trajectories, sum(written.refused.values())) == (1, 0)
    messages = orjson.loads((tmp_path / "openai-chat.jsonl").read_bytes())["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant"]
    assert messages[1]["tool_calls"][0]["function"]["arguments"] == '{"command":"ls"}'


def test_the_verb_goes_on_with_a_session_after_a_kill_and_stops_when_told(tmp_path: Path) -> None:
    script = tmp_path / "script.toml"
    script.write_text('replies = ["hello", "again"]\n')
    code = "import typer; from fairtrial.app.gatewaying import register; app = typer.Typer(); register(app); app()"
    command = [
        sys.executable,
        "-c",
        code,
        f"scripted:{script}",
        "--out",
        str(tmp_path / "out"),
        "--port",
        "0",
        "--json",
    ]
    messages = [{"role": "user", "content": "hi"}]
    for number, said in ((signal.SIGKILL, "hello"), (signal.SIGINT, "again")):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=dict(os.environ))
        try:
            assert process.stdout is not None
            address = orjson.loads(process.stdout.readline())["url"]
            answer = httpx.post(f"{address}/chat/completions", json={"messages": messages})
            reply = answer.json()["choices"][0]["message"]
            assert reply["content"] == said
            messages += [reply, {"role": "user", "content": "and?"}]
            process.send_signal(number)
            assert process.wait(20) == (0 if number == signal.SIGINT else -number)
        finally:
            process.kill()
            process.wait()
    assert texts(row(tmp_path / "out", "session-000001")) == ["hi", "hello", "and?", "again"]


@pytest.mark.parametrize(
    ("model", "out", "message"),
    [
        ("scripted:absent.toml", "new", "absent.toml: no such file"),
        ("nonsense:x", "new", "nonsense"),
        ("scripted:script.toml", "set", 'unknown key "nmae"; did you mean "name"?'),
        ("scripted:script.toml", ".", "was not made by a gateway; choose another place with --out"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, out: str, message: str
) -> None:
    from fairtrial.app.gatewaying import gateway as verb

    monkeypatch.chdir(tmp_path)
    (tmp_path / "script.toml").write_text('replies = ["hello"]\n')
    with pytest.raises(UserError) as told:
        verb(model, Path(out), port=0, set_=["nmae=x"] if out == "set" else None)
    assert message in str(told.value) and "\n" not in str(told.value)
