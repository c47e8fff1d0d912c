"""Files of multi-hop questions: MuSiQue, HotpotQA, or a user's own, as JSON lists or JSONL.

MuSiQue (2108.00573): question, answer, answer_aliases, 20 paragraphs, question_decomposition with `#n` references.
HotpotQA (1809.09600): question, answer, context of 10 paragraphs, supporting_facts, type; it has no decomposition, so
a plan is derived where the pages allow it, and marked as such.
One's own: {"question", "answers" or "answer", and if known "id", "pages" (titles of the documents that say it),
"decomposition": [{"question", "answer", "page"}]}. The kinds are told apart by their keys.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fairtrial.core.config import Config, parse
from fairtrial.core.errors import UserError
from fairtrial.core.ids import check_name
from fairtrial.tasks.worlds.bm25 import Page
from fairtrial.tasks.worlds.decomposition import named, step
from fairtrial.tasks.worlds.world import GoldStep

Kind = Literal["musique", "hotpotqa", "own"]


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a file. Pages of steps are titles as in the file; of MuSiQue, positions in `pages` as text."""

    id: str
    kind: Kind
    question: str
    answers: tuple[str, ...]
    plan: tuple[GoldStep, ...] = ()
    pages: tuple[Page, ...] = ()
    """The paragraphs that come with it; titles may repeat."""
    supporting: tuple[int | str, ...] = ()
    """What says the answer: positions in `pages`, or titles of a folder's documents."""
    form: str = ""
    """The data set's own word: "2hop", "comparison" ..."""
    derived: bool = False
    """Whether the plan is not the data set's own."""


class _Published(BaseModel):
    """Published data sets have keys that are not needed here."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _Hop(_Published):
    question: str
    answer: str
    paragraph_support_idx: int | None = None


class _Paragraph(_Published):
    idx: int
    title: str
    paragraph_text: str


class _Musique(_Published):
    id: str
    question: str
    answer: str
    answer_aliases: tuple[str, ...] = ()
    paragraphs: tuple[_Paragraph, ...]
    question_decomposition: tuple[_Hop, ...] = ()

    @model_validator(mode="after")
    def _supported(self) -> _Musique:
        known = {paragraph.idx for paragraph in self.paragraphs}
        for hop in self.question_decomposition:
            if hop.paragraph_support_idx is not None and hop.paragraph_support_idx not in known:
                raise ValueError(f"paragraph_support_idx {hop.paragraph_support_idx} is no paragraph's idx")
        return self


class _Hotpot(_Published):
    id: str = Field(alias="_id")
    question: str
    answer: str
    type: str = ""
    context: tuple[tuple[str, tuple[str, ...]], ...]
    supporting_facts: tuple[tuple[str, int], ...] = ()


class OwnStep(Config):
    """A step of one's own decomposition."""

    question: str = Field(min_length=1)
    """`#n` stands for the answer of step n, from 1."""
    answer: str
    page: str | None = None
    """Title of the document that says it."""


class OwnQuestion(Config):
    """A question of one's own."""

    id: str | None = None
    question: str = Field(min_length=1)
    answers: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    answer: str | None = Field(default=None, min_length=1)
    decomposition: tuple[OwnStep, ...] = ()
    pages: tuple[str, ...] = ()
    """Titles of the documents that say it; with a decomposition they are its steps' pages."""

    @model_validator(mode="after")
    def _answered(self) -> OwnQuestion:
        if not self.answers and self.answer is None:
            raise ValueError('give "answers", a list of all that are right, or "answer"')
        return self


def read_questions(paths: Sequence[Path]) -> tuple[Question, ...]:
    """The questions of some files, in order. Raises UserError with file, number and field of what cannot be used."""
    found: list[Question] = []
    ids: dict[str, str] = {}
    for path in paths:
        for number, record in enumerate(read_records(path), 1):
            where = f"{path}, question {number}"
            question = _question(record, where, f"q{len(found) + 1:04d}")
            check_name(question.id, f"{where}: id")
            if question.id in ids:
                raise UserError(f'{where}: id "{question.id}" is taken by {ids[question.id]}; give each its own')
            ids[question.id] = where
            found.append(question)
    if not found:
        raise UserError(f"{', '.join(str(path) for path in paths) or 'questions'}: no question in it")
    return tuple(found)


