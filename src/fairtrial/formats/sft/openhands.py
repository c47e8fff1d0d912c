"""Training records for OpenHands v0.30 (CodeAct agent, calls as text: `fn_call_converter` of 0.30.0 was read).

Agent Data Protocol (arXiv 2510.24702) section 3.3 and its published OpenHands form. ShareGPT records; the harness puts
its own prompt in at run time, which is not copied here: pass it as `Settings.system` to train with exactly that text.

Default records differ from the published form where that is broken: element ids are whole, the focused element is the
one that the page says (not the last one that any trajectory touched), values are quoted so that they read back, user
text after a call is not called its result, code of other languages is a literal that evaluates to the same text, and
results of web actions are introduced as the harness introduces them. `notes.faithful` keeps the published habits that
corrupt nothing. Web trajectories become one record per action, the oldest pages left out first (70,000 characters).
A page without accessibility tree, or an element named only by xpath, raises RowError: only a browser could resolve it.
OpenHands 0.30 strips white space around parameter values when it reads them; that is not ours to mend.
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
from fairtrial.formats.sft.pages import PAGE_CUT, focused_bid, page_text, shown
from fairtrial.formats.sft.printing import block_literal, documentation, expression, xml_call
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
    is_web,
    printed,
    steps,
)

TOOLS: Mapping[str, tuple[str, ...]] = {
    "execute_bash": ("command", "is_input"),
    "think": ("thought",),
    "finish": ("message", "task_completed"),
    "web_read": ("url",),
    "browser": ("code",),
    "execute_ipython_cell": ("code",),
    "str_replace_editor": ("command", "path", "file_text", "old_str", "new_str", "insert_line", "view_range"),
    "edit_file": ("path", "content", "start", "end"),
}
"""The harness's tools with their parameters; `code` or `command` is where code goes."""

BROWSER = frozenset(
    {"goto", "go_back", "go_forward", "noop", "scroll", "fill", "select_option", "click", "dblclick", "hover", "press"}
    | {"focus", "clear", "drag_and_drop", "upload_file"}
)
"""Actions that the harness's browser tool knows and explains itself."""

RESULT = "EXECUTION RESULT of [{tool}]:\n"
_FINISH_TEXTS = ("message", "output", "answer", "final_answer", "result", "text")


class _Writer:
    """Writes one trajectory; nothing lasts longer than that."""

    def __init__(self, row: Row, notes: Notes, settings: Settings) -> None:
        self.notes = notes
        self.web = is_web(row, settings)
        self.steps = steps(row, notes)
        self.environment = settings.environment or self._environment()
        self.languages: list[str] = []
        self.touched: str | None = None
        """The element of the last call, which the published form takes for the focused one."""
        self.last = max((index for index, step in enumerate(self.steps) if step.item["class_"] in CALLS), default=-1)

    def _environment(self) -> str:
        if self.web:
            return "browser"
        codes = (as_code(step.item, Notes()) for step in self.steps if step.item["class_"] in CALLS)
        languages = {code[0] for code in codes if code}
        return (
            "execute_bash" if "bash" in languages and not languages & {"python", "python3"} else "execute_ipython_cell"
        )

    def turns(self) -> Iterator[Turn]:
        """Turns in order; neighbours may have the same speaker."""
        call: str | None = None
        for index, step in enumerate(self.steps):
            item = step.item
            if item["class_"] not in CALLS and item["class_"] != "message_action":
                yield self._seen(item, call if self.notes.faithful else None)
                call = None
                continue
            turn = self._message(item) if item["class_"] == "message_action" else self._call(item, index == self.last)
            yield turn
            call = turn.call
            for position, result in enumerate(step.results):
                yield self._seen(result, call if position == 0 else None)
                call = None

    def _seen(self, item: Item, call: str | None) -> Turn:
        head = RESULT.format(tool=call) if call else ""
        kind = item["class_"]
        if kind == "web_observation":
            tree = shown(item, self.notes)
            focus = self.touched if self.notes.faithful else focused_bid(tree)
            text = page_text(item, focus, faithful=self.notes.faithful)
            return Turn("human", text if self.notes.faithful else head + text, page=tree)
        if kind == "image_observation":
            return Turn("human", head + image_text(item, self.notes))
        agent = item["source"] == "agent" and self.notes.faithful
        return Turn("gpt" if agent else "human", head + item["content"])

    def _message(self, item: Item) -> Turn:
        thought, final = item.get("description"), finish_message(item)
        check_thought(thought)
        if final is None:
            check_thought(item["content"])
            return Turn("gpt", _with(thought, item["content"]))
        outside, message = final
        if outside and not self.notes.faithful:
            check_thought(outside)
            thought = join(thought, outside)
        elif outside:
            self.notes.drop("text beside the final answer, as published", outside)
        return self._tool(thought, "finish", {"message": message, "task_completed": "true"})

    def _call(self, item: Item, last: bool) -> Turn:
        thought = item.get("description")
        check_thought(thought)
        self.touched = None
        code = as_code(item, self.notes)
        if code is not None:
            return self._code(thought, *code)
        name: str = item["function"]
        kwargs: dict[str, Any] = item["kwargs"]
        if name in EDITORS:
            return self._tool(thought, "str_replace_editor", kwargs)
        lowered = name.lower()
        if lowered in ("finish", "final_answer") or (lowered in FINISHES and last and not self.notes.faithful):
            return self._finish(thought, kwargs)
        if name in TOOLS and kwargs.keys() & set(TOOLS[name]):
            return self._tool(thought, name, kwargs)
        return self._function(thought, item)

    def _function(self, thought: str | None, item: Item) -> Turn:
        """A function of the data set, called in the environment where it is defined."""
        kwargs = dict(item["kwargs"])
        spelled = dict(printed(item, self.notes))
        if self.web:
            if "element_id" in kwargs and "bid" not in kwargs:
                kwargs = {"bid" if key == "element_id" else key: value for key, value in kwargs.items()}
                spelled = {"bid" if key == "element_id" else key: value for key, value in spelled.items()}
            if kwargs.pop("xpath", None) is not None and "bid" not in kwargs:
                raise RowError(f"{item['function']} names its element by xpath only: only a browser can find its id")
            if kwargs.get("bid") is not None:
                self.touched = spelled.get("bid") or expression("", {"bid": kwargs["bid"]})[5:-1]
        environment = "browser" if self.web and item["function"] in BROWSER else self.environment
        code = expression(item["function"], kwargs, spelled)
        parameter = "command" if environment == "execute_bash" else TOOLS.get(environment, ("code",))[0]
        return self._tool(thought, environment, {parameter: code})

    def _code(self, thought: str | None, language: str, code: str, others: Mapping[str, Any]) -> Turn:
        if language == "bash":
            return self._tool(thought, "execute_bash", {"command": code, **others})
        if language not in ("python", "python3"):
            if language not in self.languages:
                self.languages.append(language)
            code = f"{language}({block_literal(code)})"
        return self._tool(thought, "execute_ipython_cell", {"code": code, **others})

    def _finish(self, thought: str | None, kwargs: Mapping[str, Any]) -> Turn:
        key = next((key for key in _FINISH_TEXTS if isinstance(kwargs.get(key), str)), None)
        given = {("message" if name == key else name): value for name, value in kwargs.items()}
        if "task_completed" not in given:
            self.notes.invent("finish without task_completed", "true")
        return self._tool(thought, "finish", {"message": "", "task_completed": "true", **given})

    def _tool(self, thought: str | None, name: str, kwargs: Mapping[str, Any]) -> Turn:
        fits = fitting(name, dict(kwargs), TOOLS.get(name, tuple(kwargs)), self.notes)
        return Turn("gpt", _with(thought, xml_call(name, fits)), call=name)


