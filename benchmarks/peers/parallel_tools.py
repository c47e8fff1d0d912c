"""Parallel tool calls of one model turn in LangGraph's ToolNode and pydantic-ai, for `benchmarks/makespan.py`.

usage: PEER_PYTHON benchmarks/peers/parallel_tools.py

Prints one JSON line per setting: for each bad call, how many of the three good siblings' results reach the model, what
became of it, wall seconds and tasks left over; and the CPU per call of many no-op calls. Each is used by its public
interface, as its documentation shows it; where it has an option for a case (error handler, timeout), a row uses it.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.metadata
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

WALL_S = 3.0
BAD = ("fails", "hangs", "cancelled")


async def good() -> str:
    """Answer after a tenth of a second."""
    await asyncio.sleep(0.1)
    return "fine"


async def fails() -> str:
    """Fail at once."""
    raise ConnectionError("gone")


async def hangs() -> str:
    """Never answer."""
    await asyncio.get_running_loop().create_future()
    return ""


async def cancelled() -> str:
    """Be cancelled from inside."""
    await asyncio.sleep(0.05)
    raise asyncio.CancelledError


async def noop() -> str:
    """Nothing."""
    return "x"


TOOLS = {tool.__name__: tool for tool in (good, fails, hangs, cancelled, noop)}
Turn = Callable[[list[str]], Awaitable[list[str]]]
"""Calls the named tools as one turn; the texts that would reach the model, in order."""


def langgraph(**options: Any) -> Turn:
    from langchain_core.messages import AIMessage, HumanMessage
    from langchain_core.tools import tool
    from langgraph.graph import END, START, MessagesState, StateGraph
    from langgraph.prebuilt import ToolNode

    graph = StateGraph(MessagesState)
    step_timeout = options.pop("step_timeout", None)
    graph.add_node("tools", ToolNode([tool(each) for each in TOOLS.values()], **options))
    graph.add_edge(START, "tools")
    graph.add_edge("tools", END)
    app = graph.compile()
    app.step_timeout = step_timeout

    async def turn(names: list[str]) -> list[str]:
        calls = [{"name": name, "args": {}, "id": f"c{n}"} for n, name in enumerate(names)]
        message = AIMessage("", tool_calls=calls)
        state = await app.ainvoke({"messages": [HumanMessage("go"), message]})
        return [str(each.content) for each in state["messages"][2:]]

    return turn


def pydantic_ai(**options: Any) -> Turn:
    from pydantic_ai import Agent
    from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
    from pydantic_ai.models.function import FunctionModel

    wanted: list[str] = []
    seen: list[str] = []

    def model(messages: Any, info: Any) -> ModelResponse:
        if len(messages) == 1:
            return ModelResponse([ToolCallPart(name, {}, f"c{n}") for n, name in enumerate(wanted)])
        seen[:] = [
            str(part.content) for part in messages[-1].parts if part.part_kind in ("tool-return", "retry-prompt")
        ]
        return ModelResponse([TextPart("done")])

    agent = Agent(FunctionModel(model), **options)
    for each in TOOLS.values():
        agent.tool_plain(each)

    async def turn(names: list[str]) -> list[str]:
        wanted[:], seen[:] = names, []
        await agent.run("go")
        return list(seen)

    return turn


async def case(turn: Turn, bad: str) -> dict[str, Any]:
    started, told, raised = time.monotonic(), [], ""
    task = asyncio.create_task(turn(["good", "good", bad, "good"]))
    done, _ = await asyncio.wait({task}, timeout=WALL_S)
    if not done:
        raised = f"still running after {WALL_S:g} s"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    elif task.cancelled():
        raised = "CancelledError"
    elif (error := task.exception()) is not None:
        raised = f"{type(error).__name__}: {str(error)[:60]}"
    else:
        told = task.result()
    seconds = time.monotonic() - started
    await asyncio.sleep(0.3)
    left = len(asyncio.all_tasks() - {asyncio.current_task()})
    others = [text for text in told if text != "fine"]
    return {"good": told.count("fine"), "bad": raised or (others or ["nothing"])[0], "seconds": seconds, "left": left}


def cpu_per_call(turn: Turn, calls: int = 200, rounds: int = 5) -> float:
    best = float("inf")
    for _ in range(rounds):
        gc.collect()
        started = time.process_time()
        asyncio.run(turn(["noop"] * calls))  # type: ignore[arg-type]
        best = min(best, time.process_time() - started)
    return best / calls * 1e6


def main() -> None:
    peers: list[tuple[str, str, Callable[[], Turn]]] = [
        ("langgraph", "ToolNode, as it comes", langgraph),
        ("langgraph", "ToolNode, handle_tool_errors=True", lambda: langgraph(handle_tool_errors=True)),
        ("langgraph", "ToolNode, step_timeout=1", lambda: langgraph(handle_tool_errors=True, step_timeout=1.0)),
        ("pydantic-ai-slim", "as it comes", pydantic_ai),
        ("pydantic-ai-slim", "tool_timeout=1", lambda: pydantic_ai(tool_timeout=1.0)),
    ]
    for package, name, make in peers:
        row: dict[str, Any] = {"package": package, "version": importlib.metadata.version(package), "name": name}
        for bad in BAD:
            row[bad] = asyncio.run(case(make(), bad))
        row["us"] = cpu_per_call(make())
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
