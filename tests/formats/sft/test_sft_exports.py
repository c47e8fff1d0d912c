"""Training records of the three harnesses: what a trainer and the harness would read in them."""

import ast
import json
import re
import shlex
import subprocess

import pytest
from hypothesis import given, settings
from strategies import rows

from fairtrial.formats.format import Notes, RowError, named
from fairtrial.formats.items import api, code, image, message, text, web
from fairtrial.formats.sft.agentlab import SFT_AGENTLAB
from fairtrial.formats.sft.openhands import SFT_OPENHANDS, openhands
from fairtrial.formats.sft.steps import Settings
from fairtrial.formats.sft.swe_agent import SFT_SWE_AGENT, swe_agent

PAGE = "RootWebArea 'Shop', focused, url='https://shop.example/'\n\t[145] textbox 'Search', focused\n\t[149] link 'Map'"


def row(*items, **rest):
    return {"id": "t1", "content": [text("Do it.", "user"), *items], **rest}


def turns(format, row, notes=None):
    (record,) = format.encode(row, notes or Notes())
    return [turn["value"] for turn in record["conversations"]]


def calls(values):
    return [re.findall(r"<function=(\w+)>", value) for value in values[1::2]]


def test_the_exports_are_registered_and_write_only():
    for name in ("sft-openhands", "sft-swe-agent", "sft-agentlab", "rl-rows"):
        assert named(name).kind == "export" and named(name).decode is None
    assert "v0.30" in SFT_OPENHANDS.title and "v1.1.0" in SFT_SWE_AGENT.title and "BrowserGym" in SFT_AGENTLAB.title


def test_openhands_calls_and_results():
    values = turns(
        SFT_OPENHANDS,
        row(
            code("bash", "ls", "Look first."),
            text("a.py", "environment"),
            api("str_replace_editor", {"command": "view", "path": "/a.py", "view_range": [1, 2], "old_str": None}),
            text("1 x", "environment"),
            message("<finish> Done. </finish>", "All is well."),
        ),
    )
    assert values == [
        "Do it.",
        "Look first.\n\n<function=execute_bash>\n<parameter=command>\nls\n</parameter>\n</function>",
        "EXECUTION RESULT of [execute_bash]:\na.py",
        "<function=str_replace_editor>\n<parameter=command>\nview\n</parameter>\n<parameter=path>\n/a.py\n</parameter>\n"
        "<parameter=view_range>\n[1, 2]\n</parameter>\n</function>",
        "EXECUTION RESULT of [str_replace_editor]:\n1 x",
        "All is well.\n\n<function=finish>\n<parameter=message>\nDone.\n</parameter>\n"
        "<parameter=task_completed>\ntrue\n</parameter>\n</function>",
    ]


def test_what_a_user_says_after_a_call_is_not_its_result():
    values = turns(SFT_OPENHANDS, row(code("python", "1"), text("Thanks, now 2.", "user"), message("2")))
    assert values[2] == "Thanks, now 2."
    faithful = turns(
        SFT_OPENHANDS, row(code("python", "1"), text("Thanks.", "user"), message("2")), Notes(faithful=True)
    )
    assert faithful[2] == "EXECUTION RESULT of [execute_ipython_cell]:\nThanks."


def test_other_languages_are_a_literal_that_evaluates_to_the_code():
    source = 'SELECT "a"\nFROM \'t\' -- """ \\n'
    values = turns(SFT_OPENHANDS, row(code("mysql", source), text("1", "environment"), message("ok")))
    cell = re.search(r"<parameter=code>\n(.*)\n</parameter>", values[1], re.DOTALL)[1]
    call = ast.parse(cell, mode="eval").body
    assert call.func.id == "mysql" and ast.literal_eval(call.args[0]) == source
    assert values[0].startswith("mysql code runs in execute_ipython_cell")


def test_shell_and_python_tools_of_other_agents_become_the_harness_ones():
    given = row(
        api("Bash", {"command": "pwd", "timeout": 5}),
        text("/", "environment"),
        api("shell", {"command": ["bash", "-lc", "ls -l"]}),
        text("x", "environment"),
        api("python", {"code": "1"}),
        text("1", "environment"),
        message("ok"),
    )
    notes = Notes()
    assert calls(turns(SFT_OPENHANDS, given, notes)) == [
        ["execute_bash"],
        ["execute_bash"],
        ["execute_ipython_cell"],
        [],
    ]
    assert ("argument that the harness's execute_bash does not have", "timeout=5") in notes.dropped
    values = turns(SFT_SWE_AGENT, given)
    assert "\nls -l\n" in values[3] and "python -c $'1'" in values[5]


