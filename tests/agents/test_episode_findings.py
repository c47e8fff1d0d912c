"""What a study of episodes shows beside its verdicts, on records whose numbers are known."""

from fairtrial.agents.episode_findings import findings
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
    assert steps.columns == ("arm", "2", "4")
    assert steps.rows == (("append", 1.0, 0.0), ("fold", 1.0, None))
    kept = by_title(found, "Facts that")
    assert isinstance(kept, Table)
    assert kept.columns == ("arm", "1", "2 to 4")
    assert kept.rows == (("append", 1.0, 3 / 4), ("fold", None, None))
    context = by_title(found, "Tokens of the prompt")
    assert isinstance(context, Curves)
    assert context.series["append"] == ((1, 10), (2, 20), (3, 30), (4, 40))
    assert context.series["fold"] == ((1, 10), (2, 12))


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