def _with(thought: str | None, text: str) -> str:
    return f"{thought}\n\n{text}" if thought else text


def _known(name: str, web: bool) -> bool:
    lowered = name.lower()
    return name in TOOLS or name in EDITORS or lowered in SHELLS | PYTHONS | FINISHES or (web and name in BROWSER)


def _preamble(row: Row, writer: _Writer) -> str:
    """What the first user turn says of the data set's functions and languages."""
    tools = [tool for tool in row.get("tools", ()) if not _known(tool.get("function", {}).get("name", ""), writer.web)]
    text = "".join(
        f"{language} code runs in execute_ipython_cell as {language}(...), with the code as one Python string.\n\n"
        for language in writer.languages
    )
    documented = documentation(tools, writer.environment, also=writer.web)
    return text + (documented.replace("element_id", "bid").replace("xpath", "bid") if writer.web else documented)


def _trim(turns: list[Turn], budget: int, notes: Notes) -> list[Turn]:
    """The turns with the oldest pages left out until they fit; last of all the end of the current page goes."""
    over = sum(len(turn.value) for turn in turns) - budget
    if over <= 0:
        return turns
    found = list(turns)
    pages = [index for index, turn in enumerate(turns) if turn.page]
    for index in pages:
        if over <= 0:
            break
        turn, page = found[index], found[index].page or ""
        current = index == len(turns) - 2
        kept = page[: max(0, len(page) - over - len(PAGE_CUT))] if current else ""
        if len(kept) + len(PAGE_CUT) >= len(page):
            continue
        if current:
            notes.drop("end of a page that exceeds the length budget", page[len(kept) :])
        found[index] = Turn(turn.speaker, turn.value.replace(page, kept + PAGE_CUT, 1), turn.call)
        over -= len(page) - len(kept) - len(PAGE_CUT)
    return found


def openhands(settings: Settings | None = None) -> Format:
    """The export with its own settings."""
    chosen = settings or Settings()

    def encode(row: Row, notes: Notes) -> Iterable[dict[str, Any]]:
        writer = _Writer(row, notes, chosen)
        turns = list(writer.turns())
        if not notes.faithful:
            turns = alternate(turns, RESULT, notes)
        elif not any(turn.speaker == "gpt" for turn in turns):
            raise RowError("the agent does nothing that could be trained on")
        else:
            turns = _pages_joined(turns)
        turns[0].value = _preamble(row, writer) + turns[0].value
        system = prompts.OPENHANDS if chosen.system is None else chosen.system
        prefixes = chosen.prefixes if chosen.prefixes is not None else writer.web and not notes.faithful
        if not prefixes:
            return [record(row["id"], turns, system)]
        ends = [index for index, turn in enumerate(turns) if turn.speaker == "gpt"]
        return [
            record(f"{row['id']}-{number}", _trim(turns[: end + 1], chosen.budget, notes), system)
            for number, end in enumerate(ends)
        ]

    return Format(
        name="sft-openhands",
        title="training records for OpenHands v0.30 (CodeAct, calls as text)",
        likes=likes_nothing,
        encode=encode,
        kind="export",
        beside=dataset_info,
    )


def _pages_joined(turns: list[Turn]) -> list[Turn]:
    """A page that follows a user turn becomes part of it, as published."""
    found: list[Turn] = []
    for turn in turns:
        if turn.page is not None and found and found[-1].speaker == "human":
            found[-1].value, found[-1].page = found[-1].value + "\n\n" + turn.value, turn.page
        else:
            found.append(turn)
    return found


SFT_OPENHANDS = openhands()
