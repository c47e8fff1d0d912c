"""Calls of a turn that begin while the model still writes it (LLMCompiler, 2312.04511, streams its plans, too).

Only what changes nothing begins early (the executor holds writes back until the plan is whole), and only behind a fold
that could be read. Whether the turn is accepted is decided when it is whole, as without streaming. If it is not, what
runs is stopped, and what was begun is noted: it cost something, and the model never sees it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from fairtrial.agents.log import Result
from fairtrial.agents.planners.plan import Node, Plan
from fairtrial.agents.planners.planner import Planner
from fairtrial.agents.running import Mode
from fairtrial.models.model import Delta

_SHARE = 32
"""The text is read anew when it has grown by one part in so many: all readings together are linear in its length."""
_END = "</think>"

Begin = Callable[[AsyncIterator[Node], Callable[[Result], None]], Coroutine[Any, Any, object]]


class Ahead:
    """What of one turn runs ahead of it."""

    def __init__(self, nodes: Callable[[str], tuple[Node, ...]], begin: Begin, *, inside: bool = False) -> None:
        """Nothing runs yet.

        Args:
            nodes: The calls that are complete in an unfinished text, without what it thinks at its beginning. For a
                text that has grown it gives the same ones first.
            begin: Runs the nodes that come; told of each result.
            inside: The text begins within thinking that the prompt's template has opened.
        """
        self._nodes, self._begin, self._inside = nodes, begin, inside
        self._pieces: list[str] = []
        self._edge, self._size, self._read = "", 0, 0
        self._fed: list[Node] = []
        self._queue: asyncio.Queue[Node | None] = asyncio.Queue()
        self._task: asyncio.Task[object] | None = None
        self.results: dict[str, Result] = {}
        """By node, as they come."""

    def hear(self, delta: Delta) -> None:
        """One more piece of the reply; begins what is complete by now."""
        if not delta.text:
            return
        self._pieces.append(delta.text)
        self._size += len(delta.text)
        edge, self._edge = self._edge + delta.text, (self._edge + delta.text)[1 - len(_END) :]
        if self._inside and _END not in edge:
            return
        if self._inside:
            self._leave()
        if self._size - self._read <= self._read // _SHARE:
            return
        text = "".join(self._pieces)
        if not self._fed and text.lstrip().startswith("<think>"):
            self._inside = True
            if _END not in text:
                return
            text = self._leave()
        self._pieces, self._read = [text], self._size
        for node in self._nodes(text)[len(self._fed) :]:
            self._feed(node)

    def fits(self, plan: Plan) -> bool:
        """Whether what was begun is what the plan begins with."""
        return plan.nodes[: len(self._fed)] == tuple(self._fed)

    async def go_on(self, plan: Plan) -> bool:
        """Run the rest of the accepted plan to its end; False where nothing was begun. Raises as `execute` does."""
        if self._task is None:
            return False
        for node in (*plan.nodes[len(self._fed) :], None):
            self._queue.put_nowait(node)
        await self._task
        return True

    async def stop(self) -> list[tuple[Node, Result]]:
        """Stop all that was begun and tell what became of it, in the order of the text. Nothing can be heard again."""
        task, self._task = self._task, None
        if task is None:
            return []
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        told = [(node, self.results.pop(node.id)) for node in self._fed if node.id in self.results]
        return [(node, result) for node, result in told if result.attempts]

    def _leave(self) -> str:
        """Behind the thinking: what is left of the text."""
        text = "".join(self._pieces).partition(_END)[2]
        self._pieces, self._size, self._read, self._inside = [text], len(text), 0, False
        return text

    def _feed(self, node: Node) -> None:
        self._fed.append(node)
        self._queue.put_nowait(node)
        if self._task is None:
            self._task = asyncio.create_task(self._begin(self._stream(), self._told))

    def _told(self, result: Result) -> None:
        self.results[result.node] = result

    async def _stream(self) -> AsyncIterator[Node]:
        while (node := await self._queue.get()) is not None:
            yield node


def begins_inside(text: str) -> bool:
    """Whether a reply begins within thinking: it ends some that it has not opened."""
    before, end, _ = text.partition(_END)
    return bool(end) and "<think>" not in before


def why_not(planner: Planner, mode: Mode, simulated: bool, *, scripted: bool, live: bool) -> str | None:
    """Why streaming would change nothing in a run, as the end of a sentence; None where it may.

    `scripted`: the model's replies take no time. `live`: its pieces are passed on as they come.
    """
    if not hasattr(planner, "nodes_so_far"):
        return "needs a planner whose plans grow call by call: graph, compiler or rewoo"
    if mode != "ready":
        return f'needs execution = "ready": "{mode}" waits for the whole plan'
    if simulated:
        return 'gains nothing in simulated time, of which no model takes any: set time = "real" in [suite]'
    if scripted:
        return "needs a model that streams; the oracle replies at once"
    return None if live else "needs live = true in the model's table, or its pieces come when the reply is whole"
