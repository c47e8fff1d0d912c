"""The recipes of issue-solving data sets on rows of our own: types, indentation, parallel calls, cut-off calls."""

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from fairtrial.formats.format import Notes, Skip, decode, named

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=30)


def run(name, value, notes=None):
    row = decode(named(name), value, notes or Notes())
    assert not isinstance(row, Skip), row.reason
    return row


def nebius(*texts, **fields):
    turns = [{"role": "system", "text": None, "system_prompt": "SETTING", "cutoff_date": "01.01.2023", "mask": False}]
    for index, text in enumerate(texts):
        turns.append(
            {"role": "ai" if index % 2 else "user", "text": text, "system_prompt": None, "mask": index % 2 == 1}
        )
    value = {"instance_id": "a__b-1", "model_name": "m", "target": True, "trajectory": turns}
    return {**value, "exit_status": "submitted", "generated_patch": "diff", "eval_logs": "log", **fields}


def command(text):
    return run("nebius-swe-agent", nebius("Fix.", f"Now.\n```\n{text}\n```"))["content"][-1]


def test_editor_commands_have_typed_arguments_and_keep_their_indentation():
    edit = command("edit 5:7\n    if x:\n        pass\nend_of_edit")
    assert edit["kwargs"] == {"start_line": 5, "end_line": 7, "replacement_text": "    if x:\n        pass\n"}
    assert command("open 'a b.py' 12")["kwargs"] == {"path": "a b.py", "line_number": 12}
    assert command("search_dir 12")["kwargs"] == {"search_term": "12"}
    assert command("submit")["function"] == "submit"


def test_what_is_no_editor_command_is_left_to_the_shell_as_it_is():
    for text in (
        "ls -F",
        "goto end",
        "open a b c",
        "find_file 'x",
        "search_dir x | head",
        "cat <<E\nsubmit\nE",
        "goto 1\nls",
    ):
        shell = command(text)
        assert (shell["class_"], shell["language"], shell["content"]) == ("code_action", "bash", text)


def test_shell_output_comes_from_the_environment_and_text_after_the_command_stays():
    value = nebius(
        "Fix.", "DISCUSSION\nLook.\n```\nls\n```\nbye", "a.py\nbash-$", "no command", "Format!", "```\nsubmit\n```"
    )
    row = run("nebius-swe-agent", value)
    system, task, look, after, seen, said, told, end = row["content"]
    assert (system["source"], task["source"]) == ("system", "user")
    assert (look["description"], after["content"], after["joined"]) == ("Look.", "bye", True)
    assert (seen["source"], told["source"], said["class_"]) == ("environment", "environment", "message_action")
    assert (row["reward"], row["details"]["cutoff_date"], end["function"]) == (1.0, "01.01.2023", "submit")


def test_failed_runs_are_left_out_and_repeats_numbered():
    notes = Notes()
    assert decode(named("nebius-swe-agent"), nebius("x", target=False), notes) == Skip("not target")
    ids = [run("nebius-swe-agent", nebius("x", "y"), notes)["id"] for _ in range(2)]
    assert ids == ["a__b-1_1", "a__b-1_2"]  # the first number was that of the failed run
    assert run("nebius-swe-agent", nebius("x", "y", instance_id="a__b-1_7"), notes)["id"] == "a__b-1_7"


def test_turns_that_the_source_does_not_train_on_carry_no_loss():
    value = nebius("x", "```\nls\n```")
    value["trajectory"][2]["mask"] = False
    assert run("nebius-swe-agent", value)["content"][-1]["loss"] is False


def call(id, name, arguments):
    text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
    return {"id": id, "type": "function", "index": None, "function": {"name": name, "arguments": text}}


def gym(*messages, **fields):
    empty = {"function_call": None, "name": None, "tool_call_id": None, "tool_calls": None}
    return {
        "instance_id": "a__b-1",
        "run_id": "r",
        "resolved": True,
        "messages": [{**empty, **message} for message in messages],
        "tools": [{"type": "function", "function": {"name": "execute_bash", "parameters": {"enum": None, "x": {}}}}],
        "test_result": {"git_patch": "diff"},
        **fields,
    }


