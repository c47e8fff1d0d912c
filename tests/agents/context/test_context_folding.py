"""Folds: what is read, what is refused, what prompts look like, and that blocks always partition the steps."""

import csv
import json
import random
from pathlib import Path

import pytest

from fairtrial.agents.context.folding import blocks_in, range_in
from fairtrial.agents.context.opening import open_policy
from fairtrial.agents.log import Block, Folded, Result
from fairtrial.agents.planners.planner import RejectedTurn
from fairtrial.core.errors import UserError

SCHEDULE = Path(__file__).parents[4] / "shared" / "cases" / "runtime" / "agentfold_case1.tsv"
PROMPT = """### Question
Who?

### Previous Steps
**[Compressed Step 0]**
zero

**[Compressed Step 1 to 2]**
one and two

**[Step 3]**
**Motivation:** to see
**Tool call:** look(3)
**Tool response:** a page"""


def code(policy, text, log) -> str:
    with pytest.raises(RejectedTurn) as caught:
        policy.read(text, log)
    assert str(caught.value).strip()
    return caught.value.code


def four_steps(new_run, **settings):
    run = new_run(**settings).step("p0").step("p1", fold=(0, 0, "zero")).step("p2", fold=(1, 1, "one"))
    return run.step("a page", fold=(1, 2, "one and two"), why="to see")


@pytest.mark.skipif(not SCHEDULE.is_file(), reason="the published schedules are not beside this checkout")
@pytest.mark.parametrize("dialect", ["paper", "released"])
def test_the_published_schedule_replays_exactly(new_run, count, dialect):
    """Trap 1 and 3: 2510.24699, table 2, 35 turns; steps from 0, turns from 1."""
    policy, run = open_policy({"id": "fold", "dialect": dialect}, count), new_run()
    rows = list(csv.DictReader(SCHEDULE.open(encoding="utf-8"), delimiter="\t"))
    assert len(rows) == 35
    for row in rows:
        shown, latest = blocks_in(policy.render(run.log)[-1].content)
        names = [str(block.start) if block.start == block.end else f"{block.start}-{block.end}" for block in shown]
        assert names == [name for name in (row["summary_blocks"] or "").split("|") if name]
        assert str("" if latest is None else latest) == (row["latest_step"] or "")
        if not row["fold_start"]:
            assert policy.read("<answer>it</answer>" if latest else "look()", run.log).fold is None
            run.step("page")
            continue
        wanted = Folded(int(row["fold_start"]), int(row["fold_end"]), f"told at turn {row['turn']}")
        fold = policy.read(policy.write(wanted, "why", "hm") + "look()", run.log).fold
        assert fold == wanted
        run.step("page", fold=(fold.start, fold.end, fold.text))


def test_any_sequence_of_folds_leaves_a_partition(new_run, count):
    """Trap 1: 10,000 runs of random ranges, right and wrong; what is accepted is what a partition allows."""
    draw, policy = random.Random(1), open_policy("fold", count)
    accepted = refused = 0
    for _ in range(10_000):
        run, blocks = new_run().step("p"), []
        for last in range(draw.randint(1, 7)):
            while True:
                start, end = draw.randint(-1, last + 1), last if draw.random() < 0.9 else draw.randint(0, last + 1)
                possible = [begin for begin, _ in blocks] + [last]
                text = json.dumps({"range": [start, end], "summary": f"{start} to {end}"})
                try:
                    fold = policy.read(f"<folding>{text}</folding>", run.log).fold
                except RejectedTurn as error:
                    assert error.code == "fold-range" and (end != last or start not in possible)
                    refused += 1
                    continue
                assert end == last and start in possible
                break
            accepted += 1
            blocks = [(begin, stop) for begin, stop in blocks if stop < start] + [(start, end)]
            run.step("p", fold=(fold.start, fold.end, fold.text))
            assert [(block.start, block.end) for block in run.log.blocks] == blocks
            covered = [step for begin, stop in blocks for step in range(begin, stop + 1)]
            assert covered == list(range(last + 1))
    assert accepted > 35_000 and refused > 10_000


