"""Clean mode over every genuine sample: all gates hold but for the data's own faults; strict leaves those out."""

import json

import pytest
from casefiles import CASES, case_path

from fairtrial.formats.importing import import_trajectories
from fairtrial.formats.reading import Options

OWN_FAULTS = {
    "agentinstruct_db": {"claims without action": 5},  # rows that claim a result and never ran a statement
    "nnetnav-live": {"grounded elements": 1, "labels performed": 4},  # the best of three answers, not what was done
    "openhands_feedback": {"claims without action": 1},  # a conversation without any call
}
SETS = sorted(path.parent.name for path in CASES.glob("adp/*/sample_raw.json")) or ["swe-smith"]


def failed(collection):
    gates = json.loads((collection.path / "quality.json").read_text())["gates"]
    return {name: gate["failed"] for name, gate in gates.items() if gate["failed"]}


@pytest.mark.parametrize("name", SETS)
def test_gates_over_a_genuine_sample(name, tmp_path):
    path = str(case_path(f"adp/{name}/sample_raw.json"))
    collection, summary = import_trajectories(path, tmp_path / "clean")
    assert failed(collection) == OWN_FAULTS.get(name, {})
    card = json.loads((collection.path / "quality.json").read_text())
    assert card["coverage"]["unaccounted"] == 0 and summary.rejected == 0
    strict, after = import_trajectories(path, tmp_path / "strict", strict=True)
    assert failed(strict) == {}
    left_out = sum(count for reason, count in after.skipped.items() if reason.startswith("gate: "))
    assert len(strict) + left_out == len(collection)


def test_an_import_is_the_same_bytes_twice(tmp_path):
    path = str(case_path("adp/agentinstruct_alfworld/sample_raw.json"))
    for faithful in (False, True):
        one, _ = import_trajectories(path, tmp_path / f"a{faithful}", Options(faithful=faithful))
        two, _ = import_trajectories(path, tmp_path / f"b{faithful}", Options(faithful=faithful))
        for file in ("trajectories.jsonl", "problems.jsonl", "quality.json", "collection.json"):
            assert (one.path / file).read_bytes() == (two.path / file).read_bytes(), file
