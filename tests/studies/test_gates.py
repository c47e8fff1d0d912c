"""Gates: what they compare, on the estimate and on the interval."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairtrial import Study
from fairtrial.core.errors import UserError
from fairtrial.studies.gates import check_gate
from fairtrial.studies.result import StudyResult


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    folder: Path = tmp_path_factory.mktemp("gates")
    study = Study.model_validate(
        {
            "title": "gates",
            "kind": "planted",
            "suite": {"n": 60},
            "repeats": 2,
            "arms": {"base": {"control": True}, "more": {"effect": 0.2}, "most": {"effect": 0.5}},
        }
    )
    return study.run(folder / "run").result()


@pytest.mark.parametrize(
    ("gate", "holds"),
    [
        ("more >= base", True),
        ("more >= control + 0.05", True),
        ("more >= base + 90%", False),
        ("base <= more", True),
        ("base > more", False),
        ("base >= more - 0.9", True),
        ("most > more", True),
        ("most >= 0.5", True),
        ("most<0.2", False),
        ("base >= base", True),
        ("base > base", False),
    ],
)
def test_gates_on_the_estimate(result: StudyResult, gate: str, holds: bool) -> None:
    assert check_gate(gate, result).passed is holds


def test_the_bound_is_stricter_than_the_estimate(result: StudyResult) -> None:
    effect = result.effect("more")
    assert effect.estimate is not None and effect.ci is not None
    between = (effect.estimate + effect.ci[0]) / 2
    gate = f"more >= base + {between:.4f}"
    assert check_gate(gate, result).passed and not check_gate(gate, result, "bound").passed
    mirrored = f"base <= more - {between:.4f}"
    assert check_gate(mirrored, result).passed and not check_gate(mirrored, result, "bound").passed


@pytest.mark.parametrize(
    "gate", ["", "more", "more >= ", "more => base", "more >= base * 2", "more >= base + x", "nobody >= 1"]
)
def test_what_cannot_be_read_is_refused(result: StudyResult, gate: str) -> None:
    with pytest.raises(UserError):
        check_gate(gate, result)


def test_arms_without_an_interval_need_the_estimate(result: StudyResult) -> None:
    with pytest.raises(UserError, match="--gate-on estimate"):
        check_gate("most >= more", result, "bound")
