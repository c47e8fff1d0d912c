"""The generated wiki: what is asked has exactly one answer, by a solver that reads nothing but pages and question."""

import asyncio
import itertools
import os
import re
import subprocess
import sys
from collections import defaultdict
from math import ceil
from pathlib import Path

import pytest

from fairtrial.core.clock import VirtualClock
from fairtrial.core.config import parse
from fairtrial.core.errors import UserError
from fairtrial.tasks.worlds.answers import normalise
from fairtrial.tasks.worlds.names import SYLLABLES, split_of
from fairtrial.tasks.worlds.wiki import Wiki, WikiSettings
from fairtrial.tasks.worlds.wiki_graph import BY_NAME

FAMILIES = ("chain", "compare", "wide", "inverse", "multi", "dead-end")
NAME = r"[A-Z][a-z]+(?: [A-Z][a-z]+)?|\d+"
SAID = {
    "plain": re.compile(r"(?P<subject>[A-Z]\w+) (?P<relation>[a-z]+) (?P<value>[A-Z]\w+|\d+) \."),
    "text": re.compile(
        rf"(?P<relation>[a-z]+) of (?P<subject>{NAME})(?: is given as| is| has been|:) (?P<value>{NAME})\."
    ),
}


def world(**settings):
    return Wiki(parse(WikiSettings, settings, where="world"), Path())


class Solver:
    """Answers from the pages' text alone; every method gives all answers that the pages allow."""

    def __init__(self, style, pages):
        self.values, self.kind = defaultdict(set), {}
        for title, text in pages.items():
            lead = re.match(rf"{re.escape(title)} (?:is a )?([a-z]+) ?\.", text)
            self.kind[title] = lead[1]
            for said in SAID[style].finditer(text):
                assert said["subject"] == title, "a page speaks of itself"
                self.values[title, said["relation"]].add(said["value"])

    def follow(self, start, relations):
        reached = {start}
        for relation in relations:
            reached = {value for at in reached for value in self.values[at, relation]}
        return reached

    def which(self, kind, constraints):
        return {
            title
            for title, own in self.kind.items()
            if own == kind and all(value in self.values[title, relation] for relation, value in constraints)
        }

    def compare(self, how, heads, relations):
        ends = {head: self.follow(head, relations) for head in heads}
        assert all(len(end) == 1 for end in ends.values())
        if how == "same":
            return {"yes" if len(set.union(*ends.values())) == 1 else "no"}
        numbers = {head: int(next(iter(end))) for head, end in ends.items()}
        best = (max if how == "largest" else min)(numbers.values())
        return {head for head in heads if numbers[head] == best}

    def wide(self, head, relation, columns):
        rows = self.values[head, relation]
        table = {(row, *(self.values[row, column].copy().pop() for column in columns)) for row in rows}
        assert all(len(self.values[row, column]) == 1 for row in rows for column in columns)
        return table


def path_of(text):
    """`the A of the B of X` -> (X, [B, A])."""
    *relations, subject = text.removeprefix("the ").split(" of ")
    return subject, [relation.removeprefix("the ") for relation in reversed(relations)]


def solve_text(solver, family, question):
    if family == "chain":
        return solver.follow(*path_of(re.fullmatch(r"What is (.+)\?", question)[1]))
    if family == "compare":
        if same := re.match(r"Take (.+) of each of (.+)\. Is it the same", question):
            return solver.compare("same", re.split(", | and ", same[2]), path_of(f"{same[1]} of x")[1])
        how = re.fullmatch(r"Take (.+) of each of (.+)\. For which of them is it the (\w+)\?", question)
        return solver.compare(how[3], re.split(", | and ", how[2]), path_of(f"{how[1]} of x")[1])
    if family == "wide":
        asked = re.match(rf"List every (\w+) of ({NAME}) with (.+), one line", question)
        return solver.wide(asked[2], asked[1], re.split(", | and ", asked[3]))
    if family in ("inverse", "dead-end"):
        asked = re.fullmatch(r"Which (\w+) has (.+)\?", question)
        return solver.which(asked[1], [part.split(" ", 1) for part in re.split(", | and ", asked[2])])
    answers = []
    for line in re.findall(r"^\d+\. What is (.+)\?$", question, re.MULTILINE):
        relations, _, earlier = line.partition(" of the answer to question ")
        subject, path = path_of(f"{relations} of x") if earlier else path_of(line)
        (answer,) = solver.follow(answers[int(earlier) - 1] if earlier else subject, path)
        answers.append(answer)
    return {tuple(answers)}