def test_swe_agent_python_reaches_python_unchanged():
    source = "print('it''s', \"\\n$HOME\", '''`x` \\\\ !''')\n"
    values = turns(SFT_SWE_AGENT, row(code("python", source, "Try."), text("?", "environment"), message("ok")))
    assert values[1].startswith("<think>\nTry.\n</think>\n\n<function=bash>")
    command = re.search(r"<parameter=command>\n(.*)\n</parameter>", values[1], re.DOTALL)[1]
    argv = command.replace("python -c ", "printf %s ", 1)
    assert subprocess.run(["bash", "-c", argv], capture_output=True, check=True).stdout.decode() == source
    assert values[2] == "OBSERVATION:\n?"


def test_swe_agent_refuses_what_it_has_no_tool_for():
    with pytest.raises(RowError, match="mysql code"):
        turns(SFT_SWE_AGENT, row(code("mysql", "x"), message("ok")))
    with pytest.raises(RowError, match="no browser"):
        turns(SFT_SWE_AGENT, row(web(axtree=PAGE), message("ok")))


def test_a_final_answer_submits_with_its_text_before():
    values = turns(SFT_SWE_AGENT, row(message("<finish> It is 4. </finish>", "2 + 2")))
    assert values[1] == "<think>\n2 + 2\n</think>\n\nIt is 4.\n\n<function=submit>\n</function>"


def test_functions_of_the_data_set_are_called_where_they_are_defined():
    tools = [{"type": "function", "function": {"name": "go", "parameters": {"properties": {"to": {"type": "string"}}}}}]
    given = row(api("go", {"to": 'the "shelf"'}), text("There.", "environment"), message("ok"), tools=tools)
    values = turns(SFT_OPENHANDS, given)
    assert '<function=execute_ipython_cell>\n<parameter=code>\ngo(to="the \\"shelf\\"")\n' in values[1]
    assert values[0] == "These functions are defined in execute_ipython_cell:\n\ngo(to: str = None)\n\nDo it."
    shell = row(code("bash", "ls"), text("x", "environment"), *given["content"][1:])
    assert "<function=execute_bash>\n<parameter=command>\ngo(" in turns(SFT_OPENHANDS, shell)[3]
    assert "<parameter=code>\ngo(" in turns(openhands(Settings(environment="browser")), shell)[3]


def test_parallel_calls_become_one_after_the_other_with_one_thought():
    given = row(
        api("a", {}, "Both.", call_id="1"),
        api("b", {}, joined=True, call_id="2"),
        message("And wait.", joined=True),
        text("of b", "environment", call_id="2"),
        text("of a", "environment", call_id="1"),
        message("ok"),
    )
    values = turns(SFT_OPENHANDS, given)
    assert [value.splitlines()[-1] for value in values[2::2]] == ["of a", "of b"]
    assert "a()" in values[1] and "b()" in values[3]
    assert sum(value.count("Both.") for value in values) == 1 and values[1].startswith("And wait.\n\nBoth.")


def test_a_call_without_result_gets_one_that_says_so_and_is_noted():
    notes = Notes()
    values = turns(
        SFT_OPENHANDS, row(code("bash", "ls"), code("bash", "pwd"), text("/", "environment"), message("k")), notes
    )
    assert values[2] == "EXECUTION RESULT of [execute_bash]:\n(no result recorded)"
    assert notes.invented == [("result of a call that has none", "(no result recorded)")]


def test_synthetic_endings_are_written_only_when_asked_for():
    ending = [text("Congratulations!", "user", synthetic=True), message("<finish> Yes. </finish>", synthetic=True)]
    given = row(code("bash", "ls"), text("x", "environment"), message("It is x."), *ending)
    for format in (SFT_OPENHANDS, SFT_SWE_AGENT):
        notes = Notes()
        plain = turns(format, given, notes)
        assert plain[-1] == "It is x." and not any("Congratulations" in value for value in plain)
        assert [reason for reason, _ in notes.dropped] == ["synthetic ending"] * 2
        asked = turns(format, given, Notes(endings=True))
        assert "Congratulations!" in asked[-2] and "Yes." in asked[-1]


