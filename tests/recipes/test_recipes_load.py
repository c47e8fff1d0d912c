"""Every recipe is a study that could start; those that need no model come out as their own text says."""

from pathlib import Path

import pytest

from fairtrial.studies.study import bind, load_study

RECIPES = Path(__file__).parents[2] / "recipes"
STUDIES = sorted(path for path in RECIPES.glob("*.toml") if "[arms." in path.read_text("utf-8"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_recipe_loads_and_names_its_control(path):
    study, _ = load_study(path)
    bound = bind(study, RECIPES)
    assert bound.arms[study.control]
    assert len(bound.kind.tasks(bound.suite, RECIPES)) >= 1


def run(name, folder, *overrides):
    study, _ = load_study(RECIPES / name, overrides)
    return study.run(folder, base=RECIPES).result()


def test_an_answer_follows_the_text_that_its_arm_shows(tmp_path):
    follower = "suite.model={kind='follower', slip=0.05}"
    result = run("skills.toml", tmp_path / "run", "suite.world={id='recipes', n=8}", follower)
    means = {arm.name: arm.mean for arm in result.arms}
    assert means["curated"] >= 0.6 and means["forced"] >= 0.6
    assert means["none"] == means["placebo"] == means["wrong"] == means["self"] == 0.0
    assert [claim.verdict for claim in result.claims] == ["holds", "holds", "not decided"]
    read = next(finding for finding in result.findings if finding.title.startswith("Skills that"))
    followed = {row[0]: row[-1] for row in read.rows}
    assert followed["swapped"] >= 0.6 and followed["curated"] == 0.0


def test_contexts_and_facts_are_as_the_policies_keep_them(tmp_path):
    overrides = ("suite.world.n=2", "suite.world.questions=5", "suite.model={kind = 'oracle', wrong = 0.0}")
    result = run("wiki.toml", tmp_path / "run", *overrides, "suite.reader={kind = 'oracle', wrong = 0.0}")
    took = next(finding for finding in result.findings if finding.title.startswith("What a trial took"))
    column = {name: took.columns.index(name) for name in took.columns}
    rows = {row[0]: row for row in took.rows}
    assert rows["fold"][column["prompt tokens"]] < rows["append"][column["prompt tokens"]]
    assert rows["fold"][column["uncached"]] > 0.8 * rows["append"][column["uncached"]]
    assert rows["fold-graph"][column["turns"]] < rows["fold"][column["turns"]]
    assert rows["fold-graph"][column["/ critical"]] == 1.0 < rows["fold-graph-levels"][column["/ critical"]]
    kept = next(finding for finding in result.findings if finding.title.startswith("Facts that"))
    assert all(value in (None, 1.0) for row in kept.rows if row[0] in ("append", "fold") for value in row[1:])