PARALLEL = gym(
    {"role": "system", "content": "S"},
    {"role": "user", "content": "Fix."},
    {
        "role": "assistant",
        "content": "Look at both.",
        "tool_calls": [call("c1", "execute_bash", {"command": "ls"}), call("c2", "str_replace_editor", {"path": "1"})],
    },
    {"role": "tool", "name": "execute_bash", "tool_call_id": "c1", "content": "OBSERVATION:\na"},
    {"role": "tool", "name": "str_replace_editor", "tool_call_id": "c2", "content": "OBSERVATION:\nb"},
    {"role": "assistant", "content": None, "tool_calls": [call("c3", "finish", {})]},
)


def test_parallel_calls_carry_the_thought_once_and_results_their_call():
    row = run("swe-gym", PARALLEL)
    _, _, bash, edit, one, two, end = row["content"]
    assert (bash["description"], "description" in edit, edit["joined"]) == ("Look at both.", False, True)
    assert (bash["call_id"], one["call_id"], edit["call_id"], two["call_id"]) == ("c1", "c1", "c2", "c2")
    assert (one["content"], one["source"], one["name"]) == ("a", "environment", "execute_bash")
    assert end["content"] == "<finish> </finish>"
    assert row["tools"] == [{"type": "function", "function": {"name": "execute_bash", "parameters": {"x": {}}}}]
    assert (row["id"], row["reward"], row["details"]["run_id"]) == ("a__b-1_0", 1.0, "r")


def test_the_published_form_repeats_the_thought_and_interleaves_the_results():
    row = run("swe-gym", PARALLEL, Notes(faithful=True))
    kinds = [(item["class_"], item.get("description")) for item in row["content"]]
    assert kinds == [
        ("text_observation", None),
        ("code_action", "Look at both."),
        ("text_observation", None),
        ("api_action", "Look at both."),
        ("text_observation", None),
        ("message_action", None),
    ]
    assert [item["content"] for item in row["content"][2::2]] == ["a", "b"]
    assert row["content"][-1]["content"] == "<finish> Task completed. </finish>"
    assert row["details"]["resolved"] == "True" and orjson.loads(row["details"]["test_result"]) == {"git_patch": "diff"}


def test_malformed_arguments_are_kept_and_reported():
    notes = Notes()
    broken = {"role": "assistant", "content": "x", "tool_calls": [call("c", "str_replace_editor", '{"path": ')]}
    row = run("swe-gym", gym({"role": "user", "content": "Fix."}, broken), notes)
    assert (row["content"][1]["malformed"], row["content"][1]["kwargs"]) == ('{"path": ', {})
    assert [code for code, _ in notes.flaws] == ["malformed arguments"]
    assert decode(named("swe-gym"), gym(resolved=False), Notes()) == Skip("not resolved")


SUBMIT = "<function=submit>\n</function>"


def smith(*texts, **fields):
    turns = [{"role": "system", "content": "S"}]
    for index, text in enumerate(texts):
        turns.append(text if isinstance(text, dict) else {"role": ("user", "assistant")[index % 2], "content": text})
    return {
        "messages": turns,
        "instance_id": "i",
        "resolved": True,
        "model": "m",
        "traj_id": "t",
        "patch": "p",
        **fields,
    }


def edit(**parameters):
    lines = "".join(f"<parameter={name}>{value}</parameter>\n" for name, value in parameters.items())
    return f"Do.\n\n<function=str_replace_editor>\n{lines}</function>"


def test_arguments_have_the_types_that_the_tool_declares():
    text = edit(command="insert", path="2", new_str="1", insert_line="3", view_range="[1, 2]")
    row = run("swe-smith", smith("Fix.", text, "OBSERVATION:\nok", SUBMIT))
    assert row["content"][2]["kwargs"] == {
        "command": "insert", "path": "2", "new_str": "1", "insert_line": 3, "view_range": [1, 2],
    }  # fmt: skip
    published = run("swe-smith", smith("Fix.", text, "x", SUBMIT), Notes(faithful=True))
    assert (published["content"][1]["kwargs"]["new_str"], published["content"][1]["kwargs"]["path"]) == (1, 2)


@given(TEXT, TEXT)
@settings(max_examples=60, deadline=None)
def test_any_edit_comes_back_to_the_letter(old, new):
    value = smith(
        "Fix.", edit(command="str_replace", path="/a", old_str=f"\n{old}\n", new_str=f"\n{new}\n"), "ok", SUBMIT
    )
    kwargs = run("swe-smith", value)["content"][2]["kwargs"]
    assert (kwargs["old_str"], kwargs["new_str"]) == (old, new)


