"""What `fold`, its nulls and `rewrite` share: prompts of blocks and one step in full, replies that carry a fold.

AgentFold (2510.24699, section 3): the context at a step is the question, the blocks (eq. 2; they partition all steps
but the last), and the last step in full; the reply (eq. 3) is thinking, fold, explanation, action. The prompt is that
of the released inference code (Alibaba-NLP/DeepResearch, WebAgent/AgentFold/infer.py): each turn is a fresh chat of
system and user, "### Question", "### Previous Steps" with `**[Compressed Step 5]**`, `**[Compressed Step 6 to 8]**`
and the last as `**[Step 9]**`, EMPTY at the start, steps counted from 0.

Where this deviates from that code, on purpose:

- Its reducer removes the blocks whose start lies in the range and adds the new one. A range that begins inside a block
  leaves the two overlapping, one that ends early leaves the last step behind the wrong heading. Such a fold is rejected
  here ("fold-range"), as the paper's definition has it: blocks partition the steps and a fold ends at the last one.
- It runs the tool first and reads the fold then, and on a failure repeats the turn with the tool. Here a turn whose
  fold cannot be read has run nothing, and the model is told what was wrong.
- JSON with line breaks inside of a string is read. A missing explanation is no error.
- Native tool calls: the last step follows as messages of the assistant and of its tools.

A turn that answers needs no fold, and a fold in it is not looked at: nothing comes after it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from fairtrial.agents.context import rendering, tags
from fairtrial.agents.context.policy import Count, Digest, Turn, WindowFullError
from fairtrial.agents.context.window import PolicySettings, contained, fits, written_thinking
from fairtrial.agents.log import Block, Folded, FoldError, Log, Step, folded
from fairtrial.agents.planners.planner import RejectedTurn
from fairtrial.models.model import Message

MOTIVATION = "motivation"
_ANSWER = "answer"
_NOT_SHOWN = "[left out: it does not fit the window]"
_HEADING = re.compile(r"^\*\*\[(Compressed )?Step (\d+)(?: to (\d+))?\]\*\*$", re.MULTILINE)
_ORDER = re.compile(r"Fold steps? (\d+)(?: to (\d+))? now")


class Folding:
    """The base: `_range` says which fold is imposed, `_parse` and `_written` are the dialect."""

    tag: str = "folding"
    rules: str = ""

    def __init__(self, settings: PolicySettings, count: Count) -> None:
        self._base, self._count = settings, count

    def render(self, log: Log) -> tuple[Message, ...]:
        """Question, blocks, the last step. Raises WindowFullError; the last turn then goes without the last results."""
        prompt = self._prompt(log, None)
        if fits(prompt, self._count, self._base.window):
            return prompt
        if log.limited is not None:
            prompt = self._prompt(log, _NOT_SHOWN)
            if fits(prompt, self._count, self._base.window):
                return prompt
        raise WindowFullError(f"the prompt has {self._count(prompt)} tokens, the window {self._base.window}")

    def read(self, text: str, log: Log) -> Turn:
        """Take fold and explanation out. Raises RejectedTurn: fold-missing, fold-json, fold-empty, fold-range."""
        text = tags.apart(text)[0]
        parts = tags.elements(text)
        folds = [part for part in parts if part.tag == self.tag]
        motives = [part for part in parts if part.tag == MOTIVATION]
        rest = tags.without(text, [*folds, *motives]).strip()
        explanation = "\n".join(part.inner.strip() for part in motives)
        if log.limited is not None or any(part.tag == _ANSWER for part in parts):
            return Turn(None, explanation, rest)
        if not log.steps:
            if folds:
                raise RejectedTurn("fold-range", f"There is no step to fold yet: leave <{self.tag}> out of this turn.")
            return Turn(None, explanation, rest)
        if len(folds) != 1:
            found = "is missing" if not folds else f"comes {len(folds)} times"
            raise RejectedTurn("fold-missing", f"<{self.tag}>...</{self.tag}> {found}: write it once in every turn.")
        return Turn(self._fold(folds[0].inner, log), explanation, rest)

    def write(self, fold: Folded | None, explanation: str = "", thinking: str = "") -> str:
        """Thinking, fold, explanation; the action comes behind."""
        told = "" if fold is None else f"<{self.tag}>{self._written(fold)}</{self.tag}>\n"
        why = f"<{MOTIVATION}>{contained(explanation, MOTIVATION)}</{MOTIVATION}>\n" if explanation else ""
        return written_thinking(thinking) + told + why

    def digest(self, log: Log) -> Digest | None:
        """Never due: the model folds in its own turns."""
        return None

    def _range(self, log: Log) -> tuple[int, int] | None:
        """The range that is imposed on the next fold; None: the model chooses."""
        return None

    def _parse(self, inner: str) -> tuple[tuple[int, int] | None, str]:
        """(range, text) of a fold as written. Raises RejectedTurn."""
        raise NotImplementedError

    def _written(self, fold: Folded) -> str:
        """The inverse of `_parse`."""
        raise NotImplementedError

    def _order(self, start: int, end: int) -> str:
        """What an imposed range is announced with."""
        steps = f"step {end}" if start == end else f"steps {start} to {end}"
        return f"Fold {steps} now: what you write in <{self.tag}> replaces {'it' if start == end else 'them'}."

    def _past(self, blocks: Sequence[Block], latest: Step | None, told: str) -> str:
        """The user's message below the question."""
        parts = [f"**[Compressed Step {_span(block.start, block.end)}]**\n{block.text}" for block in blocks]
        parts += [] if latest is None else [f"**[Step {latest.number}]**\n{told}"]
        return "### Previous Steps\n" + ("\n\n".join(parts) or rendering.EMPTY)

    def _fold(self, inner: str, log: Log) -> Folded:
        span, text = self._parse(inner)
        last, imposed = len(log.steps) - 1, self._range(log)
        if not text.strip():
            raise RejectedTurn("fold-empty", "The summary is empty: say what is to be kept of the folded steps.")
        if imposed is not None and span is not None and span != imposed:
            raise RejectedTurn("fold-range", f"The range is [{imposed[0]}, {imposed[1]}] in this turn.")
        start, end = imposed or span or (last, last)
        if end != last:
            raise RejectedTurn("fold-range", f"The range [{start}, {end}] must end at the latest step, {last}.")
        fold = Folded(start, end, text)
        try:
            folded(list(log.blocks), fold, latest=last)
        except FoldError as error:
            raise RejectedTurn(error.code, f"{str(error)[:1].upper()}{str(error)[1:]}.") from None
        return fold

    def _prompt(self, log: Log, cleared: str | None) -> tuple[Message, ...]:
        """`cleared` stands for the last step's results, if given."""
        asked, steps = log.asked, log.steps
        latest, exchange = (steps[-1] if steps else None), ()
        if latest is None:
            told = ""
        elif asked.native:
            told = "The messages below."
            exchange = rendering.chat(_plain(latest), native=True, thinking=self._base.thinking, cleared=cleared)
        else:
            told = rendering.step_text(latest, thinking=self._base.thinking, cleared=cleared)
        user = f"### Question\n{asked.question}\n\n{self._past(log.blocks, latest, told)}"
        prompt = (*rendering.system(asked), Message(role="user", content=user), *exchange)
        imposed = self._range(log) if steps and log.limited is None else None
        if imposed is not None:
            prompt = rendering.and_user(prompt, self._order(*imposed))
        return rendering.closed(log, prompt, native=asked.native)


