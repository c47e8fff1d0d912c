import asyncio
import json
from pathlib import Path

import pytest

from fairtrial.core.clock import SystemClock
from fairtrial.core.config import parse
from fairtrial.core.errors import UserError
from fairtrial.tasks.worlds.decomposition import fill, levels, step
from fairtrial.tasks.worlds.parallelqa import fits, read_parallelqa, width
from fairtrial.tasks.worlds.real_text import Documents, DocumentsSettings

CASES = Path(__file__).parents[3] / "shared" / "cases" / "runtime"


def world(base, **settings):
    return Documents(parse(DocumentsSettings, settings, where="world"), base)


def case(name):
    if not (CASES / name).exists():
        pytest.skip(f"genuine sample {name} is not here (expected under ../shared/cases/runtime)")
    return name


@pytest.fixture
def folder(tmp_path):
    pages = tmp_path / "pages"
    (pages / "deep").mkdir(parents=True)
    (pages / "hill.md").write_text("The hill of Orm carries a tower. The tower was built by Ada Finch.")
    (pages / "deep" / "finch.txt").write_text("Ada Finch came from Lorne.")
    (pages / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "mine.jsonl").write_text(
        json.dumps(
            {
                "question": "Where did the builder of the tower of Orm come from?",
                "answers": ["Lorne", "the town of Lorne"],
                "decomposition": [
                    {"question": "Who built the tower of Orm?", "answer": "Ada Finch", "page": "hill.md"},
                    {"question": "Where did #1 come from?", "answer": "Lorne", "page": "deep/finch.txt"},
                ],
            }
        )
    )
    return tmp_path


@pytest.fixture
def published(tmp_path):
    """A file of each published form, in own words; two paragraphs have the same title and one comes twice."""
    paragraphs = [
        {"idx": 0, "title": "Lake", "paragraph_text": "Lake Orm is fed by the Arle."},
        {"idx": 3, "title": "Lake", "paragraph_text": "A lake is a body of water."},
        {"idx": 7, "title": "Arle", "paragraph_text": "The Arle is ninety miles long."},
    ]
    hops = [
        {"id": 1, "question": "Lake Orm >> fed by", "answer": "the Arle", "paragraph_support_idx": 0},
        {"id": 2, "question": "length of #1", "answer": "ninety miles", "paragraph_support_idx": 7},
    ]
    musique = {
        "id": "2hop__1_2",
        "question": "How long is the river that feeds Lake Orm?",
        "answer": "ninety miles",
        "answer_aliases": ["90 miles"],
        "answerable": True,
        "paragraphs": paragraphs,
        "question_decomposition": hops,
    }
    hotpot = {
        "_id": "5ab",
        "question": "Is the Arle longer than the Bour?",
        "answer": "yes",
        "type": "comparison",
        "level": "easy",
        "context": [["Arle", ["The Arle is ninety miles long."]], ["Bour", ["A river.", " It is ten miles long."]]],
        "supporting_facts": [["Arle", 0], ["Bour", 1]],
    }
    (tmp_path / "musique.json").write_text(json.dumps([musique]))
    (tmp_path / "hotpot.json").write_text(json.dumps([hotpot]))
    return tmp_path


def call(world, episode, tool, **args):
    tools = {function.name: function for function in world.functions(episode, SystemClock(), 1)}
    return asyncio.run(tools[tool].call(args))


def test_references_of_a_decomposition_are_its_dependencies():
    plan = [
        step(1, "Where was the fair?", "Lorne", of=11),
        step(2, "Who sang the #2 hit, #99?", "Ada", of=11),
        *[step(n, "x", str(n), of=11) for n in range(3, 11)],
        step(11, "the song of #10 and #1 and #1", "y", of=11),
    ]
    assert [each.deps for each in plan[:2]] == [(), ()], "a number that is no earlier step is text"
    assert plan[10].deps == ("s10", "s1")
    assert fill(plan[10], {"s10": "{s1}", "s1": "#10"}) == "the song of {s1} and #10 and #10", "trap 11"
    assert levels(plan) == (tuple(f"s{n}" for n in range(1, 11)), ("s11",))


def test_a_step_that_refers_to_a_later_one_is_refused():
    with pytest.raises(UserError, match="step 1 refers to #2, which comes later; put the steps in order"):
        step(1, "where #2", "x", of=2)


def test_ones_own_questions_over_a_folder(folder):
    mine = world(folder, questions="mine.jsonl", documents="pages", top_k=1)
    (episode,) = mine.episodes()
    assert (episode.info.id, episode.steps, episode.critical_path) == ("q0001", 2, 2)
    assert [hit["title"] for hit in call(mine, episode, "search", query="towers of Orm")] == ["hill.md"]
    assert call(mine, episode, "visit", title="deep/finch.txt") == "Ada Finch came from Lorne."
    with pytest.raises(LookupError, match="nowhere"):
        call(mine, episode, "visit", title="nowhere")
    assert mine.follow(episode).answer == "Lorne"
    assert mine.grade(episode, "Town of Lorne!", ["hill.md"]) == {"em": 1.0, "f1": 1.0, "provenance": 0.5}
    assert mine.grade(episode, None, ()) == {"em": 0.0, "f1": 0.0, "provenance": 0.0}


