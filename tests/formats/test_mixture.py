"""Weighted mixtures: the paper's arithmetic, draws, filters, determinism, and what a user is told."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest

from fairtrial.core.errors import UserError
from fairtrial.formats.mixture import asked, build, draw, load

ADP = Path(__file__).parents[2] / "recipes" / "adp-sft.toml"

# trajectories as the paper counts them, in thousands; families are counted together and have one weight
THOUSANDS = {
    "agentinstruct-": 1.9,
    "code-feedback": 66.4,
    "codeactinstruct": 7.1,
    "nebius-swe-agent": 13.4,
    "openhands-feedback": 0.2,
    "orca-agentinstruct": 1046.4,
    "swe-gym": 0.5,
    "swe-smith": 5.0,
    "go-browse": 9.5,
    "mind2web": 1.0,
    "nnetnav-": 9.2,
    "synatra": 99.9,
}


def test_the_papers_weights_give_its_two_training_mixes():
    recipe = load(ADP)
    assert len(recipe.datasets) == 18  # thirteen data sets, one of them in six parts
    taken = {}
    for source in recipe.datasets:
        family = next(family for family in THOUSANDS if source.name.startswith(family))
        taken[family, source.web] = asked(source.weight, round(1000 * THOUSANDS[family]))
    assert {family for family, _ in taken} == THOUSANDS.keys() and len(taken) == len(THOUSANDS)
    mixes = {web: sum(count for (_, its), count in taken.items() if its == web) for web in (False, True)}
    assert mixes == {False: 38_687, True: 20_699}
    assert sum(THOUSANDS.values()) == pytest.approx(1300, rel=0.05)


def test_a_weight_counts_as_it_is_written():
    assert asked(0.1, 30) == 3  # 0.1 * 30 is 3.0000000000000004 in binary
    assert asked(0.001, 1) == 1
    assert asked(2, 7) == 14
    assert asked(1.5, 3) == 5


def test_draws_are_without_replacement_below_one_and_with_above():
    below = draw("d", 0.25, 100, 7, 0)
    assert len(below) == 25 == len(set(below))
    above = draw("d", 3, 100, 7, 0)
    assert len(above) == 300 and max(Counter(above).values()) > 3 and set(above) <= set(range(100))
    assert list(draw("d", 1, 4, 7, 0)) == [0, 1, 2, 3]
    assert draw("d", 0.25, 100, 7, 1) != below != draw("e", 0.25, 100, 7, 0)
    assert draw("d", 0.25, 100, 7, 0) == below


def _run(id, page=False, code=None):
    content = [{"class_": "text_observation", "content": f"task {id}", "source": "user"}]
    if page:
        content.append({"class_": "web_observation", "axtree": "RootWebArea 'x'\n\t[12] button 'Go'"})
        content.append({"class_": "api_action", "function": "click", "kwargs": {"bid": "12"}})
        content.append({"class_": "web_observation", "axtree": "RootWebArea 'y'"})
    if code:
        content.append({"class_": "code_action", "language": code, "content": "1 + 1"})
        content.append({"class_": "text_observation", "content": "2", "source": "environment"})
    content.append({"class_": "message_action", "content": f"done {id}"})
    return {"id": id, "content": content, "extra": {}}


RECIPE = """
name = "small"
seed = 3
{more}
[[harnesses]]
format = "sft-openhands"
[[harnesses]]
format = "sft-swe-agent"
[[harnesses]]
format = "sft-agentlab"
[[datasets]]
name = "code"
format = "fairtrial"
[[datasets]]
name = "few"
format = "fairtrial"
weight = 0.1
[[datasets]]
name = "many"
format = "fairtrial"
weight = 2
[[datasets]]
name = "browsing"
format = "fairtrial"
web = true
"""


@pytest.fixture
def home(tmp_path):
    """A recipe with four small data sets beside it."""
    sets = {
        "code": [_run(f"c{i}", code="python" if i % 2 else "mysql") for i in range(4)],
        "few": [_run(f"f{i}") for i in range(20)],
        "many": [_run(f"m{i}") for i in range(5)],
        "browsing": [_run(f"b{i}", page=True) for i in range(3)],
    }
    for name, rows in sets.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "data" / name / "part.jsonl").write_text(lines)
        (tmp_path / "data" / name / "README.md").write_text("not data")
    (tmp_path / "small.toml").write_text(RECIPE.format(more=""))
    return tmp_path


def _ids(path):
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


def test_each_harness_gets_its_data_sets_in_their_proportions(home):
    manifest = build(home / "small.toml", home / "out")
    sizes = Counter(id.split("/")[0] for id in _ids(home / "out" / "sft-openhands.jsonl"))
    assert sizes == {"code": 4, "few": 2, "many": 10}
    assert Counter(id.split("/")[0] for id in _ids(home / "out" / "sft-swe-agent.jsonl")) == {
        "code": 2,
        "few": 2,
        "many": 10,
    }
    # one record for each of the two actions of three trajectories
    assert sorted(_ids(home / "out" / "sft-agentlab.jsonl")) == [f"browsing/b{i}-{k}" for i in range(3) for k in (0, 1)]
    swe_agent = manifest["harnesses"]["sft-swe-agent"]["datasets"]["code"]
    assert swe_agent["trajectories"] == 4 and swe_agent["usable"] == swe_agent["asked"] == 2
    assert swe_agent["refused"] == {"mysql code: SWE-agent runs bash and Python only": 2}
    assert manifest["harnesses"]["sft-openhands"]["datasets"]["many"]["taken"] == [10]
    assert manifest["harnesses"]["sft-agentlab"]["datasets"]["browsing"]["records"] == [6]
    assert json.loads((home / "out" / "manifest.json").read_text()) == json.loads(json.dumps(manifest))
    info = json.loads((home / "out" / "dataset_info.json").read_text())
    assert {entry["file_name"] for entry in info.values()} == {path.name for path in (home / "out").glob("*.jsonl")}
    for file in manifest["harnesses"]["sft-openhands"]["files"]:
        assert hashlib.sha256((home / "out" / file["file"]).read_bytes()).hexdigest() == file["sha256"]


def test_the_same_seed_gives_the_same_bytes_and_another_one_another_mixture(home):
    build(home / "small.toml", home / "one")
    build(home / "small.toml", home / "two")
    (home / "small.toml").write_text(RECIPE.format(more="").replace("seed = 3", "seed = 4"))
    build(home / "small.toml", home / "three")
    names = sorted(path.name for path in (home / "one").iterdir())
    assert all((home / "one" / name).read_bytes() == (home / "two" / name).read_bytes() for name in names)
    assert _ids(home / "one" / "sft-openhands.jsonl") != _ids(home / "three" / "sft-openhands.jsonl")


def test_every_epoch_is_drawn_and_shuffled_anew(home):
    (home / "small.toml").write_text(RECIPE.format(more="epochs = 2"))
    build(home / "small.toml", home / "out")
    first, second = (_ids(home / "out" / f"sft-openhands.epoch-{epoch}.jsonl") for epoch in (1, 2))
    assert len(first) == len(second) == 16
    assert sorted(first) != sorted(second)
    assert sorted(id for id in first if id.startswith("code/")) == sorted(id for id in second if id.startswith("code/"))


def test_a_data_set_that_is_not_there_is_named_and_nothing_is_left_behind(home):
    (home / "data" / "few" / "part.jsonl").unlink()
    with pytest.raises(UserError, match="no files of few in"):
        build(home / "small.toml", home / "out")
    assert not (home / "out").exists()
    optional = RECIPE.format(more="").replace("weight = 0.1", "weight = 0.1\noptional = true")
    (home / "small.toml").write_text(optional)
    assert build(home / "small.toml", home / "out")["absent"] == ["few"]
    assert not [path for path in home.iterdir() if path.name.startswith(".")]


def test_broken_lines_are_counted_and_a_set_of_nothing_else_is_an_error(home):
    file = home / "data" / "code" / "part.jsonl"
    file.write_text('{"id": 1\n' + file.read_text())
    manifest = build(home / "small.toml", home / "out")
    assert sum(manifest["harnesses"]["sft-openhands"]["datasets"]["code"]["problems"].values()) == 1
    file.write_text('{"id": 1\n')
    with pytest.raises(UserError, match="code: holds no trajectory that could be used: not valid JSON"):
        build(home / "small.toml", home / "again")
    assert sorted(path.name for path in home.iterdir()) == ["data", "out", "small.toml"]


def test_an_output_folder_with_content_is_left_alone(home):
    (home / "out").mkdir()
    (home / "out" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        build(home / "small.toml", home / "out")
    assert (home / "out" / "mine.txt").read_text() == "mine"


def test_the_harness_prompt_comes_from_a_file(home):
    (home / "prompt.txt").write_text("The harness's own words.")
    recipe = RECIPE.format(more="").replace(
        'format = "sft-openhands"', 'format = "sft-openhands"\nsystem = "prompt.txt"'
    )
    (home / "small.toml").write_text(recipe)
    build(home / "small.toml", home / "out")
    systems = {json.loads(line)["system"] for line in (home / "out" / "sft-openhands.jsonl").read_text().splitlines()}
    assert systems == {"The harness's own words."}
