"""Traps that are about what is compared: no help that an arm did not ask for, and benchmarks that measure one thing."""

import ast
import asyncio
from pathlib import Path

import pytest

from fairtrial.agents.accounting import Estimate, account
from fairtrial.agents.context.opening import open_policy
from fairtrial.agents.log import Result
from fairtrial.agents.planners.opening import open_planner
from fairtrial.agents.planners.plan import Node, Plan
from fairtrial.agents.planners.planner import Move
from fairtrial.agents.runtime import Runtime
from fairtrial.agents.tools.tool import Tool
from fairtrial.core.clock import VirtualClock
from fairtrial.core.config import parse
from fairtrial.core.limits import Usage
from fairtrial.core.virtual_time import run_virtual
from fairtrial.models.model import Message, Reply
from fairtrial.tasks.worlds.wiki import Wiki

BENCHMARKS = sorted((Path(__file__).parents[2] / "benchmarks").rglob("*.py"))
TORCH = ("torch", "transformers", "fairtrial.nn", "fairtrial.models.native", "fairtrial.models.hf")


class Again:
    """A model that makes one call again and again, and then answers."""

    name, context, features = "again", None, frozenset()

    def __init__(self, text, times):
        self.text, self.left, self.seen = text, times, []

    async def generate(self, request, *, on_delta=None, timer=None):
        self.seen.append(request.messages)
        self.left -= 1
        said = self.text if self.left >= 0 else "<answer>none</answer>"
        return Reply(
            message=Message(role="assistant", content=said), finish="stop", model="again", usage=Usage(calls=1)
        )


@pytest.mark.parametrize("tool", ["search", "visit"])
def test_trap_19_a_repeated_call_gets_its_whole_result_again_and_counts_as_wasted(tool):
    world = Wiki(parse(Wiki.settings_type, {"n": 1, "pages": 40}, where="world"), Path())
    (episode,) = world.episodes()
    clock = VirtualClock()
    tools = [Tool(f.name, f.description, f.parameters, f.call) for f in world.functions(episode, clock, 1)]
    page = next(step.page for step in episode.plan if step.page)
    planner = open_planner("react")
    text, _ = planner.write(
        Move(plan=Plan((Node("1", tool, {"query": page} if tool == "search" else {"title": page}),)))
    )
    model = Again(text, 3)
    runtime = Runtime(model, open_policy("append", Estimate(4.0)), planner, tools, clock)
    log = run_virtual(runtime.play(runtime.begin(episode.question, seed=1)), clock)
    results = [event.text for event in log.events if isinstance(event, Result)]
    assert len(results) == 3 and len(set(results)) == 1 and page in results[0]
    told = account(log, Estimate(4.0))["tools"]
    assert told["calls"] == 3 and told["repeated"] == 2 and told["wasted"] >= 2 / 3 - 1e-9
    shown = "\n".join(message.content for message in model.seen[-1])
    assert shown.count(results[0]) == 3, "no canned sentence takes its place"


def test_trap_18_benchmarks_that_compute_with_torch_pin_its_threads():
    unpinned = []
    for path in BENCHMARKS:
        source = path.read_text()
        imported = {
            name
            for node in ast.walk(ast.parse(source))
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        if any(name == part or name.startswith(f"{part}.") for name in imported for part in TORCH):
            unpinned += [] if "set_num_threads" in source or "OMP_NUM_THREADS" in source else [path.name]
    assert unpinned == []


def test_trap_10_and_14_one_turn_with_every_kind_of_failure_ends_and_leaves_no_task():
    clock = VirtualClock()

    async def act(args):
        how = args["how"]
        if how == "hang":
            await asyncio.get_running_loop().create_future()
        if how == "cancel":
            raise asyncio.CancelledError
        if how == "fail":
            raise ConnectionError("gone")
        await clock.sleep(1)
        return how

    schema = {"type": "object", "properties": {"how": {"type": "string"}}, "required": ["how"]}
    hows = ["hang", "good", "cancel", "fail", "fine"]
    graph = "".join(f'<node id="n{n}">act("{how}")</node>' for n, how in enumerate(hows))
    later = '<node id="after" depends="n0">act("late")</node>'
    model = Again(f"<graph>{graph}{later}</graph>", 1)
    tool = Tool("act", "", schema, act, effect="read", timeout_s=5)
    runtime = Runtime(model, open_policy("append", Estimate(4.0)), open_planner("graph"), [tool], clock)

    async def main():
        log = await runtime.play(runtime.begin("what?", seed=1))
        await asyncio.sleep(0)
        return log, asyncio.all_tasks() - {asyncio.current_task()}

    log, left = run_virtual(main(), clock)
    outcomes = [event.status for event in log.events if isinstance(event, Result)]
    assert outcomes == ["timeout", "ok", "cancelled", "error", "ok", "skipped"] and not left
    assert log.answer == "none" and "gone" in "\n".join(message.content for message in model.seen[-1])
