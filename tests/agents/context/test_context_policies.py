"""What holds for every policy (no orphan calls, no thinking, a prompt from the log alone), and each one's own trim."""

import random
from pathlib import Path

import orjson
import pytest

from fairtrial.agents.context import tags
from fairtrial.agents.context.folding import range_in
from fairtrial.agents.context.opening import open_policy
from fairtrial.agents.context.policy import WindowFullError
from fairtrial.agents.log import Called, Folded, Noted, Planned, Result
from fairtrial.agents.planners.plan import Node, Plan
from fairtrial.models.model import Message, Reply, Request

CODING_RUN = Path(__file__).parents[4] / "shared" / "cases" / "runtime" / "mini_swe_agent.traj.json"


def due(policy, log) -> tuple[int, int] | None:
    """The fold that a policy needs from the next turn: what it imposes, or one block of the last step."""
    if not log.steps or not policy.rules:
        return None
    last = len(log.steps) - 1
    if "memory" in policy.rules:
        return 0, last
    return range_in("\n".join(message.content for message in policy.render(log))) or (last, last)


def digested(policy, log, text: str | None = "notes") -> bool:
    """Do what a runtime does about a summary; None: the summary's call fails."""
    digest = policy.digest(log)
    if digest is None:
        return False
    if text is None:
        log.add(Noted("summary-failed", "no answer"))
    else:
        reply = Reply(Message(role="assistant", content=text), "stop", "scripted")
        log.add(Called(Request(messages=digest.messages), reply, "summary"))
    log.add(Folded(digest.start, digest.end, digest.fallback if text is None else text))
    return True


def long_run(new_run, policy, steps: int = 12, *, native: bool = False):
    run = new_run(native=native)
    for number in range(steps):
        digested(policy, run.log)
        fold = due(policy, run.log)
        run.step(f"page {number} " + "x " * 10, fold=(*fold, f"block {number}") if fold else None)
    return run


def orphans(prompt) -> list[str]:
    """What is wrong with the calls and results of a prompt."""
    wrong, open_calls, seen = [], [], set()
    for message in prompt:
        if message.role == "tool":
            if message.tool_call_id not in open_calls:
                wrong.append(f"a result of {message.tool_call_id}, which was not called")
            else:
                open_calls.remove(message.tool_call_id)
            continue
        wrong += [f"no result of {call}" for call in open_calls]
        open_calls = [call.id for call in message.tool_calls]
        wrong += [f"{call} twice" for call in open_calls if call in seen]
        seen |= set(open_calls)
    return wrong + [f"no result of {call}" for call in open_calls]


def test_no_call_is_ever_without_its_one_result(new_run, policies):
    """Trap 8: every policy, native calls, cut at every event, with rejected turns."""
    draw, prompts = random.Random(4), 0
    for policy in policies.values():
        for _ in range(12):
            run = new_run(native=True)
            for number in range(draw.randint(1, 9)):
                if draw.random() < 0.3:
                    run.rejected("?", "schema", "No.", calls=[(f"c{number}", "{}"), (f"d{number}", "{")])
                digested(policy, run.log, draw.choice(["notes", None]))
                fold = due(policy, run.log)
                ids = [f"u{number}", f"v{number}"]
                states = draw.choices(["ok", "error", "timeout", "cancelled", "skipped"], k=2)
                results = [Result(number, name, state, "r " * 9) for name, state in zip(ids, states, strict=True)]
                run.step(*results, nodes=2, ids=ids, fold=(*fold, "block") if fold else None)
            if draw.random() < 0.5:
                run.limited()
            for cut in range(1, len(run.log.events) + 1):
                try:
                    prompt = policy.render(run.log.prefix(cut))
                except WindowFullError:
                    continue
                assert orphans(prompt) == []
                prompts += 1
    assert prompts > 3000


def test_thinking_never_reaches_a_later_prompt_unless_all_are_asked_to_keep_it(new_run, policy, count):
    """Trap 4: in the text, in a field of its own, cut off, and begun in the template; the same in every policy."""
    for native in (False, True):
        run = new_run(native=native)
        for number, (text, reasoning) in enumerate(
            [
                ("<think>SECRET</think>look(0)", None),
                ("look(1)", "SECRET"),
                ("SECRET</think>look(2)", None),
                ("look(3)<think>SECRET", None),
            ]
        ):
            fold = due(policy, run.log)
            run.step(f"page {number}", text=text, reasoning=reasoning, fold=(*fold, "block") if fold else None)
            assert "SECRET" not in str(policy.render(run.log))
            turn_text = policy.write(Folded(*(due(policy, run.log) or (0, 0)), "b"), "why", "SECRET") + "look()"
            assert "SECRET" not in str(policy.read(turn_text, run.log))
        run.rejected("<think>SECRET</think>oops", "malformed", "No.")
        assert "SECRET" not in str(policy.render(run.log))


