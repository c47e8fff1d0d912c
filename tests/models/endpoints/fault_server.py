"""A local server that answers like a provider, and fails like one: what it does next is planned by name."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

TEXT = "four and twenty"
PIECES = ("four", " and", " twenty")
USAGE = {"prompt_tokens": 11, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}


@dataclass
class Seen:
    """One request that arrived."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at: float
    request: Request | None = None
    gone: threading.Event = field(default_factory=threading.Event)
    """The client hung up while the server was silent."""


@dataclass
class FaultServer:
    """Answers each request by the next name of `plan`, and by "ok" when the plan is used up."""

    url: str = ""
    plan: list[str] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    inside: int = 0
    most_inside: int = 0

    async def handle(self, request: Request) -> Response:
        body = json.loads(await request.body())
        seen = Seen(request.url.path, dict(request.headers), body, time.monotonic(), request)
        self.seen.append(seen)
        name = self.plan.pop(0) if self.plan else "ok"
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        try:
            answer = ANTHROPIC if request.url.path.endswith("/messages") else OPENAI
            return await answer(name, seen)
        finally:
            self.inside -= 1


def error(status: int, message: str, headers: dict[str, str] | None = None, **fields: Any) -> Response:
    return JSONResponse({"error": {"message": message, **fields}}, status, headers)


async def any_fault(name: str, seen: Seen) -> Response | None:
    """The faults that need no particular API."""
    kind, _, value = name.partition(":")
    key = seen.headers.get("authorization", seen.headers.get("x-api-key", ""))
    match kind:
        case "429":
            return error(429, "slow down", {"retry-after": value} if value else None)
        case "429ms":
            return error(429, "slow down", {"retry-after-ms": value})
        case "status":
            return error(int(value), f"status {value}")
        case "401":
            return error(401, f"Incorrect API key provided: {key}")
        case "html":
            return HTMLResponse("<html><head><title>502 Bad Gateway</title></head>nginx</html>", int(value or 502))
        case "html-200":
            return HTMLResponse("<html><title>Log in</title></html>")
        case "malformed":
            return Response('{"choices": [', media_type="application/json")
        case "array":
            return JSONResponse([1, 2])
        case "text":
            return PlainTextResponse("hello")
        case "error-200":
            return JSONResponse({"error": {"message": "upstream is down", "code": 502}})
        case "huge":
            return Response(b'{"x": "' + b"a" * int(value) + b'"}', media_type="application/json")
        case "silent":
            await wait_gone(seen, float(value))
            return JSONResponse({})
        case "cut-body":
            return Response('{"choices": [', media_type="application/json", headers={"content-length": "999"})
        case "redirect":
            return Response(status_code=307, headers={"location": value})
    return None


async def wait_gone(seen: Seen, seconds: float) -> None:
    """Sleep, or note that the client hung up meanwhile."""
    assert seen.request is not None
    try:
        async with asyncio.timeout(seconds):
            while (await seen.request.receive())["type"] != "http.disconnect":
                pass
            seen.gone.set()
    except TimeoutError:
        pass


def whole(message: dict[str, Any], finish: str = "stop", **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    choice |= more.pop("choice", {})
    return {"id": "c1", "object": "chat.completion", "model": "stub", "choices": [choice], "usage": USAGE} | more


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish} | more.pop("choice", {})
    return {"id": "c1", "object": "chat.completion.chunk", "model": "stub", "choices": [choice]} | more


def logprob_content(values: tuple[float, ...]) -> dict[str, Any]:
    return {"content": [{"token": "x", "logprob": value, "bytes": [120], "top_logprobs": []} for value in values]}


async def OPENAI(name: str, seen: Seen) -> Response:
    if (fault := await any_fault(name, seen)) is not None:
        return fault
    body = seen.body
    if name == "too-long":
        text = "This model's maximum context length is 4096 tokens. However, your messages resulted in 5,003 tokens."
        return error(400, text, code="context_length_exceeded")
    if name == "unsupported":
        return error(400, "Unsupported parameter: 'top_p'", code="unsupported_parameter", param="top_p")
    if name == "filtered":
        return error(400, "violates the policy", code="content_filter")
    if name == "quota":
        return error(429, "You exceeded your quota", {"retry-after": "1"}, code="insufficient_quota")
    if seen.path.endswith("/completions") and not seen.path.endswith("chat/completions"):
        return completions(name, body)
    if name == "echo-model":
        await asyncio.sleep(0.03)
    if body.get("stream") and name != "no-stream":
        return StreamingResponse(openai_stream(name, body), media_type="text/event-stream")
    return JSONResponse(openai_whole(name, body))


