"""Claims of a study of episodes: about what a run used, and only on tasks of some length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fairtrial import Study
from fairtrial.core.errors import UserError


def study(**keys: Any) -> Study:
    claim = {"text": "folds are short", "arm": "fold", "measure": "last prompt", "direction": "less", **keys}
    return Study.model_validate(
        {
            "title": "t",
            "kind": "episode",
            "suite": {"world": {"id": "wiki", "n": 12, "families": ["chain"], "hops": [1, 4]}, "model": "oracle"},
            "arms": {"append": {"control": True}, "fold": {"policy": "fold"}},
            "claims": [{**claim, "where": {}}, claim],
        }
    )


def test_a_claim_may_be_kept_to_tasks_of_some_length(tmp_path: Path) -> None:
    run = study(where={"steps": [3, 4]}).run(tmp_path / "run")
    whole, long = run.result().claims
    steps = {record.key.task: record.details["world"]["steps"] for record in run.records("fold")}
    assert whole.tasks == 12 and long.tasks == sum(n in (3, 4) for n in steps.values()) < 12
    last = {arm: {record.key.task: record.details["final_context"] for record in run.records(arm)} for arm in
            ("append", "fold")}  # fmt: skip
    saved = [last["fold"][task] - last["append"][task] for task, n in steps.items() if n >= 3]
    assert long.estimate == pytest.approx(sum(saved) / len(saved))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"measure": "last promt"}, 'nothing is called "last promt" here; did you mean "last prompt"?'),
        ({"where": {"step": [1, 2]}}, 'claims.1.where: "step" is no fact of these tasks; did you mean "steps"?'),
        ({"where": {"turns": [1, 2]}}, 'claims.1.where: "turns" is no fact of these tasks'),
    ],
)
def test_what_no_episode_tells_is_refused_before_anything_runs(tmp_path: Path, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        study(**keys).run(tmp_path / "run")
    assert said in str(caught.value)
    assert not (tmp_path / "run").exists()
