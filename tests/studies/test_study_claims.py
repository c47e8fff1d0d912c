"""What a paper says beside what a study measured: verdicts, refusals before anything runs, and every form of report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fairtrial import Study
from fairtrial.app.cli import app
from fairtrial.core.errors import UserError
from fairtrial.studies.report.html import render
from fairtrial.studies.study import load_study, study_toml


def claim(**keys: Any) -> dict[str, Any]:
    return {"text": "it helps", "published": "+30 points", "arm": "more", "direction": "more", **keys}


def study(*claims: dict[str, Any], **changes: Any) -> Study:
    base: dict[str, Any] = {
        "title": "planted",
        "kind": "planted",
        "suite": {"n": 60},
        "seed": 3,
        "arms": {
            "base": {"control": True},
            "twin": {},
            "more": {"effect": 0.3, "cost_usd": 0.25},
            "gone": {"errors": 1.0},
        },
        "engine": {"backoff_s": 0.001, "attempts": 1, "in_flight": 8},
        "claims": claims,
    }
    return Study.model_validate({**base, **changes})


def test_each_claim_gets_its_verdict(tmp_path: Path) -> None:
    claims = study(
        claim(),
        claim(direction="less"),
        claim(direction="more", margin=0.9),
        claim(arm="twin", direction="more"),
        claim(arm="twin", direction="same", margin=0.05),
        claim(arm="twin", against="more", direction="less"),
        claim(arm="gone", direction="same", margin=0.05),
        claim(measure="cost_usd", direction="more", margin=0.2),
    ).run(tmp_path / "run").result().claims  # fmt: skip
    assert [each.verdict for each in claims] == [
        "holds", "does not hold here", "does not hold here", "not decided", "holds", "holds", "not measured", "holds",
    ]  # fmt: skip
    effect = study().run(tmp_path / "again").result().effect("more")
    assert (claims[0].estimate, claims[0].ci) == (effect.estimate, effect.ci), "one comparison has one interval"
    gone, cost = claims[6], claims[7]
    assert gone.estimate is None and gone.p is None and gone.tasks == 0, "what was not measured is no zero"
    assert (cost.estimate, cost.ratio) == (pytest.approx(0.25), None), "nothing is no base for a ratio"
    assert claims[0].ratio == pytest.approx((claims[0].mean_arm or 0) / (claims[0].mean_against or 1))
    assert claims[5].against == "more" and (claims[5].estimate or 0) == pytest.approx(-(claims[0].estimate or 0))


def test_p_is_adjusted_over_the_claims_of_the_study(tmp_path: Path) -> None:
    (alone,) = study(claim()).run(tmp_path / "one").result().claims
    three = study(claim(), claim(arm="gone"), claim(arm="twin")).run(tmp_path / "three").result().claims
    assert alone.p == alone.p_holm == three[0].p
    assert three[0].p_holm == pytest.approx(2 * (three[0].p or 0)), "two of the three were measured"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"arm": "mor"}, 'claims.0.arm: no arm "mor"; did you mean "more"?'),
        ({"against": "bas"}, 'claims.0.against: no arm "bas"; did you mean "base"?'),
        ({"arm": "base"}, 'claims.0.against: "base" is compared with itself'),
        ({"direction": "same"}, "needs a margin"),
        ({"measure": "rewards"}, 'claims.0.measure: nothing is called "rewards" here; did you mean "reward"?'),
        ({"where": {"steps": [2, 4]}}, 'claims.0.where: "steps" is no fact of these tasks; they have none'),
    ],
)
def test_a_claim_about_nothing_is_refused_before_anything_runs(tmp_path: Path, keys: dict[str, Any], said: str) -> None:
    import tomli_w

    path = tmp_path / "study.toml"
    table = json.loads(study().model_dump_json(exclude_defaults=True, exclude_none=True))
    path.write_text(tomli_w.dumps({**table, "claims": [claim(**keys)]}), "utf-8")
    with pytest.raises(UserError) as caught:
        load_study(path)[0].run(tmp_path / "run", base=tmp_path)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_every_form_of_report_has_the_claims(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    run = study(claim(text=hostile), claim(arm="gone")).run(tmp_path / "run")
    page = render(run.result())
    assert "What the paper says, and what was measured" in page and "+30 points" in page and "not measured" in page
    assert "<script>" not in page and "&lt;script&gt;" in page
    shown = CliRunner().invoke(app, ["report", str(run.path)])
    text = " ".join(shown.output.split())
    assert shown.exit_code == 0 and "What the paper says, and what was measured" in text
    assert "holds" in text and "adjusted over 1 measured claims by Holm" in text
    told = json.loads(CliRunner().invoke(app, ["report", str(run.path), "--json"]).output)
    assert [each["verdict"] for each in told["claims"]] == ["holds", "not measured"]


def test_a_study_without_claims_shows_none(tmp_path: Path) -> None:
    result = study().run(tmp_path / "run").result()
    assert result.claims == () and "What the paper says" not in render(result)


def test_claims_survive_the_text_of_a_study_and_their_words_may_change_later(tmp_path: Path) -> None:
    import tomllib

    first = study(claim(measure="cost_usd", margin=0.1), claim(where={"a": (1, 2)}))
    assert Study.model_validate(tomllib.loads(study_toml(first))) == first
    assert study(claim(text="other words")).frozen_part() == study(claim()).frozen_part()
    assert study(claim(margin=0.1)).frozen_part() != study(claim()).frozen_part()
