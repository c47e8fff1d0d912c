"""The code that the README and the docs show is code that works."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fairtrial.studies.study import Study, bind

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(language: str) -> list[pytest.param]:
    found = []
    for page in PAGES:
        for index, body in enumerate(re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), re.DOTALL)):
            found.append(pytest.param(body, id=f"{page.relative_to(ROOT)}-{index}"))
    return found


@pytest.mark.parametrize("code", blocks("python"))
def test_python_runs(code: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("text", blocks("toml"))
def test_studies_load(text: str, tmp_path: Path) -> None:
    data = tomllib.loads(text)
    if "arms" not in data:
        data = {"title": "t", "suite": {"id": "core-tasks"}, "arms": {"a": {"control": True, "agent": "nop"}}, **data}
        agent = data.pop("agent", "nop")
        data["arms"]["b"] = {"agent": agent}
        for claim in data.get("claims", ()):
            data["arms"] |= {claim[key]: {"agent": agent} for key in ("arm", "against") if key in claim}
    elif not any(arm.get("control") for arm in data["arms"].values()):
        data["arms"]["a"] = {"control": True, "agent": "nop"}
    data.setdefault("title", "t")
    data.setdefault("suite", {"id": "core-tasks"})
    bind(Study.model_validate(data), tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_exist(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


def test_every_recipe_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that name an endpoint need its key, which nothing is sent to here."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    from fairtrial.formats import mixture
    from fairtrial.studies.study import load_study

    recipes = sorted((ROOT / "recipes").glob("*.toml"))
    assert len(recipes) >= 2
    for recipe in recipes:
        if tomllib.loads(recipe.read_text("utf-8")).get("kind") == "mixture":
            assert len(mixture.load(recipe).datasets) > 1
            continue
        study, _ = load_study(recipe)
        bound = bind(study, recipe.parent)
        bound.kind.check(bound.suite, bound.arms, bound.base)
