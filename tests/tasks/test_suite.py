from pathlib import Path

import pytest

from fairtrial.core.errors import UserError
from fairtrial.tasks.suite import find_suite, load_suite


def make(root, name):
    files = {"task.toml": "", "instruction.md": "x", "environment/Dockerfile": "FROM debian", "tests/test.sh": "true"}
    for path, text in files.items():
        target = root / name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


def test_tasks_come_in_the_order_of_their_names_filtered_and_limited(tmp_path):
    for name in ("b-two", "a-one", "b-one", "c"):
        make(tmp_path, name)
    (tmp_path / "notes").mkdir()
    assert [task.id for task in load_suite(tmp_path)] == ["a-one", "b-one", "b-two", "c"]
    assert [task.id for task in load_suite(tmp_path, include=["b-*", "c"], exclude=["*-two"])] == ["b-one", "c"]
    assert [task.id for task in load_suite(tmp_path, limit=2)] == ["a-one", "b-one"]


def test_a_single_task_folder_is_a_suite(tmp_path):
    make(tmp_path, "only")
    assert [task.id for task in load_suite(find_suite("only", tmp_path))] == ["only"]


def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest_name(tmp_path):
    make(tmp_path, "log-forensics")
    with pytest.raises(UserError, match='did you mean "log-forensics"'):
        load_suite(tmp_path, include=["log-forensic"])
    with pytest.raises(UserError, match="leave no task"):
        load_suite(tmp_path, exclude=["*"])
    with pytest.raises(UserError, match="limit must be at least 1"):
        load_suite(tmp_path, limit=0)


def test_ids_that_differ_in_case_only_are_refused(tmp_path):
    make(tmp_path, "task")
    make(tmp_path, "Task")
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("this file system does not tell case apart")
    with pytest.raises(UserError, match="two tasks have the id"):
        load_suite(tmp_path)


def test_unknown_suites_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match=r'no suite "core-task".*did you mean "core-tasks"'):
        find_suite("core-task", tmp_path)
    with pytest.raises(UserError, match="holds no task folder"):
        load_suite(tmp_path)


def test_the_suite_that_ships_is_found_by_name():
    path = find_suite("core-tasks", Path("/nowhere"))
    assert load_suite(path, limit=1)[0].skills