def starts(log: Log) -> list[int]:
    """Where the next fold may start, ascending: at a block, or at the first step that is in none."""
    told = log.blocks[-1].end if log.blocks else -1
    untold = [told + 1] if told + 1 < len(log.steps) else []
    return [block.start for block in log.blocks] + untold


def blocks_in(prompt: str) -> tuple[tuple[Block, ...], int | None]:
    """(blocks, number of the last step) as a prompt shows them: what a scripted model goes by."""
    found = list(_HEADING.finditer(prompt))
    blocks, latest = [], None
    for index, match in enumerate(found):
        start = int(match[2])
        if match[1] is None:
            latest = start
            break
        end = found[index + 1].start() if index + 1 < len(found) else len(prompt)
        blocks.append(Block(start, int(match[3] or start), prompt[match.end() : end].strip()))
    return tuple(blocks), latest


def range_in(prompt: str) -> tuple[int, int] | None:
    """The range that a prompt imposes; None where the model may choose (or nothing is to be folded)."""
    match = None
    for match in _ORDER.finditer(prompt):  # noqa: B007 - the last one counts; pages may say anything
        pass
    return None if match is None else (int(match[1]), int(match[2] or match[1]))


def _span(start: int, end: int) -> str:
    return str(start) if start == end else f"{start} to {end}"


def _plain(step: Step) -> Step:
    """The step without the fold in its text: explanation and calls, as a message of its own."""
    message = Message(
        role="assistant",
        content="\n".join(part for part in (step.planned.explanation, step.planned.action.strip()) if part),
        reasoning=rendering.thought(step.message) or None,
        tool_calls=step.message.tool_calls,
    )
    return Step(step.number, message, step.planned, step.results)