def solve_plain(solver, family, question):
    words = question.removesuffix(" ?")
    if family == "chain":
        head, *relations = words.split()
        return solver.follow(head, relations)
    if family == "compare":
        how, heads, relations = words.split(" : ")
        return solver.compare(how, heads.split(" , "), relations.split())
    if family == "wide":
        listed, columns = words.removeprefix("each ").split(" : ")
        return solver.wide(*listed.split(), columns.split())
    if family in ("inverse", "dead-end"):
        kind, constraints = words.split(" : ")
        return solver.which(kind, [part.split() for part in constraints.split(" , ")])
    answers = []
    parts = words.split(" ? ")
    assert [part.startswith("last ") for part in parts] == [False] * (len(parts) - 1) + [True]
    for part in parts:
        _, head, *relations = part.removeprefix("last ").split()
        if head == "answer":
            head, relations = answers[int(relations[0]) - 1], relations[1:]
        (answer,) = solver.follow(head, relations)
        answers.append(answer)
    return {tuple(answers)}


def gold(episode):
    if "rows" in episode.facts:
        return {tuple(row) for row in episode.facts["rows"]}
    if "items" in episode.facts:
        return {tuple(episode.facts["items"])}
    return set(episode.answers)


@pytest.mark.parametrize("style", ["plain", "text"])
def test_splits_have_no_name_in_common_whatever_the_seeds(style):
    made_up = {"".join(parts) for parts in itertools.product(SYLLABLES, repeat=3)} - {"parade"}
    words = {}
    for split in ("train", "evaluation", "any"):
        made = [world(split=split, style=style, n=3, seed=seed, decoys=12, pages=200) for seed in (1, 2)]
        titles = {title for each in made for episode in each.episodes() for title in each.pages(episode)}
        words[split] = {word for title in titles for word in title.split() if word.lower() in made_up}
    assert all(len(found) > 500 for found in words.values())
    assert {split_of(word.lower()) for word in words["train"]} == {"train"}
    assert {split_of(word.lower()) for word in words["evaluation"]} == {"evaluation"}
    assert {split_of(word.lower()) for word in words["any"]} == {"train", "evaluation"}


def test_a_split_has_names_for_so_many_pages_and_says_so():
    largest = world(n=1, pages=40_000, decoys=32)
    assert len(largest.pages(largest.episodes()[0])) == 40_000
    with pytest.raises(UserError, match='a split has names for 40000 pages: set split = "any", or lower pages'):
        world(pages=40_001)
    assert world(pages=100_000, split="any").settings.pages == 100_000


@pytest.mark.parametrize("style", ["text", "plain"])
def test_the_pages_allow_exactly_one_answer(style):
    wiki = world(n=60, style=style, hops=[1, 3], branches=[2, 4], columns=3, questions=[2, 5], age=2, decoys=3)
    solve = {"text": solve_text, "plain": solve_plain}[style]
    for episode in wiki.episodes():
        solver = Solver(style, wiki.pages(episode))
        assert solve(solver, episode.facts["family"], episode.question) == gold(episode), episode.question
        functional = {key: values for key, values in solver.values.items() if key[1] in BY_NAME}
        assert all(len(values) == 1 for values in functional.values())


@pytest.mark.parametrize("style", ["text", "plain"])
def test_every_gold_step_is_said_by_the_page_that_it_names(style):
    wiki = world(n=24, style=style, age=1)
    for episode in wiki.episodes():
        pages, known = wiki.pages(episode), {}
        for step in episode.plan:
            assert set(step.deps) <= known.keys()
            known[step.id] = step.value
            for fact in episode.facts["evidence"][step.id]:
                assert fact["subject"] == step.page
                said = [match for match in SAID[style].finditer(pages[step.page]) if match["value"] == fact["value"]]
                assert any(match["relation"] == fact["relation"] for match in said)


