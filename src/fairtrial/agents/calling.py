"""One call of a tool with its retries: from checked arguments to what it came to. Stopping it is the executor's."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fairtrial.agents.journal import Journal
from fairtrial.agents.log import Status
from fairtrial.agents.resolve import as_text, deeper
from fairtrial.agents.tools.tool import Tool, ToolError
from fairtrial.core.clock import Clock
from fairtrial.core.errors import FairtrialError, one_line

_FIRST_S, _LONGEST_S = 0.5, 30.0
_DEPTH = 128
"""A result may be nested so deep: what is stored and shown of it must not use up the stack."""
_SHOWN = 2000
"""Characters of an exception that nobody meant for the model."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended."""

    status: Status
    text: str
    value: Any = None


@dataclass(slots=True)
class Call:
    """A call under way."""

    run: str
    path: str
    """Step and node: the call's name within the run."""
    tool: Tool
    args: Mapping[str, Any]
    attempt: int = 0
    key: str = ""
    """Of the attempt under way, in the journal."""
    closed: bool = False
    """Its outcome is settled: whatever still comes is dropped."""


async def perform(call: Call, clock: Clock, journal: Journal | None, begin: Callable[[Call], None]) -> Outcome:
    """Call the tool until it succeeds or its attempts are used up; a write is tried once.

    Args:
        call: Its `attempt` and `key` move on.
        clock: For the waits between attempts.
        journal: Where attempts are looked up and recorded.
        begin: Called when an attempt really goes to the tool; its time runs from now.

    Raises:
        FairtrialError: What is no affair of the model's: the user's mistake, the infrastructure's, a used-up limit.
    """
    last = 1 + (0 if call.tool.effect == "write" else call.tool.retries)
    while True:
        call.attempt += 1
        found = None
        if journal is not None:
            call.key = journal.key(call.run, call.path, call.tool.name, call.args, call.attempt)
            found = journal.find(call.key, call.path)
        if found is not None:
            outcome = Outcome(found.status, found.text, found.value)
        else:
            outcome = await _attempt(call, clock, journal, begin)
        if outcome.status == "ok" or call.attempt >= last or (found is not None and found.final):
            return outcome


async def _attempt(call: Call, clock: Clock, journal: Journal | None, begin: Callable[[Call], None]) -> Outcome:
    if call.attempt > 1:
        await clock.sleep(pause(call.run, call.path, call.attempt))
    if journal is not None and call.tool.effect == "write":
        journal.begin(call.key, call.path)
    begin(call)
    outcome = await _answer(call)
    if journal is not None and not call.closed:
        journal.end(call.key, call.path, outcome.status, outcome.text, outcome.value)
    return outcome


async def _answer(call: Call) -> Outcome:
    try:
        value = await call.tool.call(copy.deepcopy(dict(call.args)))
    except FairtrialError:
        raise
    except ToolError as error:
        return Outcome("error", str(error) or "the tool refused and gave no reason")
    except TimeoutError as error:
        return Outcome("timeout", _told(error))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a tool does is that node's error alone
        told = _told(error)
        return Outcome("error", told if len(told) <= _SHOWN else f"{told[:_SHOWN]}...")
    try:
        text = as_text(value)
        value = value if isinstance(value, str) else json.loads(text)
        if deeper(value, _DEPTH):
            return Outcome("error", f"the tool returned JSON that is nested more than {_DEPTH} deep")
        return Outcome("ok", text, value)
    except (TypeError, ValueError, RecursionError) as error:
        return Outcome("error", f"the tool returned what is neither text nor JSON: {_told(error)}")


def pause(run: str, path: str, attempt: int) -> float:
    """Seconds before attempt 2, 3 ...: doubling, and up to half more, by the call's name: not all come at once."""
    spread = hashlib.blake2b(f"{run}\n{path}\n{attempt}".encode(), digest_size=4).digest()
    return min(_LONGEST_S, _FIRST_S * 2 ** (attempt - 2)) * (1 + int.from_bytes(spread, "big") / 2**33)


def _told(error: BaseException) -> str:
    try:
        return one_line(error)
    except Exception:  # noqa: BLE001 - an error that cannot even say what it is
        return type(error).__name__