def read_records(path: Path) -> list[Any]:
    """The records of a JSON list or of JSON lines. Raises UserError."""
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except ValueError as error:
            raise UserError(f"{path}: not valid JSON: {error}") from None
    records: list[Any] = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise UserError(
                    f"{path}, line {number}: not valid JSON: {error}; write a list, or one question on each line"
                ) from None
    return records


def _question(record: Any, where: str, spare: str) -> Question:
    if not isinstance(record, dict):
        raise UserError(f'{where}: must be an object with "question" and "answers" (got {type(record).__name__})')
    if "paragraphs" in record or "question_decomposition" in record:
        return _from_musique(parse(_Musique, record, where=where), where)
    if "context" in record or "supporting_facts" in record:
        return _from_hotpot(parse(_Hotpot, record, where=where))
    return _from_own(parse(OwnQuestion, record, where=where), where, spare)


def _from_musique(data: _Musique, where: str) -> Question:
    position = {paragraph.idx: at for at, paragraph in enumerate(data.paragraphs)}
    hops = data.question_decomposition
    at = [None if hop.paragraph_support_idx is None else position[hop.paragraph_support_idx] for hop in hops]
    plan = tuple(
        step(
            number,
            hop.question,
            hop.answer,
            of=len(hops),
            page=None if at[number - 1] is None else str(at[number - 1]),
            where=where,
        )
        for number, hop in enumerate(hops, 1)
    )
    return Question(
        data.id,
        "musique",
        data.question,
        (data.answer, *data.answer_aliases),
        plan,
        tuple(Page(paragraph.title, paragraph.paragraph_text) for paragraph in data.paragraphs),
        tuple(dict.fromkeys(each for each in at if each is not None)),
        data.id.partition("__")[0],
    )


def _from_hotpot(data: _Hotpot) -> Question:
    titles = [title for title, _ in data.context]
    facts = {title: number for title, number in reversed(data.supporting_facts) if title in titles}
    supporting = tuple(
        titles.index(title) for title in dict.fromkeys(title for title, _ in data.supporting_facts if title in titles)
    )
    pages = tuple(Page(title, "".join(sentences).strip()) for title, sentences in data.context)
    said = {at: data.context[at][1][facts[titles[at]] :][:1] for at in supporting}
    plan = _hotpot_plan(data, pages, {at: sentence[0].strip() for at, sentence in said.items() if sentence})
    return Question(
        data.id, "hotpotqa", data.question, (data.answer,), plan, pages, supporting, data.type, derived=bool(plan)
    )


def _hotpot_plan(data: _Hotpot, pages: Sequence[Page], said: Mapping[int, str]) -> tuple[GoldStep, ...]:
    """Two look-ups and a conclusion, as the questions were made: of a comparison side by side, of a bridge in a row.

    A bridge question was written along a link from one page to another (1809.09600, section 2), so the first page must
    name the second; where it does not, no plan is claimed. `said`: the first supporting sentence by page.
    """
    if len(said) != 2:
        return ()
    first, second = said
    names = {at: re.sub(r" \([^()]*\)$", "", pages[at].title) for at in said}
    end = GoldStep("s3", data.question, data.answer, ("s1", "s2"))
    if data.type == "comparison":
        looked = [GoldStep(named(n), names[at], said[at], (), str(at)) for n, at in enumerate(said, 1)]
        return (*looked, end)
    if names[second].lower() not in pages[first].text.lower():
        if names[first].lower() not in pages[second].text.lower():
            return ()
        first, second = second, first
    return (
        GoldStep("s1", data.question, names[second], (), str(first)),
        GoldStep("s2", "{s1}", said[second], ("s1",), str(second)),
        end,
    )


def _from_own(data: OwnQuestion, where: str, spare: str) -> Question:
    steps = data.decomposition
    plan = tuple(
        step(number, each.question, each.answer, of=len(steps), page=each.page, where=f"{where}: decomposition")
        for number, each in enumerate(steps, 1)
    )
    pages = data.pages or tuple(dict.fromkeys(each.page for each in steps if each.page is not None))
    answers = data.answers if data.answer is None else (data.answer, *data.answers)
    return Question(data.id or spare, "own", data.question, answers, plan, (), pages)