def test_what_the_released_reducer_corrupts_is_refused(new_run, count):
    """Trap 1: a range that begins inside of a block, one that ends early, one that leaves out the latest step."""
    run = four_steps(new_run)
    policy = open_policy({"id": "fold", "dialect": "released"}, count)

    def reply(*steps: int) -> str:
        return f'<compress>{{"compress_range": {list(steps)}, "compress_text": "x"}}</compress>look()'

    assert code(policy, reply(2, 3), run.log) == "fold-range"
    assert code(policy, reply(1, 2), run.log) == "fold-range"
    assert code(policy, reply(0), run.log) == "fold-range"
    assert code(policy, reply(3, 4), run.log) == "fold-range"
    assert policy.read(reply(1, 2, 3), run.log).fold == Folded(1, 3, "x")
    assert policy.read(reply(3), run.log).fold == Folded(3, 3, "x")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("look()", "fold-missing"),
        ('<folding>{"range": [3, 3], "summary": "x"}</folding>' * 2, "fold-missing"),
        ('<folding>{"range": [3, 3], "summary": "x"', "fold-missing"),
        ("<folding>{}</folding>", "fold-json"),
        ("<folding>[3, 3]</folding>", "fold-json"),
        ("<folding>" + "[" * 20_000 + "</folding>", "fold-json"),
        ('<folding>{"range": [3, 3], "summary": "x</folding>', "fold-json"),
        ('<folding>{"range": ["3", "3"], "summary": "x"}</folding>', "fold-json"),
        ('<folding>{"range": [true, 3], "summary": "x"}</folding>', "fold-json"),
        ('<folding>{"range": [1, 2, 3], "summary": "x"}</folding>', "fold-json"),
        ('<folding>{"range": [], "summary": "x"}</folding>', "fold-json"),
        ('<folding>{"range": [3, 3], "summary": 7}</folding>', "fold-json"),
        ('<folding>{"range": [3, 3], "summary": " "}</folding>', "fold-empty"),
        ('<compress>{"compress_range": [3], "compress_text": "x"}</compress>', "fold-missing"),
    ],
)
def test_a_fold_that_cannot_be_read_is_told_to_the_model(new_run, count, reply, expected):
    assert code(open_policy("fold", count), reply, four_steps(new_run).log) == expected


def test_the_first_turn_has_nothing_to_fold_and_the_last_needs_no_fold(new_run, count):
    """Trap 3."""
    policy, start = open_policy("fold", count), new_run()
    assert policy.read("<motivation>begin</motivation>look()", start.log).explanation == "begin"
    assert code(policy, '<folding>{"range": [0, 0], "summary": "x"}</folding>look()', start.log) == "fold-range"
    run = four_steps(new_run)
    turn = policy.read("<think>so</think><answer>it</answer>", run.log)
    assert (turn.fold, turn.rest) == (None, "<answer>it</answer>")
    assert policy.read("it", run.limited().log).fold is None


def test_a_fold_with_line_breaks_and_closing_tags_in_its_text_survives(new_run, count):
    policy, run = open_policy("fold", count), four_steps(new_run)
    raw = '<folding>{"range": [3, 3], "summary": "one\ntwo"}</folding>look()'
    assert policy.read(raw, run.log).fold == Folded(3, 3, "one\ntwo")
    nasty = Folded(3, 3, 'a </folding> "b" <think>c</think> \\ {d}')
    turn = policy.read(policy.write(nasty, "why </think>", "a < b") + "look()", run.log)
    assert (turn.fold, turn.explanation, turn.rest) == (nasty, "why </think>", "look()")


def test_prompts_look_as_published(new_run, count):
    """Trap 3: golden renderings."""
    policy = open_policy("fold", count)
    start = policy.render(new_run(rules="Act.").log)
    assert [message.role for message in start] == ["system", "user"]
    assert start[0].content == "Act."
    assert start[1].content == "### Question\nWho?\n\n### Previous Steps\nEMPTY"
    (only,) = policy.render(four_steps(new_run).log)
    assert only.content == PROMPT
    (last,) = policy.render(four_steps(new_run).limited().log)
    assert last.content.startswith(PROMPT) and "last turn" in last.content and "final answer" in last.content


def test_a_plan_of_several_calls_shows_each_result_in_plan_order(new_run, count):
    """Trap 9: results stand in the order of the plan, whatever came first, and how long it took is not shown."""
    first, second = Result(0, "n0a", "ok", "A", started=5, ended=9), Result(0, "n0b", "timeout", "B", ended=1)
    prompts = {
        open_policy("fold", count).render(new_run().step(*results, nodes=2, ids=("n0a", "n0b")).log)
        for results in [(first, second), (second, first)]
    }
    (prompt,) = prompts
    assert prompt[0].content.endswith(
        '**Tool response:** <result id="n0a" tool="look">\nA\n</result>\n'
        '<result id="n0b" tool="look">\n[timeout] B\n</result>'
    )


def test_native_calls_follow_the_blocks_as_messages(new_run, count):
    run = four_steps(new_run, native=True)
    user, assistant, tool = open_policy("fold", count).render(run.log)
    assert user.content.endswith("**[Step 3]**\nThe messages below.")
    assert (assistant.role, assistant.content, [call.id for call in assistant.tool_calls]) == (
        "assistant",
        "to see",
        ["n3a"],
    )
    assert (tool.role, tool.tool_call_id, tool.content) == ("tool", "n3a", "a page")


def test_granular_folds_leave_the_beginning_of_the_prompt_as_it_was(new_run, count):
    """What spec A3 calls cache-friendly: each prompt begins with the one before, up to its last step."""
    policy, run, before = open_policy("fold", count), new_run(), ""
    for number in range(20):
        prompt = policy.render(run.log)[-1].content
        assert prompt.startswith(before)
        before = prompt.split("**[Step")[0] if number else ""
        run.step("page " * 50, fold=(number - 1, number - 1, f"block {number - 1}") if number else None)


