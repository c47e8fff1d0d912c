"""CPU of the server per request, with a scripted model that costs next to nothing.

    python benchmarks/serve_overhead.py [--save] [--requests 2000]

The bound is a starlette application on the same uvicorn that reads the body, parses its JSON and answers with fixed
bytes; what is above it is ours: validation, slots, watching for a client that leaves, the model, writing the reply.
CPU (user + system) is read from the server's own process; the client is another one's business. Each case: a warm-up,
then three passes, the least of them counts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from machine import machine, save

WORDS = "one two three four five six seven eight"
OURS = f"""
import asyncio, signal
from pathlib import Path
from fairtrial.core.clock import SystemClock
from fairtrial.models.opening import open_model
from fairtrial.models.serving import listening, server
sock = listening.listen("127.0.0.1", 0)
def make():
    model = open_model({{"kind": "scripted", "replies": ["{WORDS}"]}}, Path())
    return server.build(model, server.Serving(hosts=listening.LOOPBACK_NAMES), SystemClock()), model.close
listening.run_until_stopped(make, sock, lambda url: print(url, flush=True), (signal.SIGTERM,))
"""
BARE = """
import orjson, signal
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from fairtrial.models.serving import listening
ANSWER = b'{"choices": [{"message": {"content": "' + b"x" * 400 + b'"}}]}'
async def answer(request):
    orjson.loads(await request.body())
    return Response(ANSWER, media_type="application/json")
async def close():
    pass
sock = listening.listen("127.0.0.1", 0)
app = Starlette(routes=[Route("/v1/chat/completions", answer, methods=["POST"])])
listening.run_until_stopped(lambda: (app, close), sock, lambda url: print(url, flush=True), (signal.SIGTERM,))
"""
BODY = {
    "model": "scripted",
    "messages": [
        {"role": "system", "content": "You are a helpful assistant that answers in few words."},
        {"role": "user", "content": "Count to eight, please."},
    ],
    "temperature": 0.7,
    "max_tokens": 64,
}
CASES: dict[str, tuple[str, dict[str, object]]] = {
    "bound: bare application": (BARE, {}),
    "chat": (OURS, {}),
    "chat, ids and log-probabilities": (OURS, {"logprobs": True, "return_token_ids": True}),
    "chat, streamed in 5 pieces": (OURS, {"stream": True}),
}


@contextmanager
def server(code: str) -> Iterator[tuple[int, int]]:
    """Process id and port of a server."""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.pid, int(process.stdout.readline().rsplit(":", 1)[1])
    finally:
        process.terminate()
        process.wait()


def cpu_s(pid: int) -> float:
    """User and system seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def drive(port: int, body: bytes, count: int, at_once: int) -> None:
    """`count` requests over `at_once` kept connections, each with one request at a time."""
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    async def connection(each: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(each):
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200"), answer
            length = answer.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
            await (reader.readexactly(int(length)) if length else reader.readuntil(b"\r\n0\r\n\r\n"))
        writer.close()

    await asyncio.gather(*(connection(count // at_once) for _ in range(at_once)))


def measure(count: int) -> dict[str, dict[int, float]]:
    """CPU milliseconds per request, by case and by how many at once."""
    found: dict[str, dict[int, float]] = {}
    for name, (code, extra) in CASES.items():
        body = json.dumps({**BODY, **extra}).encode()
        with server(code) as (pid, port):
            asyncio.run(drive(port, body, 320, 32))
            found[name] = {}
            for at_once in (1, 32):
                passes: list[float] = []
                for _ in range(3):
                    before = cpu_s(pid)
                    asyncio.run(drive(port, body, count // 32 * 32, at_once))
                    passes.append((cpu_s(pid) - before) / (count // 32 * 32) * 1000)
                found[name][at_once] = min(passes)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--requests", type=int, default=2000)
    options = parser.parse_args()
    found = measure(options.requests)
    bound = found["bound: bare application"]
    lines = [
        "CPU of the server per request, ms; a scripted model answers 39 bytes, 40 tokens",
        f"{'':<34}{'sequential':>11}{'over bound':>11}{'32 at once':>12}{'over bound':>11}",
    ]
    for name, cells in found.items():
        row = "".join(f"{cells[n]:>{w}.2f}{cells[n] / bound[n]:>10.1f}x" for n, w in ((1, 11), (32, 12)))
        lines.append(f"{name:<34}{row}")
    lines += ["", machine()]
    text = "\n".join(lines)
    print(text)
    if options.save:
        print(f"saved: {save('serve-overhead', text)}")


if __name__ == "__main__":
    main()
