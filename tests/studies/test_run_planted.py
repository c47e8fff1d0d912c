"""Whole studies on the planted kind: verdicts on a known truth, resume, budgets, errors that are never zeros."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from fairtrial import Run, Study
from fairtrial.core.errors import UserError
from fairtrial.core.record import Outcome
from fairtrial.store import RunDir


def study(**changes: Any) -> Study:
    base: dict[str, Any] = {
        "title": "planted",
        "kind": "planted",
        "suite": {"n": 40},
        "repeats": 2,
        "seed": 3,
        "arms": {"base": {"control": True}, "twin": {}, "more": {"effect": 0.25}},
        "engine": {"backoff_s": 0.001, "in_flight": 8},
    }
    return Study.model_validate({**base, **changes})


def canonical(path: Path) -> list[str]:
    """Records without what may differ between two runs: times and the attempt of a trial that errored before."""
    with RunDir.open(path) as run:
        return sorted(record.model_dump_json(exclude={"timings", "provenance"}) for record in run.records(latest=True))


def test_a_planted_effect_is_found_and_a_twin_is_not(tmp_path: Path) -> None:
    run = study().run(tmp_path / "run")
    result = run.result()
    assert result.complete and result.effect("more").verdict == "better"
    assert result.effect("twin").verdict == "not decided" and result.effect("twin").estimate == 0
    assert [arm.name for arm in result.arms] == ["base", "twin", "more"], "control first, then the order of the file"
    assert "more is better than base" in str(run.effect("more"))
    with pytest.raises(UserError, match="did you mean"):
        run.effect("mor")


def test_a_study_runs_inside_a_running_event_loop(tmp_path: Path) -> None:
    async def notebook() -> bool:
        return study(suite={"n": 3}).run(tmp_path / "run").result().complete

    assert asyncio.run(notebook())


def test_running_again_changes_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    first = study().run(tmp_path / "run")
    before = canonical(first.path)
    again = study().run(tmp_path / "run")
    assert canonical(again.path) == before
    with RunDir.open(again.path) as run:
        assert len(run) == len(before) == 240


def test_errors_are_never_zeros_and_attrition_is_said(tmp_path: Path) -> None:
    shaky = {"base": {"control": True}, "shaky": {"errors": 0.5, "effect": 0.0}}
    run = study(arms=shaky, engine={"attempts": 1, "backoff_s": 0.001}, repeats=3).run(tmp_path / "run")
    result = run.result()
    arm = result.arm("shaky")
    assert arm.mix.errored > 30 and arm.mix.scored + arm.mix.errored == arm.mix.planned == 120
    effect = result.effect("shaky")
    assert effect.estimate == 0.0, "on the blocks that both arms have, two equal arms are equal"
    assert effect.sensitivity["errors as 0"] < 0 < effect.sensitivity["best case"]
    assert any("attrition" in warning for warning in result.warnings)
    assert not any(record.scores for record in run.records("shaky", "errored"))


def test_every_attempt_is_journalled_and_counted(tmp_path: Path) -> None:
    arms = {"base": {"control": True}, "shaky": {"errors": 0.5, "cost_usd": 0.25}}
    path = study(arms=arms, repeats=1).run(tmp_path / "run").path
    with RunDir.open(path) as run:
        attempts = list(run.records())
        assert run.totals().usage.cost_usd == pytest.approx(sum(record.usage.cost_usd for record in attempts))
        assert max(record.key.attempt for record in attempts) > 1
        for record in attempts:
            assert record.key.attempt <= 3
            assert (record.outcome is Outcome.ERRORED) == (not record.scores)


def test_a_budget_is_kept_over_five_resumes(tmp_path: Path) -> None:
    arms = {"base": {"control": True, "cost_usd": 0.1}, "more": {"cost_usd": 0.1, "errors": 0.3}}
    capped = study(arms=arms, limits={"cost_usd": 0.15})
    path = tmp_path / "run"
    spent: list[float] = []
    for cap in (1.0, 1.0, 2.05, 2.05, 4.0):
        capped.model_copy(update={"budget": capped.budget.model_copy(update={"cost_usd": cap})}).run(path)
        with RunDir.open(path) as run:
            spent.append(run.totals().usage.cost_usd)
            assert spent[-1] <= cap + 1e-9
            skipped = [record for record in run.records(latest=True) if record.outcome is Outcome.SKIPPED]
            assert skipped and all(record.cause == "budget" for record in skipped)
            assert len(run.done()) == 160, "every planned trial is accounted for"
    assert spent[0] == spent[1] < spent[2] == spent[3] < spent[4] and spent[4] > 3.5
    capped.run(path)
    assert Run(path).result().complete


def test_a_budget_without_a_limit_for_each_trial_is_refused() -> None:
    with pytest.raises(ValueError, match=r"budget.cost_usd needs limits.cost_usd"):
        study(budget={"cost_usd": 1})


def test_a_limit_of_the_trial_fails_it_and_counts(tmp_path: Path) -> None:
    arms = {"base": {"control": True}, "dear": {"cost_usd": 5.0, "effect": 1.0}}
    result = study(arms=arms, limits={"cost_usd": 1.0}).run(tmp_path / "run").result()
    assert result.arm("dear").mix.failed == 80 and result.arm("dear").mean == 0.0
    (told,) = [line for line in result.warnings if line.startswith("dear: ")]
    assert told == "dear: 80 trials failed and count as failures (cost_usd 80)."
    assert result.arm("dear").causes == {"cost_usd": 80}


def test_drift_of_the_environment_is_no_effect(tmp_path: Path) -> None:
    """An endpoint that loses 60 points while it is measured: arms are interleaved, so equal arms stay equal."""
    twins = {"base": {"control": True}, "twin": {}}
    suite = {"n": 500, "drift": -0.6, "difficulty": 0.7, "concentration": 20}
    run = study(arms=twins, suite=suite, repeats=1, engine={"in_flight": 1}).run(tmp_path / "run")
    effect = run.effect("twin")
    assert effect.estimate is not None and abs(effect.estimate) < 0.03 and effect.verdict == "not decided"
    starts = {"base": [], "twin": []}
    drifted = {"early": [], "late": []}
    for number, record in enumerate(sorted(run.records(), key=lambda record: record.timings.started)):
        starts[record.key.arm].append(number)
        drifted["early" if number < 200 else "late"].append(record.scores["reward"])
    means = {name: sum(found) / len(found) for name, found in (starts | drifted).items()}
    assert means["early"] - means["late"] > 0.2, (
        "the drift was there: one arm after the other would have shown an effect"
    )
    assert abs(means["base"] - means["twin"]) < 20


DRIVER = """
import sys
from pathlib import Path
from fairtrial import Study
Study.model_validate_json(Path(sys.argv[1]).read_text()).run(sys.argv[2])
"""


def test_kill_at_random_moments_then_resume_equals_an_unbroken_run(tmp_path: Path) -> None:
    whole = study(
        suite={"n": 60, "filler": 200}, arms={"base": {"control": True}, "more": {"effect": 0.2, "errors": 0.1}}
    )
    spec = tmp_path / "study.json"
    spec.write_text(whole.model_dump_json())
    expected = canonical(whole.run(tmp_path / "unbroken").path)
    rng, broken = random.Random(11), tmp_path / "broken"
    for _ in range(4):
        child = subprocess.Popen([sys.executable, "-c", DRIVER, str(spec), str(broken)], stderr=subprocess.PIPE)
        time.sleep(0.5 + rng.random() * 0.6)
        child.send_signal(signal.SIGKILL)
        child.wait()
    whole.run(broken)
    assert canonical(broken) == expected
    with RunDir.open(broken) as run:
        keys = [str(record.key) for record in run.records()]
        assert len(keys) == len(set(keys))


def test_ctrl_c_drains_and_says_how_to_resume(tmp_path: Path) -> None:
    file = tmp_path / "slow.toml"
    file.write_text(
        textwrap.dedent("""
            title = "slow"
            kind = "planted"
            [suite]
            n = 400
            [arms.base]
            control = true
            seconds = 0.05
            [arms.more]
            seconds = 0.05
            """)
    )
    out = tmp_path / "run"
    command = [sys.executable, "-m", "fairtrial.app.cli", "run", str(file), "--out", str(out)]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (out / "manifest.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    os.killpg(child.pid, signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130 and f"fairtrial resume {out}" in err
    with RunDir.open(out) as run:
        assert 0 < len(run) < 800
    second = subprocess.run(
        [sys.executable, "-m", "fairtrial.app.cli", "resume", str(out), "-q"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert second.returncode == 0, second.stderr
    assert Run(out).result().complete


def test_two_drivers_on_one_directory(tmp_path: Path) -> None:
    from fairtrial.core.errors import LockedError

    small = study(suite={"n": 2})
    path = small.run(tmp_path / "run").path
    writer = RunDir.open_writer(path)
    try:
        with pytest.raises(LockedError) as caught:
            small.run(path)
        assert caught.value.exit_code == 4
    finally:
        writer.close()
