"""Tools from Python functions: what a model is told of them, what is checked, and what a cancelled call leaves."""

import asyncio
import threading
from dataclasses import dataclass
from typing import Literal

import fastjsonschema
import pytest

from fairtrial.agents.tools.functions import function_tool
from fairtrial.agents.tools.tool import ToolError
from fairtrial.core.errors import UserError


def weather(city: str, unit: Literal["celsius", "kelvin"] = "celsius", days: int = 1) -> dict:
    """The weather in a city.

    Also of the next days.

    Args:
        city: Its English name,
            as on a map.
        days (int): How many, today included.

    Returns:
        Degrees by day.
    """
    return {"city": city, "unit": unit, "degrees": [20] * days}


def test_signature_and_docstring_become_the_schema():
    tool = function_tool(weather)
    assert (tool.name, tool.description) == ("weather", "The weather in a city.\n\nAlso of the next days.")
    assert tool.parameters == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Its English name, as on a map."},
            "unit": {"enum": ["celsius", "kelvin"], "type": "string", "default": "celsius"},
            "days": {"type": "integer", "default": 1, "description": "How many, today included."},
        },
        "required": ["city"],
        "additionalProperties": False,
    }
    fastjsonschema.compile(tool.schema["function"]["parameters"])({"city": "Bern"})


def test_a_call_gives_json_and_refuses_wrong_arguments_in_one_line():
    tool = function_tool(weather)
    assert asyncio.run(tool.call({"city": "Bern", "days": 2})) == {
        "city": "Bern",
        "unit": "celsius",
        "degrees": [20, 20],
    }
    for wrong, said in (
        ({}, '"city" is required'),
        ({"city": "Bern", "unit": "mile"}, "'celsius' or 'kelvin'"),
        ({"city": "Bern", "town": 1}, 'unknown key "town"'),
    ):
        with pytest.raises(ToolError, match=r"^weather: ") as caught:
            asyncio.run(tool.call(wrong))
        assert said in str(caught.value) and "\n" not in str(caught.value)


@dataclass
class Point:
    """A place."""

    x: float
    title: str = "here"


def test_nested_types_names_that_clash_and_async_functions():
    async def move(to: Point, schema: str, json: list[int], model_config: int | None = None) -> Point:
        await asyncio.sleep(0)
        return Point(to.x + sum(json), schema)

    tool = function_tool(move, name="step", description="Moves.")
    shown = tool.parameters
    assert set(shown["properties"]) == {"to", "schema", "json", "model_config"}
    assert set(shown["$defs"]["Point"]["properties"]) == {"x", "title"}
    check = fastjsonschema.compile(shown)
    check({"to": {"x": 1}, "schema": "a", "json": []})
    with pytest.raises(fastjsonschema.JsonSchemaException):
        check({"to": {"y": 1}, "schema": "a", "json": []})
    assert asyncio.run(tool.call({"to": {"x": 1}, "schema": "a", "json": [2, 3]})) == {"x": 6.0, "title": "a"}


def test_what_cannot_be_a_schema_is_refused_in_one_line():
    def many(*values):
        pass

    def odd(lock: threading.Thread):
        pass

    def lost(what: "Nowhere"):  # noqa: F821
        pass

    for function, name in ((many, "values"), (odd, "Thread"), (lost, "Nowhere")):
        with pytest.raises(UserError, match=name) as caught:
            function_tool(function)
        assert "\n" not in str(caught.value)


def test_plain_functions_run_beside_each_other_and_their_errors_come_out():
    together = threading.Barrier(3, timeout=5)

    def meet(name: str) -> str:
        together.wait()
        if name == "b":
            raise LookupError("nobody here")
        if name == "c":
            raise StopIteration("odd")
        return name

    async def all_three():
        tool = function_tool(meet)
        return await asyncio.gather(*(tool.call({"name": name}) for name in "abc"), return_exceptions=True)

    first, second, third = asyncio.run(all_three())
    assert first == "a" and isinstance(second, LookupError) and isinstance(third, RuntimeError)


def test_trap_14_a_timed_out_function_that_listens_leaves_no_thread():
    ended = threading.Event()

    def dig(depth: int, stop: threading.Event) -> str:
        while not stop.wait(0.01):
            pass
        ended.set()
        return "given up"

    release = threading.Event()

    def deaf() -> str:
        release.wait(30)
        return "late"

    tool = function_tool(dig)
    assert set(tool.parameters["properties"]) == {"depth"}

    def working() -> list[str]:
        return sorted(thread.name for thread in threading.enumerate() if thread.name in ("tool dig", "tool deaf"))

    async def timed(tool, arguments):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await tool.call(arguments)

    asyncio.run(timed(tool, {"depth": 3}))
    assert ended.is_set()
    asyncio.run(timed(function_tool(deaf), {}))
    # Neither the call nor the end of the loop has waited for a function that does not listen.
    assert not release.is_set() and working() == ["tool deaf"]
    release.set()
    for thread in threading.enumerate():
        if thread.name.startswith("tool "):
            thread.join(5)
    assert working() == []