@pytest.mark.parametrize("format", [SFT_OPENHANDS, SFT_SWE_AGENT])
def test_what_may_not_be_learned_from_is_no_turn(format):
    given = row(
        code("bash", "rm secret", "copied", call_id="1") | {"loss": False},
        text("gone", "environment", call_id="1"),
        code("bash", "ls"),
        text("x", "environment"),
        message("ok"),
    )
    notes = Notes()
    values = turns(format, given, notes)
    assert not any("secret" in value or "gone" in value for value in values)
    assert len(values) == 4 and len(notes.dropped) == 2


def test_texts_with_call_syntax_and_rows_without_actions_are_refused():
    with pytest.raises(RowError, match="call syntax"):
        turns(SFT_OPENHANDS, row(message("I would <function=execute_bash>")))
    with pytest.raises(RowError, match="nothing that could be trained on"):
        turns(SFT_OPENHANDS, row(text("Anyone?", "user")))
    with pytest.raises(RowError, match="starts with a call"):
        turns(SFT_OPENHANDS, {"id": "x", "content": [code("bash", "ls")]})


def test_system_prompts_of_other_programs_are_left_out_and_the_own_one_can_be_given():
    given = {"id": "x", "content": [text("You are Other.", "system"), text("Do it.", "user"), message("ok")]}
    notes = Notes()
    (record,) = swe_agent(Settings(system="THE PROMPT")).encode(given, notes)
    assert record["system"] == "THE PROMPT" and record["conversations"][0]["value"] == "Do it."
    assert notes.dropped == [("another program's system prompt", "You are Other.")]
    (record,) = SFT_OPENHANDS.encode(given, Notes())
    assert all(f"{tool}(" in record["system"] for tool in ("execute_bash", "finish", "browser", "edit_file"))


def browsing(pages=2, page=PAGE):
    steps = [item for k in range(pages) for item in (web(axtree=page), api("click", {"bid": "149"}, f"thought {k}"))]
    return {
        "id": "w1",
        "content": [text("Find it.", "user"), *steps, web(axtree=page), message("<finish> 5 </finish>")],
    }


def test_web_trajectories_become_one_openhands_record_per_action():
    records = list(SFT_OPENHANDS.encode(browsing(), Notes()))
    assert [record["id"] for record in records] == ["w1-0", "w1-1", "w1-2"]
    assert [len(record["conversations"]) for record in records] == [2, 4, 6]
    first, answer = (turn["value"] for turn in records[0]["conversations"])
    assert first.startswith("Find it.\n\n[Current URL: https://shop.example/]\n[Focused element bid: 145]\n\n[Action")
    assert answer == 'thought 0\n\n<function=browser>\n<parameter=code>\nclick(bid="149")\n</parameter>\n</function>'
    second = records[1]["conversations"][2]["value"]
    assert second.startswith("EXECUTION RESULT of [browser]:\n[Current URL:")


def test_the_oldest_pages_go_first_and_the_budget_holds():
    big = PAGE + "\n" + "\t[7] text 'x'\n" * 2500
    notes = Notes()
    records = list(SFT_OPENHANDS.encode(browsing(5, big), notes))
    for record in records:
        values = [turn["value"] for turn in record["conversations"]]
        assert sum(map(len, values)) <= 70_000
        assert big in values[-2]
        whole = [big in value for value in values[::2]]
        assert whole == sorted(whole)
    assert notes.dropped == []
    (tight,) = list(openhands(Settings(budget=20_000)).encode(browsing(0, big), notes))
    assert sum(len(turn["value"]) for turn in tight["conversations"]) == 20_000
    assert [reason for reason, _ in notes.dropped] == ["end of a page that exceeds the length budget"]


