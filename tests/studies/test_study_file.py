"""A study file: what is refused, and what the refusal says."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from fairtrial.core.errors import UserError
from fairtrial.studies.study import Study, bind, load_study, study_toml

GOOD = """
title = "t"
kind = "planted"
repeats = 2
[suite]
n = 3
[arms.base]
control = true
[arms.more]
effect = 0.2
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(textwrap.dedent(text))
    return path


def complaint(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        study, _ = load_study(write(tmp_path, text), overrides)
        bind(study, tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_good_study_loads(tmp_path: Path) -> None:
    study, text = load_study(write(tmp_path, GOOD))
    assert study.control == "base" and text == GOOD
    bound = bind(study, tmp_path)
    assert [task.id for task in bound.kind.tasks(bound.suite, tmp_path)] == ["sum-000000", "sum-000001", "sum-000002"]


def test_no_control_is_refused_with_what_to_do(tmp_path: Path) -> None:
    message = complaint(tmp_path, GOOD.replace("control = true", ""))
    assert "control = true" in message and "base, more" in message


def test_two_controls_are_refused(tmp_path: Path) -> None:
    assert "several control arms (base, more)" in complaint(tmp_path, GOOD + "control = true\n")


def test_a_lone_control_is_refused(tmp_path: Path) -> None:
    assert "add at least one other arm" in complaint(tmp_path, GOOD.replace("[arms.more]\neffect = 0.2\n", ""))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD.replace("repeats", "repeat"), 'unknown key "repeat"; did you mean "repeats"?'),
        (GOOD.replace("effect", "efect"), 'unknown key "efect"; did you mean "effect"?'),
        (GOOD.replace("effect = 0.2", "effect = 7"), '"effect"'),
        (GOOD.replace('kind = "planted"', 'kind = "plantd"'), 'did you mean "planted"?'),
        (GOOD + "[analysis]\nconfidense = 0.9\n", 'unknown key "analysis.confidense"; did you mean "confidence"?'),
        (GOOD + "[analysis]\npass_k = [3]\n", "between 1 and repeats = 2"),
        (GOOD.replace("repeats = 2", 'repeats = "many"'), '"repeats"'),
        (GOOD.replace("repeats = 2", "repeats = nan"), '"repeats"'),
        (GOOD.replace("[arms.more]", '[arms."../more"]'), "not a valid name"),
        ("title = ", "not valid TOML"),
    ],
)
def test_what_is_wrong_is_said_with_the_nearest_name(tmp_path: Path, text: str, said: str) -> None:
    assert said in complaint(tmp_path, text)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_study(tmp_path / "none.toml")
    with pytest.raises(UserError, match="is a folder"):
        load_study(tmp_path)


def test_overrides_are_validated_like_the_file(tmp_path: Path) -> None:
    study, text = load_study(write(tmp_path, GOOD), ("repeats=5", "arms.more.effect=0.4", "title=plain words"))
    assert study.repeats == 5 and study.title == "plain words" and study.arms["more"].settings == {"effect": 0.4}
    again, _ = load_study(write(tmp_path, text))
    assert again == study
    assert "write KEY=VALUE" in complaint(tmp_path, GOOD, "repeats")
    assert "repeats is a value" in complaint(tmp_path, GOOD, "repeats.x=1")
    assert "did you mean" in complaint(tmp_path, GOOD, "repeat=1")


def test_a_study_survives_being_written_and_read(tmp_path: Path) -> None:
    study, _ = load_study(
        write(tmp_path, GOOD + "engine = { concurrency = 2 }\n[limits]\ncost_usd = 0.1\n[budget]\ncost_usd = 1.5\n")
    )
    again, _ = load_study(write(tmp_path, study_toml(study)))
    assert again == study


def test_only_what_can_change_a_result_is_frozen(tmp_path: Path) -> None:
    study, _ = load_study(write(tmp_path, GOOD))
    wide, _ = load_study(write(tmp_path, GOOD), ("engine.in_flight=9", "title=other"))
    more, _ = load_study(write(tmp_path, GOOD), ("arms.more.effect=0.3",))
    assert wide.frozen_part() == study.frozen_part() != more.frozen_part()


def test_python_and_toml_make_the_same_study(tmp_path: Path) -> None:
    study, _ = load_study(write(tmp_path, GOOD))
    assert study == Study(
        title="t",
        kind="planted",
        repeats=2,
        suite={"n": 3},
        arms={"base": {"control": True}, "more": {"effect": 0.2}},  # pyright: ignore[reportArgumentType]
    )


def test_what_every_arm_has_is_said_once_and_counts_like_the_arms_own(tmp_path: Path) -> None:
    shared = GOOD.replace("[arms.base]", "[every]\neffect = 0.1\n[arms.base]")
    study, _ = load_study(write(tmp_path, shared))
    bound = bind(study, tmp_path)
    assert [arm.model_dump()["effect"] for arm in bound.arms.values()] == [0.1, 0.2]
    spelled, _ = load_study(write(tmp_path, GOOD.replace("control = true", "control = true\neffect = 0.1")))
    assert study.frozen_part() == spelled.frozen_part()
    wider, _ = load_study(write(tmp_path, shared), ("every.effect=0.3",))
    assert bind(wider, tmp_path).arms["base"].model_dump()["effect"] == 0.3
    assert "[every]: control belongs to one arm" in complaint(tmp_path, shared, "every.control=true")
    assert 'unknown key "efect"' in complaint(tmp_path, shared, "every.efect=1")
