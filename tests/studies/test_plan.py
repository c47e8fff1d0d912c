"""The order in which trials start, and what a resume is held to."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from fairtrial.core.errors import UserError
from fairtrial.core.ids import seed
from fairtrial.core.trial import TaskInfo
from fairtrial.studies.plan import check_same, manifest, planned
from fairtrial.studies.study import Study, bind

TASKS = [TaskInfo(f"task-{index}", "d") for index in range(60)]


def study(**changes: object) -> Study:
    base: dict[str, object] = {
        "title": "t",
        "kind": "planted",
        "suite": {"n": 60},
        "limits": {"calls": 9},
        "repeats": 3,
        "arms": {"a": {"control": True}, "b": {}, "c": {}},
    }
    return Study.model_validate({**base, **changes})


def test_every_trial_once_in_blocks() -> None:
    keys = list(planned(study(), TASKS))
    assert len(set(keys)) == len(keys) == 3 * 60 * 3
    for start in range(0, len(keys), 3):
        block = keys[start : start + 3]
        assert len({(key.task, key.repeat) for key in block}) == 1 and {key.arm for key in block} == {"a", "b", "c"}


def test_arms_are_interleaved_fairly_and_reproducibly() -> None:
    keys = list(planned(study(), TASKS))
    first = Counter(key.arm for key in keys[::3])
    assert all(35 <= first[arm] <= 85 for arm in "abc"), first
    assert keys == list(planned(study(), TASKS)) != list(planned(study(seed=1), TASKS))


def test_seeds_leave_the_arm_out() -> None:
    assert seed(7, "t", 0, "sampling") == seed(7, "t", 0, "sampling")
    others = {
        seed(7, "t", 1, "sampling"),
        seed(8, "t", 0, "sampling"),
        seed(7, "t", 0, "order"),
        seed(7, "u", 0, "sampling"),
    }
    assert len(others | {seed(7, "t", 0, "sampling")}) == 5


def test_a_changed_study_or_task_is_refused_with_the_difference(tmp_path: Path) -> None:
    old = manifest(bind(study(), tmp_path), TASKS, "now")
    check_same(old, manifest(bind(study(title="u", budget={"calls": 3}), tmp_path), TASKS, "later"), tmp_path)
    with pytest.raises(UserError, match=r"repeats: 3 -> 4"):
        check_same(old, manifest(bind(study(repeats=4), tmp_path), TASKS, "later"), tmp_path)
    with pytest.raises(UserError, match=r"arms.b.effect: null -> 0.5"):
        changed = study(arms={"a": {"control": True}, "b": {"effect": 0.5}, "c": {}})
        check_same(old, manifest(bind(changed, tmp_path), TASKS, "later"), tmp_path)
    edited = [*TASKS[:-1], TaskInfo("task-59", "e"), TaskInfo("task-60", "d")]
    with pytest.raises(UserError, match=r"task task-59: its files changed; task task-60: new"):
        check_same(old, manifest(bind(study(), tmp_path), edited, "later"), tmp_path)


def test_another_format_is_refused(tmp_path: Path) -> None:
    old = {**manifest(bind(study(), tmp_path), TASKS, "now"), "format": 99}
    with pytest.raises(UserError, match="format 99"):
        check_same(old, old, tmp_path)
