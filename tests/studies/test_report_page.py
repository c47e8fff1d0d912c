"""The HTML report: self-contained, without script, safe with hostile strings; checked in a real browser."""

from __future__ import annotations

import html
import re
import shutil
from pathlib import Path

import pytest

from fairtrial.studies.report import wording
from fairtrial.studies.report.html import render
from fairtrial.studies.result import ArmResult, ClaimResult, EffectResult, Mix, StudyResult

HOSTILE = "<script>window.PWNED=1</script><img src=x onerror='window.PWNED=2'>\"'{{7*7}}\u202e"


def result(text: str = "words") -> StudyResult:
    mix = Mix(planned=4, scored=2, failed=1, errored=1, skipped=0, missing=0)

    def arm(name: str, control: bool, mean: float) -> ArmResult:
        return ArmResult(
            name=name,
            title=text,
            control=control,
            facts={text: text},
            mix=mix,
            mean=mean,
            se=0.1,
            ci=(0.1, 0.9),
            values={f"{text} {index}": mean for index in range(3)},
            tokens=10,
            calls=1,
            cost_usd=0.5,
            working_s=3.0,
            flags={text: 1},
        )

    effect = EffectResult(
        arm=f"arm {text}",
        control="base",
        estimate=0.3,
        ci=(0.1, 0.5),
        p=0.01,
        p_holm=0.01,
        tasks=3,
        blocks=3,
        dropped=1,
        verdict="better",
        sentence=text,
        differences={f"{text} {index}": 0.1 * index for index in range(3)},
        sensitivity={"errors dropped": 0.3},
        notes=(text,),
    )
    return StudyResult(
        title=text,
        question=text,
        paper=text,
        published=text,
        path=text,
        kind="planted",
        score="reward",
        control="base",
        confidence=0.95,
        repeats=1,
        seed=1,
        tasks=3,
        complete=True,
        arms=(arm("base", True, 0.2), arm(f"arm {text}", False, 0.5)),
        effects=(effect,),
        warnings=(text,),
        sandboxes={text: 3},
        machine={"python": text},
    )


def test_the_page_stands_alone() -> None:
    page = render(result())
    assert "<script" not in page and "http://" not in page and "https://" not in page
    assert re.search(r"default-src 'none'; style-src 'sha256-[A-Za-z0-9+/=]+'; img-src data:", html.unescape(page))
    assert " style=" not in page, "a style attribute would be blocked by the policy"
    assert len(page) < 400_000


def test_everything_is_escaped() -> None:
    page = render(result(HOSTILE))
    assert "<script>" not in page and "<img src=x" not in page and "49" not in re.findall(r">([^<]*PWNED[^<]*)<", page)


def test_what_rounds_to_nothing_has_no_minus() -> None:
    assert (wording.signed(-0.0002), wording.number(-0.0)) == ("+0.000", "0.000")
    assert wording.interval((-0.0, 0.04), sign=True) == "[+0.000, +0.040]"
    assert wording.interval((-0.0004, 0.04)) == "[0.000, 0.040]"
    assert (wording.cell(-0.0), wording.cell(-0.0004), wording.cell(-0.04)) == ("0.000", "0.000", "-0.040")
    claim = ClaimResult(
        text="",
        arm="a",
        against="b",
        measure="em",
        direction="less",
        verdict="not decided",
        estimate=-0.01,
        ci=(-0.061, -0.0),
    )
    assert wording.measured(claim)[1] == "-0.010 [-0.061, +0.000]"


def test_a_study_without_any_score_still_reports() -> None:
    empty = result()
    arms = tuple(arm.model_copy(update={"mean": None, "ci": None, "values": {}}) for arm in empty.arms)
    effects = tuple(
        effect.model_copy(update={"estimate": None, "ci": None, "verdict": "not decided", "differences": {}})
        for effect in empty.effects
    )
    assert "not decided" in render(empty.model_copy(update={"arms": arms, "effects": effects}))


@pytest.mark.browser
def test_a_browser_runs_nothing_and_fetches_nothing(tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on this machine (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    path, said, asked = tmp_path / "index.html", [], []
    path.write_text(render(result(HOSTILE)), "utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        page = browser.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        assert page.evaluate("window.PWNED === undefined")
        assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 100)")
        assert page.evaluate("getComputedStyle(document.querySelector('section')).borderRadius") == "12px"
        browser.close()
    assert said == [] and [url for url in asked if not url.startswith(("file:", "data:"))] == []
