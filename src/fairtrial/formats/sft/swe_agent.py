r"""Training records for SWE-agent v1.1.0 (`XMLFunctionCallingParser`, tools of edit_anthropic and submit were read).

Agent Data Protocol (arXiv 2510.24702) section 3.3 and its published SWE-agent form; v1.1.0 is the first release with
that parser. ShareGPT records; the harness puts its own prompt in at run time: pass it as `Settings.system`.

Python becomes `python -c $'...'` with backslashes and quotes escaped, so that bash hands the very same program to
Python (the published form does not escape: 16 of 34 commands are broken). Code in languages that neither bash nor
Python runs, and web pages, raise RowError: the harness has no tool for them (upstream drops these trajectories too).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fairtrial.formats.format import Format, Notes, Row, RowError
from fairtrial.formats.items import Item
from fairtrial.formats.sft import prompts
from fairtrial.formats.sft.conversation import (
    Turn,
    alternate,
    check_thought,
    dataset_info,
    image_text,
    join,
    likes_nothing,
    record,
)
from fairtrial.formats.sft.printing import ansi_c, documentation, expression, xml_call
from fairtrial.formats.sft.steps import (
    CALLS,
    EDITORS,
    FINISHES,
    PYTHONS,
    SHELLS,
    Settings,
    as_code,
    finish_message,
    fitting,
    printed,
    steps,
)

EDITOR = ("command", "path", "file_text", "old_str", "new_str", "insert_line", "view_range")
RESULT = "OBSERVATION:\n"


class _Writer:
    """Writes one trajectory."""

    def __init__(self, row: Row, notes: Notes) -> None:
        self.notes = notes
        self.steps = steps(row, notes)
        self.last = max((index for index, step in enumerate(self.steps) if step.item["class_"] in CALLS), default=-1)

    def turns(self) -> Iterator[Turn]:
        called = False
        for index, step in enumerate(self.steps):
            item = step.item
            if item["class_"] not in CALLS and item["class_"] != "message_action":
                faithful = self.notes.faithful
                yield self._seen(item, faithful and (called or item.get("source") == "environment"))
                called = False
                continue
            turn = self._message(item) if item["class_"] == "message_action" else self._call(item, index == self.last)
            yield turn
            called = turn.call is not None
            for position, result in enumerate(step.results):
                yield self._seen(result, self.notes.faithful or position == 0)
                called = False

    def _seen(self, item: Item, result: bool) -> Turn:
        if item["class_"] == "web_observation":
            raise RowError("a web page: SWE-agent has no browser")
        head = RESULT if result else ""
        if item["class_"] == "image_observation":
            return Turn("human", head + image_text(item, self.notes))
        agent = item["source"] == "agent" and self.notes.faithful
        return Turn("gpt" if agent else "human", head + item["content"])

    def _message(self, item: Item) -> Turn:
        thought, final = _thought(item), finish_message(item)
        if final is None:
            check_thought(item["content"])
            return Turn("gpt", thought + item["content"])
        outside, message = final
        check_thought(message)
        call = xml_call("submit", {})
        if self.notes.faithful:
            if outside:
                self.notes.drop("text beside the final answer, as published", outside)
            return Turn("gpt", f"{thought}\n{message}".strip() + call, call="submit")
        check_thought(outside)
        return Turn("gpt", thought + join(outside, message, call), call="submit")

    def _call(self, item: Item, last: bool) -> Turn:
        code = as_code(item, self.notes)
        if code is not None:
            language, text, others = code
            return self._tool(item, "bash", {"command": _command(language, text), **others}, ("command",))
        name: str = item["function"]
        kwargs: dict[str, Any] = item["kwargs"]
        if name in EDITORS:
            return self._tool(item, "str_replace_editor", kwargs, EDITOR)
        if name == "submit" or name.lower() in ("finish", "final_answer") or (name.lower() in FINISHES and last):
            said = join(*(value for value in kwargs.values() if isinstance(value, str)))
            check_thought(said)
            thought = _thought(item)
            return Turn("gpt", thought + join(said, xml_call("submit", {})), call="submit")
        return self._tool(item, "bash", {"command": expression(name, kwargs, printed(item, self.notes))}, ("command",))

    def _tool(self, item: Item, name: str, kwargs: Mapping[str, Any], allowed: tuple[str, ...]) -> Turn:
        call = xml_call(name, fitting(name, dict(kwargs), allowed, self.notes))
        return Turn("gpt", _thought(item) + call, call=name)


def _thought(item: Item) -> str:
    thought = item.get("description")
    check_thought(thought)
    return f"<think>\n{thought}\n</think>\n\n" if thought else ""


def _command(language: str, code: str) -> str:
    """The bash command that runs the code. Raises RowError for a language that it cannot run."""
    if language == "bash":
        return code
    if language in ("python", "python3"):
        return f"{language} -c {ansi_c(code)}"
    raise RowError(f"{language} code: SWE-agent runs bash and Python only")


def swe_agent(settings: Settings | None = None) -> Format:
    """The export with its own settings (only `system` matters here)."""
    chosen = settings or Settings()

    def encode(row: Row, notes: Notes) -> Iterable[dict[str, Any]]:
        turns = list(_Writer(row, notes).turns())
        if not notes.faithful:
            turns = alternate(turns, RESULT, notes)
        elif not any(turn.speaker == "gpt" for turn in turns):
            raise RowError("the agent does nothing that could be trained on")
        tools = [tool for tool in row.get("tools", ()) if not _known(tool.get("function", {}).get("name", ""))]
        turns[0].value = documentation(tools, "bash") + turns[0].value
        return [record(row["id"], turns, prompts.SWE_AGENT if chosen.system is None else chosen.system)]

    return Format(
        name="sft-swe-agent",
        title="training records for SWE-agent v1.1.0 (calls as XML-like text)",
        likes=likes_nothing,
        encode=encode,
        kind="export",
        beside=dataset_info,
    )


def _known(name: str) -> bool:
    return name in EDITORS or name.lower() in SHELLS | PYTHONS | FINISHES


SFT_SWE_AGENT = swe_agent()