def openai_whole(name: str, body: dict[str, Any]) -> dict[str, Any]:
    kind, _, value = name.partition(":")
    choice: dict[str, Any] = {}
    more: dict[str, Any] = {}
    if body.get("logprobs") and kind != "no-logprobs":
        values = (-0.1, -0.2, -0.3)[: 2 if kind == "short-logprobs" else 3]
        choice["logprobs"] = logprob_content(values)
    if body.get("return_token_ids") and kind != "no-ids":
        choice["token_ids"], more["prompt_token_ids"] = [7, 8, 9], [1, 2, 3]
    if kind == "no-choices":
        return whole({}, choices=[])
    if kind == "no-usage":
        more["usage"] = None
    if kind == "finish":
        return whole({"content": TEXT}, value)
    if kind == "refusal":
        return whole({"content": None, "refusal": "I cannot help with that."})
    if kind == "tools":
        call = {"id": "a", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
        return whole({"content": None, "tool_calls": [call]}, "tool_calls")
    if kind == "echo-model":
        return whole({"content": json.dumps(body["messages"])})
    return whole({"content": TEXT, "reasoning_content": "counting"}, choice=choice, **more)


def completions(name: str, body: dict[str, Any]) -> Response:
    choice: dict[str, Any] = {"index": 0, "text": TEXT, "finish_reason": "length"}
    if body.get("echo"):
        choice |= echoed(name, body["prompt"])
    return JSONResponse({"id": "t1", "model": "stub", "choices": [choice], "usage": USAGE})


def echoed(name: str, prompt: str) -> dict[str, Any]:
    """Tokens of three characters; each token's log-probability is minus its place."""
    if name == "no-echo":
        return {}
    tokens = [prompt[at : at + 3] for at in range(0, len(prompt), 3)]
    probs: list[float | None] = [None] + [-float(at) for at in range(1, len(tokens))]
    tops: list[Any] = [None] + [{token: -float(at)} for at, token in enumerate(tokens) if at]
    if name == "not-greedy":
        tops[-1] = {"other": -0.01, tokens[-1]: probs[-1]}
    begin = ["<s>"] if name == "begin-mark" else []
    if begin:
        tokens, probs, tops = [*begin, *tokens], [None, *probs], [None, *tops]
        probs[1], tops[1] = -0.5, {tokens[1]: -0.5}
    tokens, probs, tops = [*tokens, "!!!"], [*probs, -99.0], [*tops, {"!!!": -99.0}]
    offsets = [sum(map(len, tokens[:at])) for at in range(len(tokens))]
    fields = {"tokens": tokens, "token_logprobs": probs, "top_logprobs": tops, "text_offset": offsets}
    return {"logprobs": fields, "text": prompt + "!!!"}


def data(value: Any) -> bytes:
    return f"data: {json.dumps(value)}\n\n".encode()


async def openai_stream(name: str, body: dict[str, Any]) -> AsyncIterator[bytes]:
    kind, _, value = name.partition(":")
    if kind == "stall-first":
        await asyncio.sleep(float(value))
    if kind == "tools":
        for piece in tool_fragments():
            yield data(piece)
        yield b"data: [DONE]\n\n"
        return
    first = {"prompt_token_ids": [1, 2, 3]} if body.get("return_token_ids") else {}
    yield data(chunk({"role": "assistant", "content": ""}, **first))
    for index, piece in enumerate(PIECES):
        if kind == "slow":
            await asyncio.sleep(float(value))
        if index == 2 and kind == "stall-middle":
            yield b": still here\n\n"
            await asyncio.sleep(float(value))
        if index == 2 and kind == "cut":
            raise ConnectionResetError  # uvicorn closes the connection without the last chunk
        if index == 2 and kind == "end-early":
            return
        if index == 2 and kind == "malformed-event":
            yield b'data: {"choices": [\n\n'
        if index == 2 and kind == "error-event":
            yield data({"error": {"message": "the engine died", "type": "server_error"}})
        choice: dict[str, Any] = {"token_ids": [7 + index]} if body.get("return_token_ids") else {}
        if body.get("logprobs"):
            choice["logprobs"] = logprob_content((-(index + 1) / 10,))
        yield data(chunk({"content": piece}, choice=choice))
    yield data(chunk({}, "stop"))
    if kind == "cut-behind":
        raise ConnectionResetError
    if kind != "no-usage":
        yield data({"id": "c1", "choices": [], "usage": USAGE})
    yield b"data: [DONE]\n\n"


def tool_fragments() -> Iterator[dict[str, Any]]:
    """Two calls in fragments that alternate."""
    for index, name in enumerate(("add", "multiply")):
        yield chunk({"tool_calls": [{"index": index, "id": f"id{index}", "function": {"name": name}}]})
    for part in ('{"a"', ": 1", ", ", '"b": "é', '☃"}'):
        for index in (0, 1):
            yield chunk({"tool_calls": [{"index": index, "function": {"arguments": part}}]})
    yield chunk({}, "tool_calls", usage=USAGE)


async def ANTHROPIC(name: str, seen: Seen) -> Response:
    if (fault := await any_fault(name, seen)) is not None:
        return fault
    if name == "too-long":
        message = "prompt is too long: 210000 tokens > 200000 maximum"
        return JSONResponse({"type": "error", "error": {"type": "invalid_request_error", "message": message}}, 400)
    if name == "overloaded":
        return JSONResponse({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, 529)
    blocks = anthropic_blocks(name)
    stop = {"tools": "tool_use", "thinking": "tool_use", "refusal": "refusal", "length": "max_tokens"}
    reason = stop.get(name, "end_turn")
    usage = {
        "input_tokens": 7,
        "cache_read_input_tokens": 4,
        "cache_creation_input_tokens": 2,
        "output_tokens": 3,
    }
    message = {"id": "m1", "type": "message", "role": "assistant", "model": "stub", "stop_reason": reason}
    if seen.body.get("stream"):
        return StreamingResponse(anthropic_stream(name, message, blocks, usage), media_type="text/event-stream")
    return JSONResponse(message | {"content": blocks, "usage": usage})


def anthropic_blocks(name: str) -> list[dict[str, Any]]:
    call = {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 1, "b": "☃"}}
    if name == "tools":
        return [{"type": "text", "text": "adding"}, call]
    if name == "thinking":
        return [{"type": "thinking", "thinking": "let me add", "signature": "c2ln"}, call]
    if name == "refusal":
        return []
    return [{"type": "text", "text": TEXT}]


async def anthropic_stream(
    name: str, message: dict[str, Any], blocks: list[dict[str, Any]], usage: dict[str, int]
) -> AsyncIterator[bytes]:
    def event(kind: str, **fields: Any) -> bytes:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()

    start = message | {"content": [], "stop_reason": None, "usage": usage | {"output_tokens": 1}}
    yield event("message_start", message=start)
    yield event("ping")
    for index, block in enumerate(blocks):
        kind = block["type"]
        empty = {"text": {"text": ""}, "thinking": {"thinking": "", "signature": ""}, "tool_use": {"input": {}}}[kind]
        yield event("content_block_start", index=index, content_block=block | empty)
        for delta in anthropic_deltas(block):
            yield event("content_block_delta", index=index, delta=delta)
            if name == "cut":
                raise ConnectionResetError
            if name == "error-event":
                yield event("error", error={"type": "overloaded_error", "message": "Overloaded"})
                return
        yield event("content_block_stop", index=index)
    if name == "end-early":
        return
    yield event("message_delta", delta={"stop_reason": message["stop_reason"]}, usage={"output_tokens": 3})
    yield event("message_stop")


def anthropic_deltas(block: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if block["type"] == "text":
        half = len(block["text"]) // 2
        yield {"type": "text_delta", "text": block["text"][:half]}
        yield {"type": "text_delta", "text": block["text"][half:]}
    elif block["type"] == "thinking":
        yield {"type": "thinking_delta", "thinking": block["thinking"]}
        yield {"type": "signature_delta", "signature": block["signature"]}
    else:
        text = json.dumps(block["input"])
        yield {"type": "input_json_delta", "partial_json": ""}
        yield {"type": "input_json_delta", "partial_json": text[:5]}
        yield {"type": "input_json_delta", "partial_json": text[5:]}


@contextmanager
def fault_server() -> Iterator[FaultServer]:
    """The server, on a free port of this machine, in a thread."""
    faults = FaultServer()
    paths = ("/v1/chat/completions", "/v1/completions", "/v1/messages")
    app = Starlette(routes=[Route(path, faults.handle, methods=["POST"]) for path in paths])
    listener = socket.create_server(("127.0.0.1", 0))
    faults.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield faults
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


@contextmanager
def resetting_server() -> Iterator[str]:
    """A server that resets each connection as soon as a request arrives."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.recv(65536)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)