def test_agentlab_records_hold_goal_page_history_thought_and_action():
    given = browsing()
    given["content"][-1] = message('<finish> It is "5".\nBye </finish>', "Read it.")
    records = list(SFT_AGENTLAB.encode(given, Notes()))
    assert [record["id"] for record in records] == ["w1-0", "w1-1", "w1-2"]
    prompt, answer = (turn["value"] for turn in records[1]["conversations"])
    assert prompt.startswith(f"# Goal\nFind it.\n\n# Current page Accessibility Tree\n\n{PAGE}\n\n# Action Space\n")
    assert records[0]["conversations"][1]["value"] in prompt.split("# History of past actions")[1]
    assert json.loads(answer) == {"thought": "thought 1", "action": 'click(bid="149")'}
    last = json.loads(records[2]["conversations"][1]["value"])
    said = ast.parse(last["action"], mode="eval").body
    assert said.func.id == "send_msg_to_user" and ast.literal_eval(said.keywords[0].value) == 'It is "5".\nBye'
    assert last["thought"] == "Read it."


def test_agentlab_is_for_browsing_only():
    with pytest.raises(RowError, match="no web page"):
        list(SFT_AGENTLAB.encode(row(message("ok")), Notes()))
    with pytest.raises(RowError, match="browser only"):
        list(SFT_AGENTLAB.encode(row(web(axtree=PAGE), code("bash", "ls")), Notes()))


@pytest.mark.parametrize("format", [SFT_OPENHANDS, SFT_AGENTLAB])
def test_what_only_a_browser_could_resolve_is_refused(format):
    with pytest.raises(RowError, match="accessibility tree"):
        list(format.encode(row(web(html="<p>"), api("click", {"bid": "1"})), Notes()))
    with pytest.raises(RowError, match="xpath only"):
        list(format.encode(row(web(axtree=PAGE), api("click", {"xpath": "//*[@id='1']"})), Notes()))


@pytest.mark.parametrize("format", [SFT_OPENHANDS, SFT_AGENTLAB])
def test_the_order_of_trajectories_changes_no_record(format):
    runs = [browsing(2), browsing(3, PAGE.replace("145", "9")), browsing(1)]
    forward = [list(format.encode(run, Notes())) for run in runs]
    backward = [list(format.encode(run, Notes())) for run in reversed(runs)]
    assert forward == backward[::-1]


def test_an_image_is_named_and_inline_bytes_are_left_out():
    notes = Notes()
    given = row(image("data:image/png;base64,AAAA", "user", joined=True), message("A cat."))
    assert turns(SFT_OPENHANDS, given, notes)[0] == "Do it.\n\n[Image: inline]\n"
    assert notes.dropped == [("inline image", "data:image/png;base64,AAAA")]


def _harness_calls(value):
    return re.findall(r"<function=[^>]+>\n.*?</function>", value, re.DOTALL)


@settings(max_examples=150, deadline=None)
@given(rows(web=False, developer=True, joined_text=True, shuffled=True, synthetic=True, loss=True, subagents=True))
def test_any_row_gives_alternating_turns_with_one_call_at_most_or_says_why_not(given_row):
    for format in (SFT_OPENHANDS, SFT_SWE_AGENT):
        try:
            records = list(format.encode(given_row, Notes()))
        except RowError as error:
            assert str(error) and "\n" not in str(error)
            continue
        for record in records:
            speakers = [turn["from"] for turn in record["conversations"]]
            assert speakers == ["human", "gpt"] * (len(speakers) // 2) and speakers
            assert all(len(_harness_calls(turn["value"])) <= 1 for turn in record["conversations"][1::2])
            json.dumps(record)


@settings(max_examples=80, deadline=None)
@given(rows(code=False, malformed=False, parallel=False, images=False))
def test_every_web_action_is_one_agentlab_record(given_row):
    actions = [item for item in given_row["content"] if item["class_"].endswith("_action")]
    try:
        records = list(SFT_AGENTLAB.encode(given_row, Notes()))
    except RowError:
        return
    assert len(records) == len(actions)
    for record in records:
        assert json.loads(record["conversations"][1]["value"]).keys() == {"thought", "action"}


def test_a_shell_list_that_is_no_wrapper_is_joined_as_words():
    values = turns(
        SFT_SWE_AGENT, row(api("shell", {"command": ["echo", "a b"]}), text("a b", "environment"), message("k"))
    )
    assert shlex.split(re.search(r"<parameter=command>\n(.*)\n", values[1])[1]) == ["echo", "a b"]