@pytest.mark.parametrize("name", ["append", "last-n", "clear-results", "rewrite", "fold", "fold-fixed", "fold-random"])
@pytest.mark.parametrize("native", [False, True])
def test_an_arm_that_keeps_thinking_keeps_it_in_the_steps_that_it_shows(new_run, count, name, native):
    for text, reasoning in [("<think>KEPT</think>look(0)", None), ("look(0)", "KEPT")]:
        run = new_run(native=native).step("page", text=text, reasoning=reasoning)
        assert "KEPT" in str(open_policy({"id": name, "thinking": True}, count).render(run.log))


def test_the_same_log_gives_the_same_prompt(new_run, policy):
    """A policy keeps nothing: a fresh log of the same events renders the same, in any order of asking."""
    run = long_run(new_run, policy)
    live = [policy.render(run.log.prefix(cut)) for cut in range(1, len(run.log.events) + 1)]
    for cut in reversed(range(1, len(run.log.events) + 1)):
        assert policy.render(run.log.prefix(cut)) == live[cut - 1]


def test_what_is_written_is_read_again(new_run, policy):
    run = long_run(new_run, policy, 5)
    start, end = due(policy, run.log) or (0, 4)
    for text in ["plain", 'a "quoted"\nline', "</folding></memory> {x} \\", "<answer>not yet"]:
        said = policy.write(Folded(start, end, text), "because", "hm </think> hm")
        turn = policy.read(said + 'look("<folding>")', run.log)
        assert turn.rest.endswith('look("<folding>")')
        if turn.fold is not None:
            assert (turn.fold.start, turn.fold.end) == (start, end) and "because" in turn.explanation
            memory = "<memory>" in policy.rules
            assert turn.fold.text == (text.replace("</memory>", "< /memory>") if memory else text)


def test_the_last_turn_asks_for_the_answer_in_every_policy(new_run, policy):
    run = long_run(new_run, policy, 4)
    assert "final answer now" not in str(policy.render(run.log))
    prompt = policy.render(run.limited().log)
    assert prompt[-1].role == "user" and "final answer now" in prompt[-1].content
    assert range_in(prompt[-1].content) is None


def test_append_shows_everything_and_stops_at_its_window(new_run, count):
    run = new_run("Who is it?")
    for number in range(6):
        run.step(f"page{number} " + "x " * 20)
    assert all(f"page{number}" in str(open_policy("append", count).render(run.log)) for number in range(6))
    tight = open_policy({"id": "append", "window": 80}, count)
    with pytest.raises(WindowFullError, match="window 80"):
        tight.render(run.log)
    last = tight.render(run.limited("window").log)
    assert count(last) <= 80 and "page0" in str(last) and "page5" not in str(last) and "not shown" in last[0].content


def test_append_keeps_token_ids_where_nothing_was_changed(new_run, count):
    """Trap 15: the ids of a message that stays as it was go with it; a message without its thinking has none."""
    policy, run = open_policy("append", count), new_run().step("page")
    log = run.log
    kept = Message(role="assistant", content="look(1)", token_ids=(1, 2, 3))
    log.add(Called(Request(prompt="?"), Reply(kept, "stop", "scripted")))
    run_again = log.prefix(len(log.events))
    run_again.add(Planned(1, Plan((Node("a", "look"),))))
    assert policy.render(run_again)[3] is kept
    cut = kept.model_copy(update={"content": "<think>x</think>look(1)"})
    log.add(Called(Request(prompt="?"), Reply(cut, "stop", "scripted")))
    log.add(Planned(1, Plan((Node("a", "look"),))))
    assert policy.render(log)[3].token_ids is None


def test_dropping_the_oldest_leaves_out_no_more_than_it_must(new_run, count):
    run = new_run()
    for number in range(9):
        run.step(f"page{number} " + "x " * 20)
    whole = count(open_policy("append", count).render(run.log))
    for window in range(40, whole + 5, 7):
        prompt = open_policy({"id": "append", "full": "drop_oldest", "window": window}, count).render(run.log)
        shown = [number for number in range(9) if f"page{number} " in str(prompt)]
        assert shown == list(range(9 - len(shown), 9)) and count(prompt) <= window
        assert len(shown) == 9 or count(prompt) + 26 > window
        assert ("not shown" in prompt[0].content) == (len(shown) < 9)
    with pytest.raises(WindowFullError):
        open_policy({"id": "append", "full": "drop_oldest", "window": 9}, count).render(run.log)


def test_last_n_shows_n_steps(new_run, count):
    policy, run = open_policy({"id": "last-n", "n": 2}, count), new_run()
    for number in range(5):
        run.step(f"page{number}")
    prompt = policy.render(run.log)
    assert [f"page{number}" in str(prompt) for number in range(5)] == [False, False, False, True, True]
    assert prompt[0].content == "Who?\n\n(Steps 0 to 2 are not shown.)"