def test_trap_12_what_can_be_asked_at_once_names_only_what_the_question_names():
    wiki = world(n=36, age=2)
    for episode in wiki.episodes():
        for step in episode.plan:
            if not step.deps:
                assert step.page in episode.question
            elif step.page is not None:
                found = ", ".join(each.value for each in episode.plan if each.id in step.deps)
                assert step.page in found


def test_another_process_with_another_hash_seed_makes_the_same_world():
    code = (
        "import asyncio, hashlib; from pathlib import Path\n"
        "from fairtrial.core.clock import VirtualClock\n"
        "from fairtrial.tasks.worlds.wiki import Wiki, WikiSettings\n"
        "wiki = Wiki(WikiSettings(n=12, seed=5), Path())\n"
        "made = repr([(e, list(wiki.pages(e).items())) for e in wiki.episodes()])\n"
        "search, _ = wiki.functions(wiki.episodes()[0], VirtualClock(), 1)\n"
        "made += repr(asyncio.run(search.call({'query': wiki.episodes()[0].question})))\n"
        "print(hashlib.sha256(made.encode()).hexdigest())"
    )
    made = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(made) == 1


def test_more_episodes_leave_the_first_ones_as_they_were_and_questions_are_all_different():
    few, many = world(n=10, style="plain", hops=1).episodes(), world(n=400, style="plain", hops=1).episodes()
    assert list(many[:10]) == list(few)
    assert len({episode.question for episode in many}) == 400
    assert world(seed=1, n=10, style="plain", hops=1).episodes()[0].question != few[0].question


def test_a_changed_setting_changes_the_tasks_digests():
    one, other = world(n=3).episodes(), world(n=3, page_words=200).episodes()
    assert [e.question for e in one] == [e.question for e in other]
    assert {e.info.digest for e in one}.isdisjoint(e.info.digest for e in other)


def test_trap_20_the_worlds_own_parallelism_follows_its_knobs():
    def ratio(family, **settings):
        (episode,) = world(n=1, families=[family], **settings).episodes()
        return episode.steps, episode.critical_path

    assert ratio("chain", hops=5) == (5, 5)
    assert ratio("compare", hops=2, branches=4) == (9, 3)
    assert ratio("wide", branches=6) == (7, 2)
    assert ratio("inverse", constraints=3) == (4, 2)
    assert ratio("dead-end", decoys=4) == (7, 3)
    assert ratio("multi", hops=2, questions=6) == (12, 2)
    for age in (1, 2, 4):
        assert ratio("multi", hops=1, questions=6, age=age) == (6, ceil(6 / age))


def test_age_is_how_much_later_an_answer_is_needed():
    (episode,) = world(n=1, families=["multi"], hops=1, questions=8, age=3).episodes()
    needed = {step.id: [int(dep[1:]) for dep in step.deps] for step in episode.plan}
    assert [needed[f"s{number}"] for number in range(1, 9)] == [[], [], [], [1], [2], [3], [4], [5]]
    assert "answer to question 5" in episode.question


def test_dead_ends_fulfil_everything_but_the_last_constraint():
    wiki = world(n=5, families=["dead-end"], style="plain", decoys=3)
    for episode in wiki.episodes():
        solver = Solver("plain", wiki.pages(episode))
        kind, constraints = episode.question.removesuffix(" ?").split(" : ")
        asked = [part.split() for part in constraints.split(" , ")]
        assert len(solver.which(kind, asked[:-1])) == 4
        assert solver.which(kind, asked) == set(episode.answers)


def test_decoys_have_near_names():
    (episode,) = (wiki := world(n=1, families=["chain"], hops=2, decoys=3)).episodes()
    titles = wiki.pages(episode)
    for step in episode.plan:
        near = [title for title in titles if title != step.page and set(title.split()) & set(step.page.split())]
        assert len(near) >= 3
    assert len(titles) == 100


