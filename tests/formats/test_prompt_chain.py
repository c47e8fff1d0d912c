"""The reconstruction rule: from model calls that each hold a whole prompt to conversations."""

from hypothesis import given
from hypothesis import strategies as st

from fairtrial.formats.format import Notes, check
from fairtrial.formats.prompt_chain import LlmCall, chains
from fairtrial.formats.span_tree import Node, row_of_nodes

SYSTEM = {"role": "system", "content": "You mend code."}


def user(text):
    return {"role": "user", "content": text}


def said(text, *calls):
    message = {"role": "assistant", "content": text}
    if calls:
        message["tool_calls"] = [
            {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
            for id, name, arguments in calls
        ]
    return message


def result(id, text):
    return {"role": "tool", "tool_call_id": id, "content": text}


def llm(id, at, prompt, *output, parent=None, lasts=1):
    call = {"model": "m", "usage": {"calls": 1}}
    node = Node(id, parent, "llm", "chat", {"whole": id}, {}, at, at + lasts, f"t{at}")
    node.prompt, node.output, node.model_call = list(prompt), list(output), call
    return node


def tool(id, at, name, call_id=None, arguments=None, result=None, parent=None, failed=False):
    node = Node(id, parent, "tool", name, {"whole": id}, {}, at, at + 1, f"t{at}", failed)
    node.call_id, node.arguments, node.result = call_id, arguments, result
    return node


def agent(id, at, name, parent=None):
    return Node(id, parent, "agent", name, {"whole": id}, {}, at, at + 100)


def read(*nodes):
    notes = Notes()
    row = row_of_nodes("trace", "x", nodes, notes)
    check(row)
    return row, notes


def texts(row):
    return [item.get("content", item.get("function")) for item in row["content"]]


ASK = [SYSTEM, user("Mend a.py")]
LOOK = said("I look.", ("c1", "read", '{"path": "a.py"}'))
SEEN = [*ASK, LOOK, result("c1", "print(")]


def test_prompts_that_grow_are_one_conversation_told_once():
    row, notes = read(llm("1", 1, ASK, LOOK), llm("2", 3, SEEN, said("Mended.")))
    assert texts(row) == ["You mend code.", "Mend a.py", "read", "print(", "Mended."]
    assert [item.get("model_call") for item in row["content"]] == [None, None, 0, None, 1]
    assert row["content"][2]["timestamp"] == "t1"
    assert len(row["model_calls"]) == 2
    assert not notes.flaws and "subagents" not in row


def test_the_order_of_spans_in_the_file_does_not_matter():
    nodes = [llm("1", 1, ASK, LOOK), llm("2", 3, SEEN, said("Mended."))]
    assert read(*nodes)[0]["content"] == read(*reversed(nodes))[0]["content"]


def test_a_compacted_context_is_recorded_and_nothing_is_told_twice():
    summary = user("Summary: a.py has a broken print.")
    row, _ = read(
        llm("1", 1, ASK, LOOK),
        llm("2", 3, SEEN, said("More.", ("c2", "read", '{"path": "b.py"}'))),
        llm(
            "3",
            5,
            [SYSTEM, summary, said("More.", ("c2", "read", '{"path": "b.py"}')), result("c2", "ok")],
            said("Done."),
        ),
    )
    assert texts(row) == [
        "You mend code.", "Mend a.py", "read", "print(", "read", "", summary["content"], "ok", "Done.",
    ]  # fmt: skip
    edit = row["content"][5]
    assert (edit["source"], edit["name"], edit["synthetic"]) == ("system", "compaction", True)
    told = edit["extra"]["x"]["context_edit"]
    assert told["removed"] == 3
    assert told["prompt"] == [[0, 1], [5, 6], [4, 5], [6, 7]]


def test_a_cleared_tool_result_is_an_edit_that_names_the_new_words():
    cleared = [*ASK, LOOK, result("c1", "[cleared]")]
    row, _ = read(
        llm("1", 1, ASK, LOOK),
        llm("2", 3, SEEN, said("Next.", ("c2", "ls", "{}"))),
        llm("3", 5, [*cleared, said("Next.", ("c2", "ls", "{}")), result("c2", "a.py")], said("Done.")),
    )
    assert texts(row) == ["You mend code.", "Mend a.py", "read", "print(", "ls", "", "a.py", "Done."]
    assert row["content"][5]["extra"]["x"]["context_edit"]["replaced"]["3"]["content"] == "[cleared]"


def test_a_retry_of_the_same_prompt_is_an_edit():
    row, _ = read(llm("1", 1, ASK, said("No.")), llm("2", 3, ASK, said("Yes.")))
    assert texts(row) == ["You mend code.", "Mend a.py", "No.", "", "Yes."]
    assert row["content"][3]["extra"]["x"]["context_edit"]["removed"] == 1


def test_a_prompt_may_show_an_output_in_other_words():
    shown = {"role": "assistant", "content": "", "tool_calls": LOOK["tool_calls"]}
    row, notes = read(llm("1", 1, ASK, LOOK), llm("2", 3, [*ASK, shown, result("c1", "print(")], said("Mended.")))
    assert texts(row) == ["You mend code.", "Mend a.py", "read", "print(", "Mended."]
    assert row["content"][2]["description"] == "I look."
    assert [reason for reason, _ in notes.rewritten] == ["a later prompt shows this output in other words"]


def test_an_output_that_was_not_recorded_is_taken_from_the_next_prompt():
    row, _ = read(llm("1", 1, ASK), llm("2", 3, SEEN, said("Mended.")))
    assert texts(row) == ["You mend code.", "Mend a.py", "read", "print(", "Mended."]
    assert [item.get("model_call") for item in row["content"]] == [None, None, 0, None, 1]


def test_call_ids_that_only_a_later_prompt_knows_are_added():
    bare = said("I look.", (None, "read", '{"path": "a.py"}'))
    del bare["tool_calls"][0]["id"]
    row, notes = read(llm("1", 1, ASK, bare), llm("2", 3, SEEN, said("Mended.")))
    assert row["content"][2]["call_id"] == row["content"][3]["call_id"] == "c1"
    assert not notes.flaws


def test_a_tool_span_fills_the_result_that_no_prompt_shows():
    row, _ = read(llm("1", 1, ASK, LOOK), tool("t", 2, "read", "c1", None, "print("))
    assert texts(row) == ["You mend code.", "Mend a.py", "read", "print("]
    assert row["content"][3]["call_id"] == "c1"
    assert row["content"][3]["name"] == "read"


def test_tool_spans_without_ids_go_to_the_call_with_their_arguments():
    ask = said(None, ("c1", "add", '{"x": 1}'), ("c2", "add", '{"x": 2}'))
    row, _ = read(
        llm("1", 1, ASK, ask),
        tool("b", 2, "add", None, '{"x": 2}', "two"),
        tool("a", 3, "add", None, {"x": 1}, "one", failed=True),
    )
    results = {item["call_id"]: item for item in row["content"] if item.get("source") == "environment"}
    assert {id: item["content"] for id, item in results.items()} == {"c1": "one", "c2": "two"}
    assert results["c1"]["is_error"] is True


def test_a_result_in_a_prompt_is_what_the_agent_saw_and_the_span_keeps_the_rest():
    long = tool("t", 2, "read", "c1", None, "print(" + "x" * 50)
    row, _ = read(llm("1", 1, ASK, LOOK), long, llm("2", 3, SEEN, said("Mended.")))
    assert texts(row)[3] == "print("
    kept = next(span for span in row["extra"]["x"]["spans"] if span["id"] == "t")
    assert kept["whole"] == "t"  # the span is kept whole, as its result is not what the row shows


def test_an_execution_that_no_message_asks_for_stands_where_time_puts_it():
    row, _ = read(
        llm("1", 1, ASK, said("One.")),
        tool("t", 3, "tidy", None, {"deep": True}, "ok"),
        llm("2", 5, [*ASK, said("One."), user("go")], said("Two.")),
    )
    assert texts(row) == ["You mend code.", "Mend a.py", "One.", "go", "tidy", "ok", "Two."]
    assert row["content"][4]["kwargs"] == {"deep": True}


def test_an_agent_that_a_tool_starts_is_a_sub_agent_named_by_its_result():
    ask = said(None, ("c1", "research", '{"topic": "x"}'))
    row, _ = read(
        agent("A", 0, "lead"),
        llm("1", 1, ASK, ask, parent="A"),
        tool("T", 2, "research", "c1", None, "x is y", parent="A"),
        agent("B", 2, "researcher", parent="T"),
        llm("2", 3, [user("topic x")], said("x is y"), parent="B"),
        llm("3", 5, [*ASK, ask, result("c1", "x is y")], said("Done."), parent="A"),
    )
    assert texts(row) == ["You mend code.", "Mend a.py", "research", "x is y", "Done."]
    (sub,) = row["subagents"]
    assert texts(sub) == ["topic x", "x is y"]
    assert sub["details"] == {"agent": "researcher"}
    assert row["content"][3]["subagents"] == [sub["id"]]
    assert len(row["model_calls"]) == 2 and len(sub["model_calls"]) == 1


def test_a_forked_agent_with_the_same_prompt_does_not_swallow_the_run():
    ask = said(None, ("c1", "fork", "{}"))
    forked = [*ASK, ask, result("c1", "you are the fork")]
    row, _ = read(
        llm("1", 1, ASK, ask),
        tool("T", 2, "fork", "c1", None, "fork is done"),
        llm("2", 3, forked, said("I am done."), parent="T"),
        llm("3", 5, [*ASK, ask, result("c1", "fork is done")], said("All done.")),
    )
    assert texts(row)[-2:] == ["fork is done", "All done."]
    assert texts(row["subagents"][0])[-1] == "I am done."


def test_calls_side_by_side_and_calls_for_other_purposes_are_runs_of_their_own():
    row, _ = read(
        llm("1", 1, ASK, LOOK, lasts=3),
        llm("title", 2, [{"role": "system", "content": "Name this chat."}, user("Mend a.py")], said("Mending")),
        llm("twin", 2, ASK, said("Another take.")),
        llm("2", 5, SEEN, said("Mended.")),
    )
    assert texts(row)[-1] == "Mended."
    assert sorted(texts(sub)[-1] for sub in row["subagents"]) == ["Another take.", "Mending"]


def test_turns_of_one_conversation_in_separate_agent_spans_are_one_run():
    row, _ = read(
        agent("A", 0, "bot"),
        llm("1", 1, [user("hi")], said("hello"), parent="A"),
        agent("B", 5, "bot"),
        llm("2", 6, [user("hi"), said("hello"), user("bye")], said("ciao"), parent="B"),
    )
    assert texts(row) == ["hi", "hello", "bye", "ciao"]
    assert "subagents" not in row


def test_of_a_call_that_two_layers_recorded_one_counts():
    row, _ = read(llm("1", 1, ASK, said("Done."), lasts=4), llm("inner", 2, ASK, said("Done."), parent="1"))
    assert texts(row) == ["You mend code.", "Mend a.py", "Done."]
    assert len(row["model_calls"]) == 1
    assert [span["id"] for span in row["extra"]["x"]["spans"]] == ["1", "inner"]


def test_a_new_system_prompt_does_not_end_the_conversation():
    other = {"role": "system", "content": "You review code."}
    row, _ = read(
        llm("1", 1, ASK, said("Done.")), llm("2", 3, [other, *ASK[1:], said("Done."), user("Check")], said("Fine."))
    )
    assert texts(row) == ["You mend code.", "Mend a.py", "Done.", "", "You review code.", "Check", "Fine."]


MESSAGES = st.sampled_from(
    [SYSTEM, user("a"), user("b"), said("a"), said("b"), LOOK, result("c1", "r"), result("c1", "s"), user("")]
)
CALLS = st.builds(
    lambda prompt, output, began, lasts, scope: LlmCall("?", prompt, output, None, began, began + lasts, None, scope),
    st.lists(MESSAGES, max_size=6),
    st.lists(MESSAGES, max_size=2),
    st.integers(0, 5),
    st.integers(0, 3),
    st.sampled_from([None, "A", "B"]),
)


@given(st.lists(CALLS, max_size=7))
def test_every_prompt_can_be_told_again_from_its_chain(calls):
    calls = [
        LlmCall(
            str(n), *[getattr(c, f) for f in ("prompt", "output", "model_call", "began", "ended", "timestamp", "scope")]
        )
        for n, c in enumerate(calls)
    ]
    found = chains(calls, {"A": {None}, "B": {None, "A"}})
    assert sorted(call.id for chain in found for call in chain.calls) == sorted(call.id for call in calls)
    for chain in found:
        spoken = [message for call in chain.calls for message in call.output]
        for message in spoken:
            assert message in chain.messages
        for call in chain.calls:
            shown = [*chain.messages, *chain.reworded]
            shown += [m for edits in chain.edits.values() for edit in edits for m in edit.replaced.values()]
            for message in call.prompt:
                assert any(same(message, other) for other in shown)


def same(left, right):
    return all((left.get(key) or "") == (right.get(key) or "") for key in ("role", "content", "tool_call_id"))