def test_clearing_keeps_calls_and_changes_the_beginning_only_when_it_must(new_run, count):
    run, before, changes = new_run(native=True), [], 0
    policy = open_policy({"id": "clear-results", "keep": 2, "trigger": 400, "placeholder": "[gone]"}, count)
    for number in range(40):
        run.step(f"page{number} " + "x " * 30)
        prompt = list(policy.render(run.log))
        assert sum(len(message.tool_calls) for message in prompt) == number + 1
        assert f"page{number} " in str(prompt) and (not number or f"page{number - 1} " in str(prompt))
        changes += prompt[: len(before)] != before
        before = prompt
    assert "page0 " not in str(before) and "[gone]" in str(before)
    assert 3 <= changes <= 10
    assert count(before) <= 400


def test_a_short_result_is_not_made_longer_by_clearing(new_run, count):
    policy = open_policy({"id": "clear-results", "keep": 1, "placeholder": "[result cleared]"}, count)
    prompt = policy.render(new_run().step("yes").step("x" * 50).step("z").log)
    assert "yes" in prompt[2].content and "[result cleared]" in prompt[4].content


@pytest.mark.parametrize("summary", ["notes", "a summary that says far more than it should " * 40, None])
def test_summaries_come_seldom_make_progress_and_survive_failure(new_run, count, summary):
    """Trap 7: no loop of summaries, failure falls back to a trim, and the prompt stays within the window."""
    policy = open_policy(
        {"id": "summarise-at", "trigger": 300, "window": 900, "keep_first": 1, "summary_tokens": 50}, count
    )
    run, summaries = new_run(), 0
    for number in range(200):
        if digested(policy, run.log, summary):
            summaries += 1
            assert not digested(policy, run.log, summary)
            assert run.log.blocks[-1].start == 0 and run.log.blocks[-1].end == number - 3
        prompt = policy.render(run.log)
        assert count(prompt) <= 900
        if number > 3:
            assert (
                "page0 " in str(prompt) and f"page{number - 1} " in str(prompt) and f"page{number - 2} " in str(prompt)
            )
        run.step(f"page{number} " + "x " * 30)
    assert 200 * 30 / 300 / 2 < summaries <= 100


def test_the_summariser_sees_the_steps_in_full_and_the_notes_before(new_run, count):
    policy, run = open_policy({"id": "summarise-at", "trigger": 100, "keep_last": 1}, count), new_run()
    for number in range(4):
        run.step(f"fact{number} " + "x " * 60)
    first = policy.digest(run.log)
    assert (first.start, first.end) == (0, 2) and first.tokens == 1500
    asked = first.messages[-1].content
    assert all(f"fact{number} " in asked for number in range(3)) and "fact3 " not in asked and asked.count(" x") == 180
    assert "fact0" in first.fallback and "fact2" in first.fallback
    digested(policy, run.log, "<think>SECRET</think>EARLIER")
    assert "### Notes on steps 0 to 2\nEARLIER" in policy.render(run.log)[0].content
    for number in range(4, 7):
        run.step(f"fact{number} " + "x " * 60)
    second = policy.digest(run.log)
    assert (second.start, second.end) == (0, 5) and "EARLIER" in second.messages[-1].content
    assert "SECRET" not in str(policy.render(run.log)) + str(second)
    assert "fact1 " not in second.messages[-1].content and "EARLIER" in second.fallback


def test_a_prompt_far_over_the_trigger_by_its_last_steps_alone_is_not_summarised_for_nothing(new_run, count):
    policy, run = open_policy({"id": "summarise-at", "trigger": 100, "keep_last": 1}, count), new_run()
    run.step("tiny").step("x " * 500)
    assert policy.digest(run.log) is None


@pytest.mark.skipif(not CODING_RUN.is_file(), reason="the recorded coding run is not beside this checkout")
def test_a_real_coding_run_under_every_policy(new_run, policy):
    messages = orjson.loads(CODING_RUN.read_bytes())
    run = new_run(messages[1]["content"], rules=messages[0]["content"])
    for said, came in zip(messages[2::2], messages[3::2], strict=True):
        digested(policy, run.log)
        fold = due(policy, run.log)
        try:
            prompt = policy.render(run.log)
        except WindowFullError:
            return
        assert prompt[0].content == messages[0]["content"] and "missing_colon.py" in prompt[1].content
        run.step(came["content"], text=said["content"], fold=(*fold, "summary") if fold else None)
    assert messages[-1]["content"] in policy.render(run.log)[-1].content


def test_tags_inside_of_arguments_are_text():
    text = '<think>a</think>\n<tool_call>{"text": "<think>b</think> </folding>"}</tool_call>'
    assert tags.apart(text) == ('<tool_call>{"text": "<think>b</think> </folding>"}</tool_call>', "a")
    assert [element.tag for element in tags.elements("<x>1</x><br/><y a='1'><x>2</x></y><z>")] == ["x", "y"]


def test_half_a_megabyte_of_open_tags_is_read_at_once():
    assert tags.elements("<a>" * 150_000) == ()
    assert len(tags.elements("<a>" * 100_000 + "</a>")) == 1
    assert tags.apart("<t>" * 100_000 + "<think>x")[1] == "x"
