"""What a study of episodes shows beside its verdicts, on records whose numbers are known."""

import pytest

from fairtrial.agents.episode_findings import findings, measured, measures
from fairtrial.core.findings import Curves, Table
from fairtrial.core.record import Outcome, Record, TrialKey


def record(arm, task, *, em, turns, context, survival, steps=4):
    tokens = {"prompt": sum(context), "uncached": context[-1], "output": turns, "counted_by": "ids"}
    details = {
        "world": {"steps": steps, "critical_path": 2},
        "turns": turns,
        "valid_turns": 1.0,
        "tokens": tokens,
        "final_context": context[-1],
        "largest_context": max(context),
        "rejected": {},
        "context": context,
        "blocks": list(range(len(context))),
        "tools": {"calls": turns, "wasted": 0},
        "time": {"makespan_s": 3.0, "ratio": 1.5},
        "survival": survival,
    }
    key = TrialKey(arm=arm, task=task, repeat=0)
    return Record(key=key, seed=0, outcome=Outcome.SCORED, scores={"em": em}, details=details)


def by_title(found, start):
    return next(each for each in found if each.title.startswith(start))


def test_means_are_over_trials_and_survival_is_over_pairs():
    records = [
        record("append", "a", em=1.0, turns=2, context=[10, 20], survival=[[1, 1, 1], [3, 0, 1]], steps=2),
        record("append", "b", em=0.0, turns=4, context=[10, 20, 30, 40], survival=[[2, 3, 3]], steps=4),
        record("fold", "a", em=1.0, turns=2, context=[10, 12], survival=[], steps=2),
    ]
    found = findings(["append", "fold"], "em", records)
    took = by_title(found, "What a trial took")
    assert isinstance(took, Table)
    assert took.rows[0][:4] == ("append", 3.0, 1.0, (30 + 100) / 2)
    assert "ids" in took.note and "1.33" in took.note
    steps = by_title(found, "em by steps")
    assert isinstance(steps, Table)
    assert steps.columns == ("arm", "2", "4", "holds up to")
    (_, few, many, reach), (_, only, none, same) = steps.rows
    assert (few.value, many.value, only.value, none) == (1.0, 0.0, 1.0, None)
    assert few.high == 1.0 and few.low == pytest.approx(0.2065, abs=1e-3), "Wilson's interval of one task of one"
    assert (reach, same) == (2, 2)
    turns = by_title(found, "Turns by steps")
    assert isinstance(turns, Table)
    assert (turns.columns, turns.rows) == (("arm", "2", "4"), (("append", 2.0, 4.0), ("fold", 2.0, None)))
    assert by_title(found, "Prompt tokens by steps").rows[0] == ("append", 30.0, 100.0)
    assert by_title(found, "Makespan s by steps").rows[-1] == ("steps / critical path", 1.0, 2.0)
    both = by_title(found, "What it took where both were right")
    assert isinstance(both, Table)
    assert both.rows == (("fold", 1, 1.0, 22 / 30, 1.0, 1.0, 1.0),)
    kept = by_title(found, "Facts that")
    assert isinstance(kept, Table)
    assert kept.columns == ("arm", "1", "2 to 4")
    assert kept.rows == (("append", 1.0, 3 / 4), ("fold", None, None))
    context = by_title(found, "Tokens of the prompt")
    assert isinstance(context, Curves)
    assert context.series["append"] == ((1, 10), (2, 20), (3, 30), (4, 40))
    assert context.series["fold"] == ((1, 10), (2, 12))


def test_an_arm_holds_up_to_the_step_before_it_first_falls_below_half():
    def arm(name, scores):
        return [
            record(name, f"{steps}-{n}", em=float(n < right), turns=1, context=[1], survival=[], steps=steps)
            for steps, right in scores.items()
            for n in range(4)
        ]

    records = [
        *arm("append", {2: 4, 4: 2, 8: 1, 16: 4}),
        *arm("fold", {2: 4, 4: 3, 8: 3, 16: 2}),
        *arm("lost", {2: 0, 4: 1, 8: 0, 16: 0}),
    ]
    table = by_title(findings(["append", "fold", "lost"], "em", records), "em by steps")
    assert [row[-1] for row in table.rows] == [4, 16, None]
    half = table.rows[0][2]
    assert half.value == 0.5 and half.low == pytest.approx(0.15, abs=0.01) == 1 - half.high


def test_repeats_of_a_task_are_not_further_tasks():
    records = [
        record("fold", task, em=em, turns=1, context=[1], survival=[], steps=steps)
        for task, steps in (("a", 2), ("b", 2), ("c", 4))
        for em in (0.0, 1.0)
    ]
    few = by_title(findings(["fold"], "em", records), "em by steps").rows[0][1]
    assert few.value == 0.5 and few.low == few.high == 0.5, "two tasks that agree have no spread between them"


def test_what_a_run_measures_is_told_by_the_names_that_claims_may_use():
    told = measured(record("fold", "a", em=1.0, turns=3, context=[10, 30, 20], survival=[[1, 3, 4], [2, 0, 2]]))
    names = measures([{"hops": 2, "family": "chain", "deep": True}], ["em"])
    assert {name for name, of_task in names.items() if of_task} == {"hops", "steps", "critical path"}
    assert told["last prompt"] == 20 and told["prompt tokens"] == 60 and told["facts kept"] == 0.5
    assert told["steps"] == 4 and told["critical path"] == 2
    assert names.keys() >= {name for name in told if name != "critical_path"}


def test_a_fact_that_never_was_in_need_is_not_a_zero():
    assert "facts kept" not in measured(record("fold", "a", em=1.0, turns=1, context=[1], survival=[]))


def test_a_curve_ends_where_fewer_than_half_of_the_runs_are_left():
    records = [
        record("append", str(n), em=1.0, turns=n, context=list(range(1, n + 1)), survival=[]) for n in (2, 2, 2, 5, 5)
    ]
    context = by_title(findings(["append"], "em", records), "Tokens of the prompt")
    assert [x for x, _ in context.series["append"]] == [1, 2]


def test_trap_5_the_number_of_runs_behind_each_point_of_a_curve_is_shown():
    records = [
        record("append", str(n), em=1.0, turns=n, context=list(range(1, n + 1)), survival=[]) for n in (2, 2, 2, 5, 5)
    ]
    going = by_title(findings(["append"], "em", records), "Runs that are still going")
    assert going.series["append"] == ((1, 5), (2, 5), (3, 2), (4, 2), (5, 2))


def test_without_records_there_is_nothing_to_show():
    assert findings(["append"], "em", []) == []
