"""Tools from Python functions: name, schema and checks come from the signature and the docstring, through pydantic.

An `async` function is awaited. Any other runs in a thread of its own, so that it holds up nobody. A thread cannot be
ended from outside: a function that may take long has a parameter annotated `threading.Event` (models never see it),
looks at it, and returns when it is set; a call that is cancelled sets it. Without one, a cancelled call is given up at
once, its thread runs on to the function's end, and what it returns is dropped. Work that must be ended by force belongs
into a box (`agents.tools.box`).
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import re
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic_core import to_jsonable_python

from fairtrial.agents.tools.tool import Effect, Tool, ToolError
from fairtrial.core.config import explain
from fairtrial.core.errors import UserError

_SECTION = re.compile(
    r"^(Args|Arguments|Parameters|Returns|Return|Yields|Raises|Examples?|Notes?|Attributes):\s*$", re.MULTILINE
)
_PARAMETER = re.compile(r"^\*{0,2}(\w+)(?:\s*\([^)]*\))?:\s*(.*)$")
_VALUES = frozenset({"default", "enum", "const", "examples"})
_STOP_S = 1.0
"""How long a cancelled call waits for a function that was told to stop."""


def function_tool(
    function: Callable[..., Any],
    *,
    name: str | None = None,
    description: str | None = None,
    effect: Effect = "read",
    keys: Callable[[Mapping[str, Any]], tuple[str, ...]] | None = None,
    timeout_s: float | None = None,
    retries: int = 0,
    concurrency: int | None = None,
) -> Tool:
    """The tool that calls `function`.

    Args:
        function: Plain or `async`; its parameters must be nameable. It returns text, or what pydantic can make JSON of.
        name: Instead of the function's name.
        description: Instead of its docstring up to the first section.
        effect: What it does to the world; see `Tool`, also for the rest.
        keys: What a write touches.
        timeout_s: Of one attempt, in seconds.
        retries: More attempts after an error.
        concurrency: Calls at once.

    Raises:
        UserError: The signature cannot be told as a schema; the line names the parameter.
    """
    called = name or getattr(function, "__name__", type(function).__name__)
    told, about = _docstring(function)
    model, fields, stop = _arguments(function, called, about)
    waits = any(inspect.iscoroutinefunction(one) for one in (function, type(function).__call__))

    async def call(arguments: Mapping[str, Any]) -> Any:
        try:
            checked = model.model_validate(dict(arguments))
        except ValidationError as error:
            raise ToolError(f"{called}: {explain(error, model)}") from None
        values = {parameter: getattr(checked, field) for field, parameter in fields.items()}
        done = await (function(**values) if waits else _in_thread(function, values, stop))
        return done if isinstance(done, str) else to_jsonable_python(done)

    return Tool(
        name=called,
        description=description if description is not None else told,
        parameters=_schema(model, called),
        call=call,
        effect=effect,
        keys=keys or (lambda _: ()),
        timeout_s=timeout_s,
        retries=retries,
        concurrency=concurrency,
    )


def _arguments(
    function: Callable[..., Any], called: str, about: Mapping[str, str]
) -> tuple[type[BaseModel], dict[str, str], str | None]:
    """(model of the arguments, its fields' parameters, the parameter that is told to stop)."""
    try:
        signature = inspect.signature(function, eval_str=True)
    except (NameError, SyntaxError, ValueError, TypeError) as error:
        raise UserError(f'tool "{called}": its signature cannot be read: {error}') from None
    fields: dict[str, Any] = {}
    parameters: dict[str, str] = {}
    stop = None
    for number, one in enumerate(signature.parameters.values()):
        if one.kind in (one.POSITIONAL_ONLY, one.VAR_POSITIONAL, one.VAR_KEYWORD):
            raise UserError(f'tool "{called}": the parameter {one} cannot be given by name; make it an ordinary one')
        if one.annotation is threading.Event:
            stop = one.name
            continue
        kind = Any if one.annotation is one.empty else one.annotation
        default = ... if one.default is one.empty else one.default
        # Parameters may have names that a model's own attributes have (`schema`, `json`): those are aliases.
        field = f"p{number}"
        fields[field] = (kind, Field(default, alias=one.name, description=about.get(one.name)))
        parameters[field] = one.name
    try:
        model = create_model(called, __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=False), **fields)
    except (PydanticUserError, TypeError) as error:
        raise UserError(f'tool "{called}": {str(error).splitlines()[0]}') from None
    return model, parameters, stop


def _schema(model: type[BaseModel], called: str) -> dict[str, Any]:
    try:
        schema = model.model_json_schema()
    except PydanticUserError as error:
        raise UserError(f'tool "{called}": no schema: {str(error).splitlines()[0]}') from None
    shown = _untitled(schema)
    assert isinstance(shown, dict)
    return {"type": "object", "properties": {}, **shown}


def _untitled(value: Any, names: bool = False) -> Any:
    """A schema without the titles that pydantic makes of names; `names`: the keys are parameters, not schema words."""
    if isinstance(value, dict):
        inner = ("properties", "$defs")
        return {
            key: below if key in _VALUES and not names else _untitled(below, names=key in inner and not names)
            for key, below in value.items()
            if names or key != "title" or not isinstance(below, str)
        }
    return [_untitled(below) for below in value] if isinstance(value, list) else value


def _docstring(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """(what comes before the first section, what a Google-style Args section says of each parameter)."""
    text = inspect.getdoc(function) or ""
    first = _SECTION.search(text)
    told = (text if first is None else text[: first.start()]).strip()
    about: dict[str, str] = {}
    for found in _SECTION.finditer(text):
        if found[1] not in ("Args", "Arguments", "Parameters"):
            continue
        after = _SECTION.search(text, found.end())
        about |= _described(text[found.end() : after.start() if after else None])
    return told, about


def _described(section: str) -> dict[str, str]:
    about: dict[str, str] = {}
    latest = None
    for line in inspect.cleandoc("\n" + section).splitlines():
        if (found := _PARAMETER.match(line)) is not None:
            latest = found[1]
            about[latest] = found[2]
        elif latest is not None and line.startswith(" "):
            about[latest] = f"{about[latest]} {line.strip()}".strip()
        elif line.strip():
            latest = None
    return about


async def _in_thread(function: Callable[..., Any], values: dict[str, Any], stop: str | None) -> Any:
    """Run a plain function in a thread of its own; a pool would have to wait for one that hangs."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()
    told = threading.Event()
    context = contextvars.copy_context()
    if stop is not None:
        values = {**values, stop: told}

    def settle(value: Any, error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(value)
        else:
            done.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))

    def work() -> None:
        value, error = None, None
        try:
            value = context.run(function, **values)
        except StopIteration as raised:  # no future can hold one
            error = RuntimeError(f"StopIteration: {raised}")
        except BaseException as raised:  # noqa: BLE001 - handed on to the caller, whatever it is
            error = raised
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=work, name=f"tool {getattr(function, '__name__', '')}", daemon=True).start()
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        told.set()
        if stop is not None:
            await asyncio.wait([done], timeout=_STOP_S)
        done.cancel()
        raise
