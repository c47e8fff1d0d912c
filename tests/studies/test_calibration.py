"""Calibration: false alarms as rare as they should be, planted effects found, and the arm that was asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from fairtrial import Study
from fairtrial.app.cli import app
from fairtrial.studies.calibrate import TWIN, simulate, twin_study
from fairtrial.studies.study import Analysis, study_toml

ROOT = Path(__file__).parents[2]


def study(**changes: Any) -> Study:
    base: dict[str, Any] = {
        "title": "planted",
        "kind": "planted",
        "suite": {"n": 20},
        "seed": 3,
        "arms": {"base": {"control": True}, "more": {"effect": 0.4}},
        "claims": [{"text": "it helps", "arm": "more", "direction": "more"}],
    }
    return Study.model_validate({**base, **changes})


def rates(scores: dict[str, list[float]], tasks: int, *planted: float, studies: int = 300) -> list[tuple[float, float]]:
    found = simulate(scores, Analysis(), tasks=tasks, repeats=1, studies=studies, study_seed=1, planted=planted)
    return [(rate.planted, rate.found) for rate in found]


def test_no_effect_raises_an_alarm_in_one_of_twenty_studies_and_a_planted_one_is_found() -> None:
    (_, alarms), (planted, power) = rates({f"t{i}": [0.0, 1.0, 0.0, 1.0, 0.0] for i in range(50)}, 60, 0.3)
    assert 0.015 <= alarms <= 0.09 and planted == 0.3 and power >= 0.9


def test_scores_between_0_and_1_stay_what_they_are() -> None:
    rng = np.random.default_rng(2)
    scores = {f"t{i}": np.clip(rng.normal(level, 0.05, 3), 0, 1).tolist() for i, level in
              enumerate(rng.uniform(0.2, 0.7, 50))}  # fmt: skip
    (_, alarms), (planted, power) = rates(scores, 24, 0.2)
    assert 0.015 <= alarms <= 0.09 and planted == 0.2 and power >= 0.5
    whole = {task: [float(value > 0.45) for value in values] for task, values in scores.items()}
    assert power > rates(whole, 24, 0.2)[1][1] + 0.05, "read as 0/1 they would hide what they show"


def test_where_scores_are_high_effects_are_planted_downwards() -> None:
    high = {f"t{i}": [1.0, 1.0, float(i % 3 > 0)] for i in range(40)}
    (_, _), (planted, power) = rates(high, 64, 0.3)
    assert planted == -0.3 and power >= 0.9


def test_a_study_may_be_smaller_than_what_was_played() -> None:
    scores = {f"t{i}": [0.0, 1.0] for i in range(50)}
    assert rates(scores, 15, 0.3)[1][1] < rates(scores, 60, 0.3)[1][1] - 0.2


def test_one_arm_is_played_twice_with_two_seeds_and_studies_keep_their_size() -> None:
    twins = twin_study(study(calibration={"arm": "more"}))
    assert list(twins.arms) == ["more", TWIN] and twins.control == "more" and twins.claims == ()
    assert (twins.repeats, twins.calibration.repeats) == (2, 1)
    assert twin_study(study(repeats=3)).repeats == 3 and twin_study(study()).control == "base"


def test_what_to_plant_may_change_without_playing_again(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(study_toml(study(calibration={"arm": "more", "planted": [0.3]})), "utf-8")
    call = ["calibrate", str(path), "-o", str(tmp_path / "out"), "--studies", "100", "--json"]
    first = json.loads(CliRunner().invoke(app, call).output)
    assert (first["arm"], first["blocks"], first["tasks"], first["repeats"]) == ("more", 40, 20, 1)
    assert [round(abs(rate["planted"]), 2) for rate in first["rates"]] == [0.0, 0.3]
    other = [*call, "--set", "calibration.planted=[0.1, 0.5]", "--set", "calibration.tasks=12"]
    again = json.loads(CliRunner().invoke(app, other).output)
    assert again["tasks"] == 12 and [round(abs(rate["planted"]), 2) for rate in again["rates"]] == [0.0, 0.1, 0.5]


def test_episodes_are_calibrated_on_the_arm_that_the_recipe_names(tmp_path: Path) -> None:
    call = ["calibrate", str(ROOT / "recipes/skills.toml"), "-o", str(tmp_path / "out"), "--studies", "100", "--json"]
    played = ["--set", "suite.model={kind='follower', slip=0.05}", "--set", "suite.world={id='recipes', n=8}"]
    told = json.loads(CliRunner().invoke(app, [*call, *played]).output)
    assert (told["arm"], told["tasks"], told["blocks"], told["disagreements"]) == ("curated", 8, 16, 0)
    assert told["rates"][1]["planted"] < 0 and any("blocks would differ" in note for note in told["notes"])


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"arm": "mor"}, 'calibration.arm: no arm "mor"; did you mean "more"?'),
        ({"planted": [0.0]}, '"calibration.planted.0"'),
        ({"taks": 3}, 'unknown key "calibration.taks"; did you mean "tasks"?'),
    ],
)
def test_a_calibration_of_nothing_is_refused(tmp_path: Path, keys: dict[str, Any], said: str) -> None:
    import tomli_w

    path = tmp_path / "study.toml"
    table = json.loads(study().model_dump_json(exclude_defaults=True, exclude_none=True))
    path.write_text(tomli_w.dumps({**table, "calibration": keys}), "utf-8")
    shown = CliRunner().invoke(app, ["calibrate", str(path), "-o", str(tmp_path / "out")])
    assert said in str(shown.exception) and not (tmp_path / "out").exists()