def test_plain_pages_are_short_and_their_vocabulary_is_closed():
    seen = set()
    for seed in range(3):
        wiki = world(n=6, style="plain", seed=seed)
        pages = [text for episode in wiki.episodes() for text in wiki.pages(episode).values()]
        lengths = sorted(len(text.split()) for text in pages)
        assert lengths[0] >= 20
        assert lengths[len(lengths) * 95 // 100] <= 60
        seen.update(word for text in pages for word in text.split() if word.islower())
        seen.update(word for e in wiki.episodes() for word in e.question.split() if word.islower())
    assert len(seen) <= 70


def test_pages_get_as_long_as_they_are_asked_to_be():
    wiki = world(n=1, page_words=400)
    lengths = [len(text.split()) for text in wiki.pages(wiki.episodes()[0]).values()]
    assert 400 <= min(lengths) <= max(lengths) < 430


def call(function, **args):
    return asyncio.run(function.call(args))


def test_search_finds_the_page_that_tells_a_level_0_fact_and_shows_as_much_as_is_set():
    wiki = world(n=30, families=["chain", "multi"])
    for episode in wiki.episodes():
        search, _ = wiki.functions(episode, VirtualClock(), 0)
        for step in episode.plan:
            if not step.deps:
                hits = call(search, query=step.question)
                assert step.page in [hit["title"] for hit in hits]
                assert step.value in next(hit["snippet"] for hit in hits if hit["title"] == step.page)
    for snippet, wanted in (("lead", r".+ is a \w+\."), ("none", "")):
        shy = world(n=1, snippet=snippet, top_k=3)
        search, _ = shy.functions(shy.episodes()[0], VirtualClock(), 0)
        hits = call(search, query=shy.episodes()[0].question)
        assert len(hits) == 3
        assert all(re.fullmatch(wanted, hit["snippet"]) for hit in hits)


def test_parts_of_a_page_add_up_to_the_page_and_there_are_no_others():
    wiki = world(n=1, chunk_words=30)
    episode = wiki.episodes()[0]
    title = episode.plan[0].page
    _, visit = wiki.functions(episode, VirtualClock(), 0)
    parts = [call(visit, title=title)]
    count = int(re.search(rf"\({title}, part 1 of (\d+)\)$", parts[0])[1])
    assert count >= 4
    parts += [call(visit, title=title.lower(), part=number) for number in range(2, count + 1)]
    assert " ".join(part.rsplit("\n", 1)[0] for part in parts) == wiki.pages(episode)[title]
    with pytest.raises(LookupError, match=f"has parts 1 to {count}"):
        call(visit, title=title, part=count + 1)
    with pytest.raises(LookupError, match="no page"):
        call(visit, title="Nowhere")


class Recorded(VirtualClock):
    """Does not wait, and keeps what it was asked to."""

    def __init__(self):
        super().__init__()
        self.slept = []

    async def sleep(self, seconds):
        self.slept.append(seconds)


def test_trap_9_what_a_call_costs_does_not_depend_on_the_order_of_calls():
    wiki = world(n=1, latency={"law": "lognormal", "mean_s": 0.5}, tool_errors=0.4)
    episode = wiki.episodes()[0]
    titles = list(wiki.pages(episode))[:60]

    def costs(order, seed=7):
        found, clock = {}, Recorded()
        _, visit = wiki.functions(episode, clock, seed)
        for title in order:
            try:
                call(visit, title=title)
            except ConnectionError as error:
                found[title] = (clock.slept[-1], str(error))
            else:
                found[title] = (clock.slept[-1], "")
        return found

    assert costs(titles) == costs(titles[::-1]) != costs(titles, seed=8)
    failed = sum(bool(text) for _, text in costs(titles).values())
    assert 12 <= failed <= 36
    clock = Recorded()
    _, visit = wiki.functions(episode, clock, 7)
    tries = 0
    while True:
        tries += 1
        try:
            assert call(visit, title=next(t for t, (_, text) in costs(titles).items() if text))
            break
        except ConnectionError:
            assert tries < 20
    assert tries > 1


def test_latencies_have_the_mean_that_is_set():
    for law in ("constant", "exponential", "lognormal"):
        wiki = world(n=1, pages=2000, latency={"law": law, "mean_s": 2.0})
        episode, clock = wiki.episodes()[0], Recorded()
        _, visit = wiki.functions(episode, clock, 1)

        async def all_pages(visit=visit, wiki=wiki, episode=episode):
            for title in wiki.pages(episode):
                await visit.call({"title": title})

        asyncio.run(all_pages())
        assert sum(clock.slept) / len(clock.slept) == pytest.approx(2.0, rel=0.1)


def test_the_right_answer_is_graded_1_and_none_0():
    wiki = world(n=24)
    for episode in wiki.episodes():
        pages = [step.page for step in episode.plan if step.page]
        right = wiki.grade(episode, episode.answers[0], pages)
        assert set(right.values()) == {1.0}
        assert set(wiki.grade(episode, None, ()).values()) == {0.0}
        assert wiki.grade(episode, "something else", pages[:1])["em"] == 0.0
        assert 0 < wiki.grade(episode, None, pages[:1])["provenance"] <= 1


def test_tables_are_graded_by_rows_and_cells():
    wiki = world(n=1, families=["wide"], branches=4, columns=2)
    episode = wiki.episodes()[0]
    rows = episode.answers[0].split("\n")
    header = " | ".join(episode.facts["header"])
    shown = [header, "--- | --- | ---", *(f"| {row} |" for row in rows[::-1])]
    assert wiki.grade(episode, "\n".join(shown), ())["em"] == 1.0
    short = wiki.grade(episode, "\n".join(rows[1:]), ())
    assert (short["em"], short["rows"], short["f1"]) == (0.0, pytest.approx(6 / 7), pytest.approx(18 / 21))
    long = wiki.grade(episode, "\n".join([*rows, rows[0]]), ())
    assert (long["em"], long["rows"]) == (0.0, pytest.approx(8 / 9))
    key, first, _ = rows[0].split(" | ")
    wrong = wiki.grade(episode, "\n".join([f"{key} | {first} | no", *rows[1:]]), ())
    assert (wrong["rows"], wrong["f1"]) == (0.75, pytest.approx(11 / 12))


def test_several_answers_are_graded_in_their_order():
    wiki = world(n=1, families=["multi"], questions=4)
    episode = wiki.episodes()[0]
    items = episode.facts["items"]
    numbered = "\n".join(f"{number}. {item}" for number, item in enumerate(items, 1))
    assert wiki.grade(episode, numbered, ())["em"] == 1.0
    assert wiki.grade(episode, "; ".join([*items[:3], "wrong"]), ())["items"] == 0.75
    assert wiki.grade(episode, "; ".join(items[:3]), ())["em"] == 0.0
    assert wiki.grade(episode, "; ".join([*items, "more"]), ())["em"] == 0.0
    assert normalise(items[0]) != normalise(items[1])


def test_in_plain_style_the_question_may_stand_before_an_answer():
    wiki = world(n=1, families=["multi"], questions=3, style="plain", hops=1)
    episode = wiki.episodes()[0]
    first, second, third = episode.facts["items"]
    assert wiki.grade(episode, f"1 Ada mayor {first} ; {second} ; last 3 Bo twin {third}", ())["em"] == 1.0
    assert wiki.grade(episode, f"1 {first} mayor ; {second} ; {third}", ())["items"] == pytest.approx(2 / 3)
    text = world(n=1, families=["multi"], questions=3, hops=1)
    items = text.episodes()[0].facts["items"]
    assert text.grade(text.episodes()[0], "; ".join([f"the mayor is {items[0]}", *items[1:]]), ())["em"] == 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"families": ["chain"], "age": 2}, "age belongs to the family"),
        ({"families": ["wide"], "backlinks": False}, "needs backlinks = true"),
        ({"hops": [3, 1]}, "smaller number first"),
        ({"families": ["chains"]}, "families"),
        ({"tools": ["visit", "visit"]}, "named once"),
        ({"hop": 2}, 'did you mean "hops"'),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings, message):
    with pytest.raises(UserError, match=message) as refused:
        world(**settings)
    assert "\n" not in str(refused.value)


def test_a_wiki_that_is_too_small_says_how_many_pages_would_do():
    with pytest.raises(UserError, match=r"pages = 20 is too small") as refused:
        world(n=1, families=["chain"], hops=20, pages=20).episodes()
    least = int(re.search(r"at least (\d+)", str(refused.value))[1])
    assert len(world(n=1, families=["chain"], hops=20, pages=least).episodes()) == 1