def test_the_repair_turn_shows_what_was_said_and_what_is_wrong(new_run, count):
    policy, run = open_policy("fold", count), four_steps(new_run)
    run.rejected("<think>secret</think><folding>oops</folding>look()", "fold-json", "Write JSON.")
    user, assistant, told = policy.render(run.log)
    assert user.content == PROMPT
    assert assistant.content == "<folding>oops</folding>look()"
    assert told.role == "user" and "fold-json" in told.content and "Write JSON." in told.content
    run.step("next", fold=(3, 3, "three"))
    assert "oops" not in str(policy.render(run.log))


def test_a_fixed_period_consolidates_its_steps(new_run, count):
    policy, run = open_policy({"id": "fold-fixed", "period": 3}, count), new_run()
    for number in range(9):
        imposed = range_in(policy.render(run.log)[-1].content)
        if number:
            turn = policy.read('<folding>{"summary": "s"}</folding>look()', run.log)
            assert (turn.fold.start, turn.fold.end) == imposed
        run.step("p", fold=(*imposed, "s") if imposed else None)
    assert [(block.start, block.end) for block in run.log.blocks] == [(0, 2), (3, 5), (6, 6), (7, 7)]
    whole, run = open_policy({"id": "fold-fixed", "period": 3, "start": "first"}, count), new_run()
    for _ in range(9):
        imposed = range_in(whole.render(run.log)[-1].content)
        run.step("p", fold=(*imposed, "s") if imposed else None)
    assert [(block.start, block.end) for block in run.log.blocks] == [(0, 5), (6, 6), (7, 7)]


def test_random_ranges_come_from_the_seed_and_as_often_as_asked(new_run, count):
    def schedule(seed: int, steps: int = 60) -> list[tuple[int, int]]:
        policy, run, ranges = open_policy("fold-random", count), new_run(seed=seed), []
        for _ in range(steps):
            imposed = range_in(policy.render(run.log)[-1].content)
            assert imposed == range_in(policy.render(run.log)[-1].content)
            ranges += [imposed] if imposed else []
            run.step("p", fold=(*imposed, "s") if imposed else None)
        return ranges

    runs = [schedule(seed) for seed in range(20)]
    assert runs[3] == schedule(3) and len({tuple(ranges) for ranges in runs}) == 20
    deep = sum(start < end for ranges in runs for start, end in ranges) / sum(map(len, runs))
    assert 0.08 < deep < 0.16
    assert any(0 < start < end for ranges in runs for start, end in ranges)


def test_an_imposed_range_cannot_be_changed_by_the_model(new_run, count):
    policy, run = open_policy("fold-fixed", count), new_run().step("p")
    assert policy.read('<folding>{"range": [0, 0], "summary": "s"}</folding>', run.log).fold == Folded(0, 0, "s")
    run.step("p", fold=(0, 0, "zero"))
    assert code(policy, '<folding>{"range": [0, 1], "summary": "s"}</folding>', run.log) == "fold-range"


def test_rewrite_shows_the_memory_and_the_last_step_and_nothing_else(new_run, count):
    policy, run = open_policy("rewrite", count), new_run()
    assert policy.render(run.log)[-1].content == "### Question\nWho?\n\n### Memory\nEMPTY"
    run.step("p0")
    for number in range(1, 4):
        turn = policy.read(policy.write(Folded(0, number - 1, f"memory {number}")) + "look()", run.log)
        assert turn.fold == Folded(0, number - 1, f"memory {number}")
        run.step(f"p{number}", fold=(turn.fold.start, turn.fold.end, turn.fold.text))
    prompt = policy.render(run.log)[-1].content
    assert prompt.startswith("### Question\nWho?\n\n### Memory\nmemory 3\n\n### Latest Step\n**[Step 3]**\n")
    assert "p3" in prompt and "p2" not in prompt and "memory 2" not in prompt
    assert code(policy, "<memory> </memory>look()", run.log) == "fold-empty"


def test_what_a_prompt_shows_can_be_read_back(new_run, count):
    prompt = open_policy("fold", count).render(four_steps(new_run).log)[-1].content
    assert blocks_in(prompt) == ((Block(0, 0, "zero"), Block(1, 2, "one and two")), 3)
    assert range_in(prompt) is None


def test_settings_that_cannot_be_are_one_line(count):
    for spec, part in [
        ("fodl", 'did you mean "fold"'),
        ({"id": "fold", "dialect": "mine"}, "dialect"),
        ({"id": "last-n", "n": 0}, '"n"'),
        ({"id": "summarise-at"}, '"trigger" is required'),
        ({"id": "summarise-at", "trigger": 9, "window": 8}, "beyond window"),
        ({"n": 3}, "say which policy"),
    ]:
        with pytest.raises(UserError, match=part) as caught:
            open_policy(spec, count)
        assert "\n" not in str(caught.value)
