"""What a call of a model behind an endpoint costs us, beside the bare openai SDK on the same stub server.

usage: python benchmarks/endpoint_overhead.py [--save] [--calls 64]

CPU milliseconds of the client process per call, best of three rounds, one after another and 32 at a time, whole and
streamed (16 pieces). The stub runs in a process of its own and answers at once, in constant text. Ours includes what
the bare SDK leaves to its user: limits, retries, timeouts per piece, usage, price, the reply put together. Raw httpx2
is the bound: one POST and json.loads.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

from machine import machine, save

PIECES = 16
MESSAGES = [{"role": "user", "content": "Say something of about sixteen tokens."}]
USAGE = {"prompt_tokens": 11, "completion_tokens": PIECES, "total_tokens": 11 + PIECES}


def whole() -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": "word " * PIECES}, "finish_reason": "stop"}
    head = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
    return json.dumps(head | {"choices": [choice], "usage": USAGE}).encode()


def streamed() -> bytes:
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    deltas: list[tuple[dict[str, Any], str | None]] = [({"content": "word "}, None)] * PIECES + [({}, "stop")]
    chunks = [head | {"choices": [{"index": 0, "delta": d, "finish_reason": f}]} for d, f in deltas]
    chunks.append(head | {"choices": [], "usage": USAGE})
    return b"".join(b"data: " + json.dumps(c).encode() + b"\n\n" for c in chunks) + b"data: [DONE]\n\n"


def serve(listener: socket.socket) -> None:
    """A stub as cheap as can be: reads a request, writes constant bytes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
                body = await reader.readexactly(length)
                stream = json.loads(body).get("stream", False)
                kind, answer = (b"text/event-stream", streamed()) if stream else (b"application/json", whole())
                size = str(len(answer)).encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: " + kind + b"\r\ncontent-length: " + size)
                writer.write(b"\r\n\r\n" + answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(handle, sock=listener)
        await server.serve_forever()

    asyncio.run(run())


async def per_call(call: Callable[[], Awaitable[object]], calls: int, at_once: int) -> float:
    """CPU milliseconds per call, best of three rounds."""
    await call()
    best = float("inf")
    for _ in range(3):
        before = time.process_time()
        for _ in range(calls // at_once):
            await asyncio.gather(*(call() for _ in range(at_once)))
        best = min(best, (time.process_time() - before) / (calls // at_once * at_once))
    return best * 1e3


async def measure(url: str, calls: int) -> dict[tuple[str, bool, int], float]:
    import httpx2
    import openai

    from fairtrial.models.endpoints.openai_api import OpenAIModel, OpenAISettings
    from fairtrial.models.model import Message, Request

    raw = httpx2.AsyncClient(timeout=60)
    bare = openai.AsyncOpenAI(api_key="k", base_url=url, max_retries=0)
    price: Any = {"input": 1.0, "output": 2.0}
    settings = OpenAISettings(name="m", base_url=url, max_concurrent=32, requests_per_minute=10**6, price=price)
    ours = OpenAIModel(settings, "k")
    request = Request(messages=tuple(Message.model_validate(message) for message in MESSAGES))

    async def by_raw(stream: bool) -> None:
        reply = await raw.post(f"{url}/chat/completions", json={"model": "m", "messages": MESSAGES, "stream": stream})
        lines = [line[6:] for line in reply.text.split("\n") if line.startswith("data: {")] if stream else [reply.text]
        assert [json.loads(line) for line in lines]

    async def by_bare(stream: bool) -> None:
        if stream:
            options: Any = {"include_usage": True}
            answer = await bare.chat.completions.create(
                model="m", messages=MESSAGES, stream=True, stream_options=options
            )  # type: ignore[call-overload]
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in answer if chunk.choices])
        else:
            text = (await bare.chat.completions.create(model="m", messages=MESSAGES)).choices[0].message.content  # type: ignore[arg-type]
        assert text == "word " * PIECES

    async def by_ours(stream: bool) -> None:
        reply = await ours.generate(request, on_delta=(lambda delta: None) if stream else None)
        assert reply.text == "word " * PIECES
        assert reply.usage.output_tokens == PIECES

    found: dict[tuple[str, bool, int], float] = {}
    for stream in (False, True):
        for at_once in (1, 32):
            for name, call in (("httpx2", by_raw), ("openai", by_bare), ("ours", by_ours)):
                found[name, stream, at_once] = await per_call(lambda c=call, s=stream: c(s), calls, at_once)
    await raw.aclose()
    await bare.close()
    await ours.close()
    return found


def table(found: dict[tuple[str, bool, int], float]) -> str:
    lines = [
        "Client CPU per call in ms against a stub, best of three rounds",
        f"{'':24}{'raw httpx2':>12}{'openai SDK':>12}{'ours':>10}{'ours/SDK':>10}{'ours/raw':>10}",
    ]
    for stream in (False, True):
        for at_once in (1, 32):
            raw, bare, ours = (found[name, stream, at_once] for name in ("httpx2", "openai", "ours"))
            label = f"{'streamed' if stream else 'whole'}, {at_once} at a time"
            lines.append(f"{label:24}{raw:>12.2f}{bare:>12.2f}{ours:>10.2f}{ours / bare:>9.2f}x{ours / raw:>9.2f}x")
    import openai

    return "\n".join([*lines, "", f"openai {openai.__version__}; {machine()}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--calls", type=int, default=64)
    options = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    stub = multiprocessing.get_context("fork").Process(target=serve, args=(listener,), daemon=True)
    stub.start()
    try:
        text = table(asyncio.run(measure(url, options.calls)))
    finally:
        stub.terminate()
    print(text)
    if options.save:
        print(f"saved: {save('endpoint-overhead', text)}")


if __name__ == "__main__":
    main()
