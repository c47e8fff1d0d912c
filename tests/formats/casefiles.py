"""Genuine samples from ../shared/cases; a test that needs one skips with the reason where it is absent."""

import json
from pathlib import Path

import pytest

CASES = Path(__file__).parents[3] / "shared" / "cases"


def case(path):
    """The parsed JSON of a file under ../shared/cases, such as "adp/swe-smith/sample_raw.json"."""
    return json.loads(case_path(path).read_text("utf-8"))


def case_path(path):
    """The path of a file under ../shared/cases."""
    found = CASES / path
    if not found.exists():
        pytest.skip(f"genuine sample {path} is not here (expected under ../shared/cases)")
    return found
