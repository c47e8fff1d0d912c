"""Standard form -> training form against the published samples, in faithful mode.

Prompts and function descriptions are not compared (theirs may not be copied). Every other turn is the same, apart from
those where the published form is broken; they are listed here with the reason and their number.
"""

import json
import re
from collections import Counter

import pytest
from casefiles import case

from fairtrial.formats.adp import ADP_V1
from fairtrial.formats.format import Notes, RowError, decode
from fairtrial.formats.sft.agentlab import SFT_AGENTLAB
from fairtrial.formats.sft.openhands import SFT_OPENHANDS
from fairtrial.formats.sft.swe_agent import SFT_SWE_AGENT

FOCUS = "the focused element is one that an earlier trajectory touched"
LANGUAGE = "code of another language is put between quotes without escaping"
ARGUMENT = "an argument is put between quotes without escaping"
CLOSING = "the closing sentences are drawn at random and differ from the standard form's"
SHELL = "Python is put between shell quotes without escaping"


def rows(name):
    """The published standardised trajectories of a sample set."""
    return [decode(ADP_V1, item, Notes(faithful=True)) for item in case(f"adp/{name}/sample_std.json")]


def published(name, file):
    """Published records as {id: [turn text, ...]}."""
    found = {}
    for record in case(f"adp/{name}/{file}"):
        if record is not None:
            found[record["id"]] = [turn.get("value", turn.get("content")) for turn in record["conversations"]]
    return found


def ours(name, format, *, faithful=True):
    """Our records of the same trajectories as {id: [turn text, ...]}."""
    return {
        record["id"]: [turn["value"] for turn in record["conversations"]]
        for row in rows(name)
        for record in format.encode(row, Notes(faithful=faithful, endings=True))
    }


def _differences(name, format, file):
    """How many turns are the same, and why the others are not."""
    same, reasons = 0, Counter()
    mine = ours(name, format)
    theirs = published(name, file)
    assert mine.keys() == theirs.keys()
    task = {row["id"]: row["content"][0]["content"] for row in rows(name)}
    for id, turns in theirs.items():
        assert len(turns) == len(mine[id])
        for index, (their, our) in enumerate(zip(turns, mine[id], strict=True)):
            if index == 0:
                their, our = their[their.rindex(task[id]) :], our[our.rindex(task[id]) :]
            if their == our:
                same += 1
            else:
                reasons[_reason(their, our, len(turns) - index)] += 1
    return same, dict(reasons)


def _reason(their, our, left):
    focus = r"\[Focused element bid: .*\]"
    if re.search(focus, their) and re.sub(focus, "", their) == re.sub(focus, "", our):
        return FOCUS
    if "python -c $'" in their and our.replace("\\'", "'").replace("\\\\", "\\") == their:
        return SHELL
    if "replacement_text=" in their and _bare(their) == _bare(our):
        return ARGUMENT
    if re.search(r"\n\w+\(\"", their) and _bare(their) == _bare(our):
        return LANGUAGE
    if left <= 2 and _head(their) == _head(our):
        return CLOSING
    return f"unexplained: {their!r} {our!r}"


def _bare(text):
    return text.replace("\\n", "\n").replace("\\\\", "\\").replace('"', "").replace("\\", "")


def _head(text):
    return text.split("\n")[0]


@pytest.mark.parametrize(
    ("name", "same", "reasons"),
    [
        ("agentinstruct_alfworld", 188, {}),
        ("agentinstruct_db", 20, {}),
        ("agentinstruct_mind2web", 10, {}),
        ("agentinstruct_os", 68, {}),
        ("agentinstruct_webshop", 54, {}),
        ("code_feedback", 78, {LANGUAGE: 4}),
        ("codeactinstruct", 36, {}),
        ("go-browse-wa", 53, {FOCUS: 3}),
        ("nebius_swe_agent", 86, {ARGUMENT: 13, CLOSING: 9}),
        ("nnetnav-live", 57, {FOCUS: 3}),
        ("swe-smith", 242, {}),
    ],
)
def test_openhands_form_equals_the_published_one(name, same, reasons):
    assert _differences(name, SFT_OPENHANDS, "sample_sft_openhands.json") == (same, reasons)


@pytest.mark.parametrize(
    ("name", "same", "reasons"),
    [
        ("agentinstruct_alfworld", 188, {}),
        ("agentinstruct_db", 20, {}),
        ("agentinstruct_mind2web", 10, {}),
        ("agentinstruct_os", 68, {}),
        ("agentinstruct_webshop", 54, {}),
        ("codeactinstruct", 29, {SHELL: 7}),
        ("swe-smith", 242, {}),
    ],
)
def test_swe_agent_form_equals_the_published_one(name, same, reasons):
    assert _differences(name, SFT_SWE_AGENT, "sample_sft_sweagent.json") == (same, reasons)


def test_swe_agent_form_refuses_the_trajectories_that_the_published_one_lacks():
    theirs = published("code_feedback", "sample_sft_sweagent.json")
    for row in rows("code_feedback"):
        try:
            mine = [record["id"] for record in SFT_SWE_AGENT.encode(row, Notes(faithful=True))]
        except RowError as error:
            assert "runs bash and Python only" in str(error)
            assert row["id"] not in theirs
        else:
            assert mine == [row["id"]] and row["id"] in theirs


def test_text_with_call_syntax_left_in_it_is_refused():
    refused = 0
    for row in rows("x_swe-play"):
        try:
            list(SFT_OPENHANDS.encode(row, Notes(faithful=True)))
        except RowError as error:
            assert "contains call syntax" in str(error) or 'the message of finish contains "</parameter>"' in str(error)
            refused += 1
    assert refused == 5


@pytest.mark.parametrize("name", ["go-browse-wa", "nnetnav-live", "agentinstruct_webshop", "agentinstruct_alfworld"])
def test_agentlab_records_have_the_published_goal_page_and_action(name):
    """Only the published thoughts (all of them call syntax) and the stray delimiter after the page differ."""
    mine = ours(name, SFT_AGENTLAB)
    theirs = published(name, "sample_sft_agentlab.json")
    assert len(theirs) == 5
    for id, (prompt, answer) in theirs.items():
        my_prompt, my_answer = mine[id]
        assert _until_action_space(prompt) == _until_action_space(my_prompt)
        assert json.loads(my_answer)["action"] == json.loads(answer)["action"]
        assert json.loads(answer)["thought"].startswith("<function=")
        assert "<function" not in my_answer


def _until_action_space(prompt):
    return prompt[: prompt.index("# Action Space")].rstrip().removesuffix("\n==============")


def test_default_records_of_every_sample_alternate_and_end_with_the_agent():
    for name in ("agentinstruct_alfworld", "go-browse-wa", "nnetnav-live", "nebius_swe_agent", "swe-smith"):
        for row in rows(name):
            for record in SFT_OPENHANDS.encode(row, Notes()):
                speakers = [turn["from"] for turn in record["conversations"]]
                assert speakers == ["human", "gpt"] * (len(speakers) // 2)
