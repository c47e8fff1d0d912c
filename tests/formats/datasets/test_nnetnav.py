import pytest
from casefiles import case

from fairtrial.formats.adp import ADP_V1
from fairtrial.formats.datasets.nnetnav import NNETNAV_LIVE, NNETNAV_WA
from fairtrial.formats.format import Notes, Numbered, RowError, Skip, decode

TREE = "RootWebArea 'Maps'\n\t[7] textbox 'From'\n\t[8] button 'Go'"


def steps(*answers, performed=(), id="openweb_1", objective="Find the way [home]."):
    """Rows of one trajectory; `performed` are the environment's words for each action, else the action itself."""
    rows, past = [], ["1: None"]
    for number, answer in enumerate(answers):
        asked = "\n".join(
            ["OBSERVATION:", TREE, "URL: http://maps.test/", f"OBJECTIVE: {objective}", "PREVIOUS ACTIONS:", *past]
        )
        rows.append(
            {
                "dataset": "openweb_NNetNav_Bof3",
                "id": id,
                "task_name": id,
                "messages": [
                    {"role": "system", "content": "You browse."},
                    {"role": "user", "content": asked},
                    {"role": "assistant", "content": answer},
                ],
                "output": f"<|start|>{answer}",
                "prompt": f"<|begin|>{asked}",
                "n_tokens": 9,
            }
        )
        told = performed[number] if number < len(performed) else answer.split("```")[1]
        past.append(f"{number + 2}: {told} where [7] is From" if told.startswith("click") else f"{number + 2}: {told}")
    return rows


def act(action, thought="Think.\n\nIn summary, the next action I will perform is "):
    return f"{thought}```{action}```"


def run(rows, format=NNETNAV_LIVE, **settings):
    notes = Notes(**settings)
    for group in format.gather(Numbered(line, row) for line, row in enumerate(rows, 1)):
        try:
            yield decode(format, group.value, notes)
        except RowError as error:
            yield str(error)


def actions(row):
    return [item for item in row["content"] if item["class_"].endswith("action")]


@pytest.mark.parametrize(
    ("action", "function", "kwargs"),
    [
        ("type [7] [a [b] c] [1]", "type", {"bid": "7", "text": "a [b] c", "press_enter_after": 1}),
        ("type [7] [x] [press_enter_after=0]", "type", {"bid": "7", "text": "x", "press_enter_after": 0}),
        ("type [7] [x]", "type", {"bid": "7", "text": "x"}),
        ("type [7] [[1]]", "type", {"bid": "7", "text": "[1]"}),
        ("type [7] [stop and\npress]", "type", {"bid": "7", "text": "stop and\npress"}),
        ("click [8]", "click", {"bid": "8"}),
        ("click [8] where [8] is Go", "click", {"bid": "8"}),
        ("hover [prototype]", "hover", {"bid": "prototype"}),
        ("press [Control+v]", "keyboard_press", {"key": "Control+v"}),
        ("scroll [up]", "scroll", {"delta_x": 0, "delta_y": -500}),
        ("scroll [direction=down]", "scroll", {"delta_x": 0, "delta_y": 500}),
        ("tab_focus [2]", "tab_focus", {"index": 2}),
        ("goto [http://maps.test/?q=[a]]", "goto", {"url": "http://maps.test/?q=[a]"}),
        ("close_tab", "tab_close", {}),
        ("new_tab", "new_tab", {}),
        ("go_back", "go_back", {}),
    ],
)  # fmt: skip
def test_the_bracket_grammar(action, function, kwargs):
    (row,) = run(steps(act(action), act("stop [there]")))
    call, answer = actions(row)
    assert (call["function"], call["kwargs"], call["description"]) == (function, kwargs, "Think.")
    assert answer["content"] == "<finish> there </finish>"
    assert "extra" not in call


