"""Skill arms of agents in boxes: the folders that each arm shows, the list that `shell` gets, and what was read."""

import json

import pytest

from fairtrial.agents.trial import AgentTrial
from fairtrial.core.errors import UserError

LOOK = """import json, os, sys
root = "/root/.claude/skills"
found = {}
for where, _, files in os.walk(root):
    for name in files:
        path = os.path.join(where, name)
        found[path[len(root) + 1:]] = open(path).read()
print(json.dumps({"files": found, "instruction": sys.stdin.read()}))
"""
TRIPLING = (
    "---\nname: tripling\ndescription: How numbers are tripled here.\n---\nTRIPLE-MARK: add it to itself, twice.\n"
)
OWN = "SKILL-MARK: add the number to itself."
OTHER = "TRIPLE-MARK: add it to itself, twice."


@pytest.fixture
def two(lab):
    """A task with a skill of its own, and one with another."""
    lab.task()
    (lab.task("triple") / "environment/skills/doubling").rename(lab.root / "triple/environment/skills/tripling")
    (lab.root / "triple/environment/skills/tripling/SKILL.md").write_text(TRIPLING)
    return lab


def looked(lab, script, spec):
    record = lab.run(script(LOOK), skills=spec)
    return record, json.loads(lab.out(record))


@pytest.mark.parametrize(
    ("spec", "folders", "own", "other"),
    [
        ("none", set(), False, False),
        ("curated", {"doubling"}, True, False),
        ("forced", {"doubling"}, True, False),
        ({"id": "distractors", "n": 1}, {"doubling", "tripling"}, True, True),
        ({"id": "retrieved", "k": 1}, {"doubling"}, True, False),
        ("wrong", {"tripling"}, False, True),
        ("swapped", {"doubling"}, False, True),
        ("placebo", {"doubling"}, False, False),
    ],
)
def test_each_arm_shows_its_skills_at_the_same_place_and_nothing_else(two, script, spec, folders, own, other):
    record, seen = looked(two, script, spec)
    assert {path.split("/")[0] for path in seen["files"]} == folders
    told = "\n".join(seen["files"].values())
    assert (OWN in told, OTHER in told) == (own, other)
    assert (OWN in seen["instruction"]) == (spec == "forced")
    listing = json.loads(two.blobs.text(record.visible))
    shown = {row["path"].removeprefix("/root/.claude/skills/") for row in listing["files"] if "skills/" in row["path"]}
    assert shown & set(seen["files"]) == set(seen["files"])
    said = record.details["skills"]
    assert said["own"]["names"] == ["doubling"] and set(said["shown"]) == folders
    assert record.scores["reward"] == 0 and not record.flags


def test_a_placebo_in_a_box_has_the_own_length_and_no_procedure(two, script):
    (_, curated), (_, placebo) = looked(two, script, "curated"), looked(two, script, "placebo")
    assert set(curated["files"]) == set(placebo["files"])
    body = [each["files"]["doubling/SKILL.md"].split("---\n")[2].strip() for each in (curated, placebo)]
    assert len(body[0]) == len(body[1]) and body[0] != body[1]
    assert "return" not in placebo["files"]["doubling/scripts/double.py"]
    assert "How numbers are doubled here." in placebo["files"]["doubling/SKILL.md"]


def shell(*commands):
    calls = [{"tool_calls": [{"name": "bash", "arguments": {"command": one}}]} for one in commands]
    return {"id": "shell", "model": {"kind": "scripted", "replies": [*calls, "<answer>done</answer>"]}}


def test_the_shell_is_told_where_skills_are_and_reading_is_what_counts(two):
    solve = "echo $((2 * $(cat number.txt))) > answer.txt"
    reads = two.run(shell("cat /root/.claude/skills/doubling/SKILL.md", solve), skills="curated")
    ignores = two.run(shell(solve), skills="curated")
    among = two.run(shell("cat /root/.claude/skills/tripling/SKILL.md", solve), skills={"id": "distractors", "n": 1})
    assert [r.scores["reward"] for r in (reads, ignores, among)] == [1, 1, 1]
    said = [record.details["skills"] for record in (reads, ignores, among)]
    assert [each["read"] for each in said] == [["doubling"], [], ["tripling"]]
    assert [each["invoked"] for each in said] == [True, False, True]
    assert [each["invoked_own"] for each in said] == [True, False, False]
    system = reads.trajectory.content[0].content
    assert "<location>/root/.claude/skills/doubling/SKILL.md</location>" in system and OWN not in system
    bare = two.run(shell(solve))
    assert "available_skills" not in bare.trajectory.content[0].content
    assert bare.details["skills"]["invoked"] is None


def test_a_model_writes_skills_for_a_box(two, script):
    reply = "---\nname: ../../my notes\ndescription: how to\n---\nWRITTEN-MARK by a model"
    creator = {"kind": "scripted", "replies": [reply]}
    record, seen = looked(two, script, {"id": "self", "creator": creator})
    assert list(seen["files"]) == ["my-notes/SKILL.md"] and "WRITTEN-MARK" in seen["files"]["my-notes/SKILL.md"]
    assert record.usage.calls == 1
    (version,) = json.loads(two.blobs.text(record.artifacts["skill_creation.json"]))
    assert "Write twice the number" in version["prompt"][1] and OWN not in version["prompt"][1]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("curatd", "curated"),
        ({"id": "distractors", "n": 5}, "the library has 1"),
        ("self", "creator"),
        ("self-feedback", "episodes to practise on"),
        ({"id": "self", "creator": "gpt:x"}, "unknown kind of model"),
    ],
)
def test_what_a_suite_cannot_give_is_refused_in_one_line(two, spec, message):
    with pytest.raises(UserError, match=message) as error:
        two.run("nop", skills=spec)
    assert "\n" not in str(error.value)


def test_a_creator_that_is_not_named_is_the_agents_own_model(two):
    reply = "---\nname: doubled\ndescription: how to\n---\nWrite twice the number."
    agent = {"id": "shell", "model": {"kind": "scripted", "replies": [reply], "after": "last"}, "turns": 1}
    record = two.run(agent, skills="self")
    (version,) = json.loads(two.blobs.text(record.artifacts["skill_creation.json"]))
    assert "Write twice the number" in str(version)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no front matter\n", "must start with YAML front matter"),
        ("---\nname: doubling\ndescription: [unclosed\n---\nbody\n", r"invalid YAML in the front matter: .*\(line 3\)"),
        ("---\nname: doubling\n---\nbody\n", "description"),
    ],
)
def test_a_skill_that_is_none_is_refused_where_an_arm_would_show_it(two, text, message, caplog):
    (two.root / "double/environment/skills/doubling/SKILL.md").write_text(text)
    for spec in ("curated", {"id": "retrieved", "k": 1}):
        with pytest.raises(UserError, match=rf"doubling/SKILL.md: .*{message}.*: mend it, .*lenient") as error:
            two.run("nop", skills=spec)
        assert "\n" not in str(error.value)
    two.run("nop", skills="none")
    suite = two.suite().model_copy(update={"gate": "lenient"})
    AgentTrial().check(suite, {"a": two.arm("nop", skills="curated")}, two.root)
    assert "agents see it as it is" in caplog.text
