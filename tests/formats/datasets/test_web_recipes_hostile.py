"""Rows of the web and feedback data sets with any part replaced by something else: refused in one line or read."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairtrial.formats.datasets.go_browse import GO_BROWSE
from fairtrial.formats.datasets.mind2web import MIND2WEB
from fairtrial.formats.datasets.nnetnav import NNETNAV_LIVE
from fairtrial.formats.datasets.openhands_feedback import OPENHANDS_FEEDBACK
from fairtrial.formats.datasets.synatra import SYNATRA
from fairtrial.formats.format import Notes, Numbered, RowError, Skip, decode
from fairtrial.formats.gates import Card

TREE = "RootWebArea 'a', url='http://a.test/'\n\t[1] link 'b'"
GO_BROWSE_STEP = {
    "graph_data": {"domain": "d"},
    "node_data": {"node_url": "u"},
    "step_data": {
        "action": "{}",
        "parsed_action": "send_msg_to_user('ok')",
        "step_number": 0,
        "thought": "t",
        "obs": {"axtree_txt": TREE, "last_action_error": "e"},
        "misc": {"agent_config": {"model_id": "m", "temperature": 1}, "model_usage": {"prompt_tokens": 1}},
    },
    "traj_data": {"goal": "g", "reward": 1.0, "traj_length": 1, "traj_num": 3, "misc": {"evaluation_info": {"a": 1}}},
}
NNETNAV_STEP = {
    "dataset": "openweb",
    "id": "1",
    "task_name": "1",
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": f"OBSERVATION:\n{TREE}\nURL: u\nOBJECTIVE: o\nPREVIOUS ACTIONS:\n1: None"},
        {"role": "assistant", "content": "t ```stop [x]```"},
    ],
    "output": "o",
    "prompt": "p",
}
FEEDBACK = {
    "version": "1",
    "feedback": "positive",
    "permissions": "public",
    "id": "1",
    "email": "a@b.test",
    "trajectory": [
        {"source": "environment", "action": "initialize", "args": {"LLM_MODEL": "m"}},
        {"source": "user", "action": "message", "args": {"content": "hi", "image_urls": ["u"]}},
        {"source": "agent", "action": "run", "id": 3, "args": {"command": "ls", "thought": "t"}},
        {"source": "agent", "observation": "run", "cause": 3, "content": "ls\r\na", "extras": {"command": "ls"}},
        {"source": "agent", "action": "browse_interactive", "args": {"browser_actions": "click('1')"}},
        {"source": "agent", "observation": "browse", "extras": {"axtree_object": {"nodes": [{"nodeId": 1}]}}},
        {"source": "agent", "action": "delegate", "args": {"agent": "a", "inputs": {"task": "t"}}},
        {"source": "agent", "action": "finish", "message": "m", "args": {"outputs": {"content": "c"}}},
    ],
}  # fmt: skip
PAGE = {
    "annotation_id": "1",
    "website": "w",
    "domain": "d",
    "confirmed_task": "t",
    "action_reprs": ["r"],
    "actions": [
        {
            "action_uid": "u",
            "raw_html": '<a data_pw_testid_buckeye="u" backend_node_id="5">x</a><iframe>y</iframe>',
            "operation": {"op": "TYPE", "original_op": "TYPE", "value": "v"},
            "pos_candidates": [{"backend_node_id": "5", "is_original_target": True}],
        }
    ],
}
STEP = {
    "prompt": '"""i"""\n# website\nwebsite = "w"\n\n# observation of the current web page\nobservation = """o"""\n\n'
    '# objective\nobjective = "b"\n\n# past actions\ndef solve():\n',
    "response": '# step 1: t\nclick(element_id="1")',
}
CASES = {
    "go-browse": (GO_BROWSE, GO_BROWSE_STEP),
    "nnetnav": (NNETNAV_LIVE, NNETNAV_STEP),
    "feedback": (OPENHANDS_FEEDBACK, FEEDBACK),
    "mind2web": (MIND2WEB, PAGE),
    "synatra": (SYNATRA, STEP),
}
LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
JSON = st.recursive(
    LEAVES, lambda each: st.lists(each, max_size=2) | st.dictionaries(st.text(max_size=4), each, max_size=2)
)


def places(value, path=()):
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inside:
        yield from places(each, (*path, key))


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_part_may_be_something_else(name, data):
    format, row = CASES[name]
    value = copy.deepcopy(row)
    path = data.draw(st.sampled_from(list(places(value))))
    other = data.draw(JSON)
    if path:
        target = value
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = other
    else:
        value = other
    assert 0 <= format.likes(value) <= 100
    entries = [Numbered(1, value), Numbered(2, copy.deepcopy(row))]
    for faithful in (False, True):
        for entry in format.gather(iter(entries)) if format.gather else entries:
            notes = Notes(faithful=faithful)
            try:
                read = decode(format, entry.value, notes)
            except RowError as error:
                assert "\n" not in str(error)
            else:
                if not isinstance(read, Skip):
                    card = Card()
                    card.add(read, entry.value, notes)
                    card.to_json()


@pytest.mark.parametrize("name", CASES)
def test_untouched_they_are_read(name):
    format, row = CASES[name]
    (entry,) = format.gather(iter([Numbered(1, row)])) if format.gather else [Numbered(1, row)]
    assert decode(format, entry.value, Notes())["content"]


def test_one_id_for_a_whole_file_does_not_fill_the_memory():
    gathered = list(GO_BROWSE.gather(Numbered(line, GO_BROWSE_STEP) for line in range(1, 5002)))
    assert [len(entry.value["steps"]) for entry in gathered] == [5000, 1]