@pytest.mark.parametrize("action", ["jump [7]", "type [7]", "click", "scroll [sideways]", "tab_focus [x]", "click [7"])
def test_a_step_that_does_not_parse_rejects_the_trajectory_and_no_other(action):
    rows = steps(act("click [8]"), act(action), act("stop [x]")) + steps(act("stop [fine]"), id="openweb_2")
    rejected, kept = run(rows)
    assert rejected.startswith("step 2: ")
    assert kept["id"] == "openweb_2"


def test_the_published_form_is_beheaded_instead():
    rows = steps(act("click [8]"), act("scroll [sideways]"), act("click [7]"), act("stop [x]"))
    (row,) = run(rows, faithful=True)
    assert [item.get("function") for item in actions(row)] == ["click", None]


def test_a_label_that_was_not_what_was_performed_says_so():
    rows = steps(act("click [8]"), act("click [7]"), act("stop [x]"), performed=["click [163]"])
    (row,) = run(rows)
    first, second, _ = actions(row)
    assert first["extra"] == {"nnetnav-live": {"performed": "click [163] where [7] is From"}}
    assert "extra" not in second


def test_what_the_environment_refused_is_told_to_the_agent():
    refusal = 'Attempt to perfom "click" on element "[8]" but no matching element found.'
    (row,) = run(steps(act("click [8]"), act("stop [x]"), performed=[refusal]))
    told, page = row["content"][3:5]
    assert (told["content"], told["source"], told["is_error"], page["joined"]) == (refusal, "environment", True, True)


def test_text_around_the_action_is_kept():
    quoted = "I quote `[7]` and ```code``` first. My next action is ```click [8]``` because it helps."
    (row,) = run(steps(quoted, act("stop [N/A]``"), performed=["click [8]"]))
    call, answer = actions(row)
    assert call["description"] == "I quote `[7]` and ```code``` first. My next action is\n\nbecause it helps"
    assert answer["content"] == "<finish> N/A </finish>"


def test_a_missing_step_is_not_passed_over():
    rows = steps(act("click [8]"), act("click [7]"), act("stop [x]"))
    assert list(run([rows[0], rows[2]])) == ["step 2 follows 2 actions: a step is missing"]
    assert list(run(rows[:2])) == [Skip("does not end with an answer")]


def test_each_step_shows_its_page_and_the_task_is_the_users():
    (row,) = run(steps(act("click [8]"), act("stop [x]")))
    ask, page, *_ = row["content"]
    assert (ask["content"], ask["source"]) == ("Find the way [home].", "user")
    assert (page["axtree"], page["url"]) == (TREE, "http://maps.test/")
    assert row["tools"][0]["function"]["name"] == "noop"


def test_only_its_own_rows_are_liked():
    (row,) = steps(act("stop [x]"))
    assert NNETNAV_LIVE.likes(row) > NNETNAV_WA.likes(row) > 80
    assert NNETNAV_WA.likes({**row, "dataset": "webarena_NNetNav"}) > 90
    odd = [None, [], {}, {**row, "messages": None}, {**row, "messages": [1, 2]}, {**row, "dataset": None}]
    assert [NNETNAV_LIVE.likes(value) for value in odd] == [0] * 6


def test_the_published_form_of_the_stored_rows():
    rows = list(run(case("adp/nnetnav-live/sample_raw.json"), faithful=True))
    written = [value for row in rows for value in ADP_V1.encode(row, Notes())]
    assert written == case("adp/nnetnav-live/sample_std.json")


def test_the_stored_rows_are_clean_and_whole():
    raw = case("adp/nnetnav-live/sample_raw.json")
    rows = list(run(raw))
    assert sum(len(actions(row)) for row in rows) == len(raw) == 30
    relabelled = sum("extra" in item for row in rows for item in actions(row))
    assert relabelled == 19
    enter = [
        item["kwargs"]["press_enter_after"] for row in rows for item in actions(row) if "text" in item.get("kwargs", {})
    ]
    assert set(enter) == {1}  # published as 0