def test_published_files_of_both_kinds_share_one_set_of_pages(published):
    both = world(published, questions=["musique.json", "hotpot.json"])
    chain, compare = both.episodes()
    assert chain.answers == ("ninety miles", "90 miles")
    assert [each.page for each in chain.plan] == ["Lake", "Arle"]
    assert chain.plan[1].question == "length of {s1}"
    assert chain.facts["levels"] == [1, 1] and chain.facts["plan"] == "gold"
    assert compare.facts["levels"] == [2, 1] and compare.facts["plan"] == "derived"
    assert compare.facts["supporting"] == ["Arle", "Bour"]
    assert call(both, chain, "visit", title="Lake (2)") == "A lake is a body of water."
    assert both.grade(compare, "yes indeed", ())["f1"] == 0.0, "trap 13: HotpotQA's rule for yes and no"
    assert both.follow(chain).answer == "ninety miles"


def test_a_question_can_be_kept_to_its_own_paragraphs(published):
    own = world(published, questions=["musique.json", "hotpot.json"], search_in="own")
    chain, compare = own.episodes()
    assert own.find(chain, "Bour river", 5) == []
    assert own.find(compare, "Bour river", 5) == ["Bour"]


def test_a_changed_page_changes_the_digest(folder):
    before = world(folder, questions="mine.jsonl", documents="pages").episodes()[0].info.digest
    (folder / "pages" / "new.md").write_text("One more page.")
    assert world(folder, questions="mine.jsonl", documents="pages").episodes()[0].info.digest != before


def test_the_decomposition_allows_only_what_search_finds(folder):
    (folder / "pages" / "decoy.md").write_text("Orm Orm tower tower built built. Who built the tower of Orm?")
    mine = world(folder, questions="mine.jsonl", documents="pages", top_k=1)
    followed = mine.follow(mine.episodes()[0])
    assert (followed.values, followed.answer) == ({}, None)


QUESTION = '{"question": "q", "answer": "a"}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no question in it"),
        ("[1]", "question 1: must be an object"),
        ("[{]", "not valid JSON"),
        (QUESTION + "\n{", "line 2: not valid JSON"),
        ('{"question": "q"}', 'give "answers", a list of all that are right, or "answer"'),
        ('{"question": "q", "anwser": "a"}', 'unknown key "anwser"; did you mean "answer"?'),
        ('{"id": "a b", "question": "q", "answer": "a"}', "not a valid name"),
        ('{"id": "x", "question": "q", "answer": "a"}\n' * 2, 'id "x" is taken'),
        ('{"question": "q", "answers": [""]}', "at least 1 character"),
        ('{"question": "q", "answer": "a", "pages": ["hil.md"]}', 'did you mean "hill.md"?'),
        ('{"question": "q", "answer": "a", "pages": ["x"]}', "a title is a file's path"),
        (
            '{"question": "q", "answer": "a", "decomposition": [{"question": "of #2", "answer": "b"}, '
            '{"question": "q", "answer": "c"}]}',
            "step 1 refers to #2",
        ),
        ('[{"id": "m", "question": "q", "answer": "a", "paragraphs": 3}]', '"paragraphs"'),
    ],
)
def test_a_file_that_cannot_be_used_is_one_clear_line(folder, text, message):
    (folder / "bad.json").write_text(text)
    with pytest.raises(UserError) as error:
        world(folder, questions="bad.json", documents="pages").episodes()
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"questions": "none.json"}, "cannot be read"),
        ({"questions": "mine.jsonl"}, "name a folder of text files"),
        ({"questions": "mine.jsonl", "documents": "nowhere"}, "is not a folder"),
        ({"questions": "mine.jsonl", "documents": "pages", "search_in": "own"}, 'use search_in = "all"'),
        ({"questions": "mine.jsonl", "documents": "pages", "topk": 3}, 'did you mean "top_k"?'),
        ({"questions": []}, "questions"),
    ],
)
def test_settings_that_cannot_be_used_are_one_clear_line(folder, settings, message):
    with pytest.raises(UserError) as error:
        world(folder, **settings).episodes()
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_kinds_of_musique_are_in_its_references():
    episodes = world(CASES, questions=case("musique.json")).episodes()
    shapes = {(episode.facts["form"], tuple(episode.facts["levels"])) for episode in episodes}
    assert shapes == {
        ("2hop", (1, 1)),
        ("3hop1", (1, 1, 1)),
        ("3hop2", (2, 1)),
        ("4hop1", (1, 1, 1, 1)),
        ("4hop3", (2, 1, 1)),
    }
    counts = [sum(episode.facts["form"] == form for episode in episodes) for form, _ in sorted(shapes)]
    assert counts == [34, 12, 2, 1, 1]
    speed_up = sum(each.steps for each in episodes) / sum(each.critical_path for each in episodes)
    assert speed_up == pytest.approx(1.026, abs=0.001), "trap 20: there is next to nothing to run side by side"


def test_search_finds_most_supporting_paragraphs_of_musique():
    musique = world(CASES, questions=case("musique.json"))
    found = total = 0
    for episode in musique.episodes():
        values = {each.id: each.value for each in episode.plan}
        for each in episode.plan:
            found += each.page in musique.find(episode, fill(each, values), 5)
            total += 1
    assert total == 118 and found / total >= 0.9


def test_the_verifiers_of_parallelqa():
    questions = read_parallelqa(CASES / case("parallelqa.json"))
    assert [sum(each.branch == branch for each in questions) for branch in (2, 3, 4, 5)] == [11, 15, 16, 15]
    assert all(each.grade(each.answer) == 1.0 for each in questions)
    assert all(each.grade(None) == each.grade("-1") == 0.0 for each in questions)
    first = questions[0]
    joined = {"1": (), "2": (), "3": ("1",), "4": ("2",), "5": ("3", "4")}
    assert width(joined) == first.branch == 2
    assert fits(first, joined) and fits(first, {"1": (), "2": ()})
    assert not fits(first, {"1": (), "2": ("1",)}), "one after the other"
    assert not fits(first, {"1": (), "2": (), "3": ("1",)}), "one is never used"
