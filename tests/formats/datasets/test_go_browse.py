import copy

import pytest
from casefiles import case

from fairtrial.formats.adp import ADP_V1
from fairtrial.formats.datasets.go_browse import GO_BROWSE
from fairtrial.formats.format import Notes, Numbered, RowError, Skip, decode

TREE = "RootWebArea 'Shop', focused, url='http://shop.test/a'\n\t[12] link 'Cart'\n\t[13] textbox 'Search'"


def step(number, action, length, traj=7, reward=1.0, error="", written=None, thought="I look."):
    return {
        "graph_data": {"domain": "shopping", "root_url": "http://shop.test/"},
        "node_data": {"node_url": "http://shop.test/a"},
        "step_data": {
            "action": written or f'First things first.\n\n```json\n{{"thought": "{thought}", "action": "..."}}\n```',
            "misc": {
                "agent_config": {"model_id": "some/model", "temperature": 0.7},
                "model_usage": {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": None},
            },
            "obs": {
                "axtree_txt": TREE,
                "axtree_visible_only_txt": TREE,
                "last_action": "",
                "last_action_error": error,
                "pruned_html": '<a bid="12">Cart</a>',
            },
            "parsed_action": action,
            "step_number": number,
            "thought": thought,
        },
        "traj_data": {
            "goal": "Open the cart.",
            "misc": {"evaluation_info": None},
            "response": "done",
            "reward": reward,
            "success": reward == 1.0,
            "traj_length": length,
            "traj_num": traj,
        },
    }


def run(steps, **settings):
    notes = Notes(**settings)
    for group in GO_BROWSE.gather(Numbered(line, row) for line, row in enumerate(steps, 1)):
        try:
            yield decode(GO_BROWSE, group.value, notes)
        except RowError as error:
            yield str(error)


def test_steps_become_one_trajectory_with_values_and_the_whole_thought():
    (row,) = run([step(0, "click('12')", 2), step(1, "send_msg_to_user('It is \"open\"')", 2)])
    ask, page, click, _, answer = row["content"]
    assert (ask["content"], ask["source"]) == ("Open the cart.", "user")
    assert (page["url"], page["html"]) == ("http://shop.test/a", '<a bid="12">Cart</a>')
    assert (click["function"], click["kwargs"]) == ("click", {"bid": "12"})
    assert click["description"] == "First things first.\n\nI look."
    assert answer["content"] == '<finish> It is "open" </finish>'
    assert (row["id"], row["reward"], row["details"]["domain"]) == ("7", 1.0, "shopping")
    assert row["model_calls"][0]["usage"] == {"calls": 1, "input_tokens": 10, "output_tokens": 3, "cached_tokens": 0}


def test_what_the_browser_refused_is_told_to_the_agent():
    (row,) = run([step(0, "click('99')", 2), step(1, "send_msg_to_user('no')", 2, error="no element 99")])
    told, page = row["content"][3:5]
    assert (told["content"], told["source"], told["is_error"]) == ("no element 99", "environment", True)
    assert page["joined"] is True


@pytest.mark.parametrize(
    "action", ["click(12", "frobnicate('12')", "click()", "click('1', 'left', [], 4)", "click(x='1')", "import os"]
)
def test_a_step_that_does_not_parse_rejects_the_trajectory_and_no_other(action):
    good = step(0, "send_msg_to_user('ok')", 1, traj=8)
    steps = [step(0, "click('12')", 3), step(1, action, 3), step(2, "send_msg_to_user('ok')", 3), good]
    rejected, kept = run(steps)
    assert rejected.startswith("step 1: ")
    assert [item["class_"] for item in kept["content"]] == ["text_observation", "web_observation", "message_action"]
    # the published form goes on with what is left of the first
    beheaded, _ = run(steps, faithful=True)
    assert len(beheaded["content"]) == 3


def test_a_missing_step_is_not_passed_over():
    assert list(run([step(1, "send_msg_to_user('ok')", 2)])) == ["step 0 of 2 is missing"]
    assert list(run([step(0, "send_msg_to_user('ok')", 2)])) == ["1 of 2 steps are here"]


def test_left_out_by_the_data_sets_rules():
    assert list(run([step(0, "send_msg_to_user('ok')", 1, reward=0.0)])) == [Skip("reward below 1")]
    assert list(run([step(0, "click('12')", 1)])) == [Skip("does not end with an answer")]
    idle = [step(0, "noop()", 3), step(1, "noop(500)", 3), step(2, "send_msg_to_user('ok')", 3)]
    assert list(run(idle)) == [Skip("does nothing twice in a row")]


def test_the_same_number_again_is_another_trajectory():
    one = step(0, "send_msg_to_user('ok')", 1, traj=5)
    rows = list(run([one, step(0, "send_msg_to_user('ok')", 1, traj=6), one]))
    assert [row["id"] for row in rows] == ["5", "6", "5_2"]


def test_broken_lines_pass_through():
    values = [Numbered(1, problem="broken"), Numbered(2, step(0, "noop()", 1)), Numbered(3, 17), Numbered(4, None)]
    gathered = list(GO_BROWSE.gather(iter(values)))
    assert [entry.problem for entry in gathered] == ["broken", None, None, None]
    assert [entry.line for entry in gathered] == [1, 2, 3, 4]
    with pytest.raises(RowError):
        decode(GO_BROWSE, gathered[2].value, Notes())


def test_only_its_own_rows_are_liked():
    assert GO_BROWSE.likes(step(0, "noop()", 1)) > 90
    assert [GO_BROWSE.likes(value) for value in (None, 3, [], {}, {"step_data": 1})] == [0] * 5


def test_published_steps_of_the_stored_trajectory():
    raw = case("adp/go-browse-wa/sample_raw.json")
    published = next(row for row in case("adp/go-browse-wa/sample_std.json") if row["id"] == "0")
    end = copy.deepcopy(raw[-1])
    end["step_data"].update(step_number=3, parsed_action="send_msg_to_user('ok')")
    (row,) = run([*raw, end], faithful=True)
    (written,) = ADP_V1.encode(row, Notes())
    assert written["content"][:7] == published["content"][:7]
    assert written["details"] == published["details"]


def test_mixed_steps_of_the_stored_file():
    raw = case("adp/go-browse-wa/sample_raw_mixed.json")
    kept = [row for row in run(raw, faithful=True) if isinstance(row, dict)]
    assert [row["id"] for row in kept] == ["2716"]
    # of which the first of two steps is not in the file: published as if whole
    assert "step 0 of 2 is missing" in list(run(raw))