def test_results_without_the_prefix_come_from_the_environment_all_the_same():
    row = run(
        "swe-smith", smith("Fix.", "<function=bash>\n<parameter=command>ls</parameter>\n</function>", "empty", SUBMIT)
    )
    _, _, bash, seen, end = row["content"]
    assert (bash["class_"], bash["content"], seen["source"], end["function"]) == (
        "code_action",
        "ls",
        "environment",
        "submit",
    )


def test_all_three_call_styles_are_read():
    ticks = smith("Fix.", "Look.\n```\nls\n```", "OBSERVATION:\na", "Done.\n```\nsubmit\n```")
    tool = smith(
        [{"type": "text", "text": "Fix."}],
        {"role": "assistant", "content": "Look.", "tool_calls": [call("c1", "bash", {"command": "ls"})]},
        {"role": "tool", "content": [{"type": "text", "text": "OBSERVATION:\na"}], "tool_call_ids": ["c1"]},
        {"role": "assistant", "content": "Done.", "tool_calls": [call("c2", "submit", {})]},
        {"role": "tool", "content": "diff", "tool_call_ids": ["c2"]},
    )
    tool["messages"] = orjson.dumps(tool["messages"]).decode()
    for value in (ticks, tool):
        _, task, look, seen, end, *_ = run("swe-smith", value)["content"]
        assert (task["content"], look["content"], look["description"]) == ("Fix.", "ls", "Look.")
        assert (seen["content"], seen["source"], end["function"]) == ("a", "environment", "submit")
    assert decode(named("swe-smith"), smith("Fix.", "Look."), Notes()) == Skip("does not end in submit")


def test_a_call_that_is_not_well_formed_stays_text_and_is_reported():
    notes = Notes()
    row = run("swe-smith", smith("Fix.", "<function=bash>\n<parameter=command>ls\n</function>", "?", SUBMIT), notes)
    assert row["content"][2]["class_"] == "message_action"
    assert [code for code, _ in notes.flaws] == ["malformed call"]


def play(*texts):
    turns = [{"role": "system", "content": "Use <function=x>"}]
    turns += [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]
    return {"messages": turns, "category": "general", "source": "s", "id": "swe-play-9"}


def test_a_last_call_that_was_cut_off_is_still_the_final_answer():
    stdin = (
        "<function=execute_bash>\n<parameter=command>y</parameter>\n<parameter=is_input>true</parameter>\n</function>"
    )
    result = "EXECUTION RESULT of [execute_bash]:\ndone"
    last = "<function=finish>\n<parameter=message>All done.</parameter>\n<parameter=task_completed>true</parameter>\n"
    _, _, typed, seen, end = run("swe-play", play("Go.", stdin, result, last))["content"]
    assert (typed["function"], typed["kwargs"]) == ("execute_bash", {"command": "y", "is_input": "true"})
    assert (seen["name"], seen["content"], seen["source"]) == ("execute_bash", "done", "environment")
    assert end["content"] == "<finish> All done. </finish>"
    _, typed, seen, end = run("swe-play", play("Go.", stdin, result, last), Notes(faithful=True))["content"]
    assert (typed["class_"], seen["content"], end["content"]) == ("code_action", result, last.strip())


def test_a_misspelt_call_of_finish_is_read_and_reported():
    notes = Notes()
    last = "<finish>\n<parameter=message>All done.</parameter>\n</finish>"
    assert run("swe-play", play("Go.", last), notes)["content"][-1]["content"] == "<finish> All done. </finish>"
    assert [code for code, _ in notes.flaws] == ["malformed call"]


def test_mini_swe_agent_results_keep_their_return_code():
    prompt = "Your response must contain exactly ONE bash code block with ONE command."
    turns = [("system", prompt), ("user", "Fix."), ("assistant", "THOUGHT: look\n\n```bash\nls\n```"),
             ("user", "<returncode>2</returncode>\n<output>\nno\n</output>")]  # fmt: skip
    value = {
        "messages": [{"role": role, "content": text} for role, text in turns],
        "instance_id": "i",
        "verified": True,
        "patch": "p",
        "model": "m",
    }
    row = run("mini-coder", value)
    _, _, look, seen = row["content"]
    assert (look["content"], look["description"], row["id"]) == ("ls", "look", "i_0")
    assert (seen["is_error"], seen["source"], seen["content"]) == (True, "environment", turns[3][1])
    assert run("mini-coder", value, Notes(faithful=True))["content"][2]["content"] == "no"
