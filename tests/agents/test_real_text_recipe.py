"""The recipe over real text, as it stands and with every model behind a real OpenAI-compatible server."""

from pathlib import Path

import pytest
from model_server import served

from fairtrial.agents.gold_reader import GoldReader
from fairtrial.studies.study import load_study
from fairtrial.tasks.worlds.real_text import Documents, DocumentsSettings

RECIPES = Path(__file__).parents[2] / "recipes"
ARMS = ("append-react", "append-graph", "fold-react", "fold-graph")
WORLD = Documents(
    DocumentsSettings(questions=("real_text/questions.jsonl",), documents="real_text/pages", top_k=3), RECIPES
)


def run(folder, *overrides):
    study, _ = load_study(RECIPES / "real-text.toml", overrides)
    return study.run(folder, base=RECIPES)


def check(found):
    allowed = {episode.info.id: WORLD.follow(episode).answer for episode in WORLD.episodes()}
    records = list(found.records())
    assert len(records) == len(ARMS) * len(allowed)
    for record in records:
        assert record.scores["em"] == float(allowed[record.key.task] is not None), record.key
        assert record.usage.input_tokens > 0 and record.usage.calls > 0
    turns = {arm: sum(record.usage.calls for record in records if record.key.arm == arm) for arm in ARMS}
    assert turns["append-react"] == turns["fold-react"] != turns["append-graph"]


def test_the_recipe_runs_as_it_stands(tmp_path):
    check(run(tmp_path / "run"))


@pytest.mark.parametrize("planner", ["react", "native"])
def test_the_same_recipe_works_against_any_endpoint(tmp_path, planner, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "unused")
    with served(GoldReader(WORLD)) as url:
        model = f'{{kind = "openai", name = "gold-reader", base_url = "{url}/v1"}}'
        overrides = [f"suite.model={model}"]
        overrides += [f'arms.{arm}.planner="{planner}"' for arm in ("append-react", "fold-react")]
        check(run(tmp_path / "run", f"suite.reader={model}", *overrides))
