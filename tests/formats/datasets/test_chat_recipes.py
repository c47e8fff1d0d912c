"""The conversation recipes on rows of our own: what is mended in clean mode, what leaves a row out."""

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairtrial.core.registry import names
from fairtrial.formats.format import Notes, RowError, Skip, decode, named

FAMILIES = (
    "agentinstruct-",
    "code-feedback",
    "codeactinstruct",
    "mini-coder",
    "nebius",
    "orca-",
    "swe-gym",
    "swe-play",
    "swe-smith",
)
DATA_SETS = [name for name in names("formats") if name.startswith(FAMILIES)]


def chat(id, *texts, field="conversations", first="user"):
    roles = ("user", "assistant") if first == "user" else ("system", "user", "assistant")
    turns = [{"role": roles[0], "content": texts[0]}] if first == "system" else []
    for index, text in enumerate(texts[len(turns) :]):
        turns.append({"role": "user" if index % 2 == 0 else "assistant", "content": text})
    return {"id": id, field: turns}


def items(name, value, notes=None):
    row = decode(named(name), value, notes or Notes())
    assert not isinstance(row, Skip), row.reason
    return row["content"]


def reason(name, value):
    row = decode(named(name), value, Notes())
    assert isinstance(row, Skip)
    return row.reason


HOUSE = (
    "Interact with a household to solve a task. Here you are. Choose one in this turn."
    ' You should choose from two actions: "THOUGHT" or "ACTION". If ... format:"ACTION: your next action\n".'
    " After your each turn, look."
)


def test_household_actions_become_calls_and_answers_come_from_the_house():
    value = {
        "id": "alfworld_1",
        "conversations": [
            {"from": "human", "loss": None, "value": HOUSE},
            {"from": "gpt", "loss": False, "value": "OK."},
            {"from": "human", "loss": None, "value": "Your task is to: cool a pan."},
            {
                "from": "gpt",
                "loss": True,
                "value": "THOUGHT: The ACTION: part comes last.\nACTION: Take pan 1 from shelf 2",
            },
            {"from": "human", "loss": None, "value": "You pick up the pan 1."},
            {"from": "gpt", "loss": True, "value": "ACTION: cool pan 1 with fridge 1"},
            {"from": "human", "loss": None, "value": "You cool it."},
            {"from": "gpt", "loss": True, "value": "ACTION: Task succeeded."},
        ],
    }
    first, ok, task, take, got, cool, cooled, over = items("agentinstruct-alfworld", value)
    assert first["content"] == (
        "Interact with a household to solve a task. Here you are. Choose one in this turn. After your each turn, look."
    )
    assert (ok["class_"], ok["loss"]) == ("message_action", False)
    assert (task["source"], got["source"], cooled["source"]) == ("user", "environment", "environment")
    assert (take["function"], take["kwargs"]) == ("take", {"item": "pan 1", "source": "shelf 2"})
    assert take["description"] == "The ACTION: part comes last."
    assert (cool["kwargs"], "description" in cool) == ({"item": "pan 1", "appliance": "fridge 1"}, False)
    assert (over["class_"], over["content"]) == ("message_action", "<finish> Task succeeded. </finish>")


def test_an_unknown_household_action_leaves_the_row_out_instead_of_cutting_it():
    value = chat("alfworld_2", HOUSE, "OK.", "Task: x.", "ACTION: go to shelf 1", "Nothing.", "ACTION: dance")
    assert reason("agentinstruct-alfworld", value) == "an action that the household does not know"


def test_rows_that_the_extraction_leaves_out():
    two = {"id": 1, "conversations": [{"role": r, "content": "x"} for r in ("user", "assistant", "assistant")]}
    assert reason("agentinstruct-os", two) == "two assistant turns in a row"
    assert reason("agentinstruct-os", {"id": 1, "conversations": two["conversations"][1:2]}).startswith("no user")
    assert (
        reason("agentinstruct-db", {"id": 1, "conversations": two["conversations"][::-1]})
        == "starts with the assistant"
    )


def test_database_operations_are_code_and_only_the_answer_is_final():
    operation = "Look it up.\nAction: Operation\n```sql\nSELECT 1;\n```\nThen we see."
    answer = 'It is one.\nAction: Answer\nFinal Answer: ["1"]'
    value = chat("db_1", "I will ask you a question, then ...", "Ok.", "One?", operation, "[(1,)]", answer)
    *_, query, comment, result, final = items("agentinstruct-db", value)
    assert (query["language"], query["content"], query["description"]) == ("mysql", "SELECT 1;", "Look it up.")
    assert (comment["content"], comment["joined"], result["source"]) == ("Then we see.", True, "environment")
    assert (final["content"], final["description"]) == ('<finish> <solution> ["1"] </solution> </finish>', "It is one.")
    assert (
        reason("agentinstruct-db", chat("db_2", "x", operation.removesuffix("\nThen we see.")))
        == "ends without an answer"
    )


KB = (
    "You are an agent that answers questions based on the knowledge stored in a knowledge base. Use:\n\n"
    "1. get_relations(variable: var) -> list\nA tool.\n\nAfter a variable is produced, judge.\n"
    "Respond with 'Final Answer: #id'.\n\nYou can only take ONE action at a time!!"
)


def test_knowledge_base_calls_keep_commas_in_names_and_count_arguments():
    def run(call):
        return chat("kg_1", KB, "I see.", "Q?", f"Thought: t\nAction: {call}", "Observation: [a.b]", "Final Answer: #0")

    first, agreed, _, call, seen, final = items("agentinstruct-kg", run("get_relations(Paris, Texas)"))
    assert "1. get_relations" not in first["content"] and "'<solution> #id </solution>'" in first["content"]
    assert agreed["class_"] == "message_action"
    by_relation = items("agentinstruct-kg", run("get_neighbors(Paris, Texas, a.b)"))[3]
    assert by_relation["kwargs"] == {"variable": "Paris, Texas", "relation": "a.b"}
    assert (call["kwargs"], call["description"]) == ({"variable": "Paris, Texas"}, "t")
    assert (seen["content"], seen["source"]) == (" [a.b]", "environment")
    assert final["content"] == "<finish> <solution> #0 </solution> </finish>"
    assert reason("agentinstruct-kg", run("intersection(#0)")) == "a call whose arguments do not fit the tool"
    assert reason("agentinstruct-kg", run("drop(#0)")) == "a call of no known tool"
    unanswered = run("count(#0)")
    assert reason("agentinstruct-kg", {**unanswered, "conversations": unanswered["conversations"][:-1]}).startswith(
        "ends"
    )


def test_knowledge_base_published_form():
    value = chat(
        "kg_1", KB, "I see.", "Q?", "Thought: t\nAction: count(#0)", "Observation: 3", "Thought: so\nFinal Answer: #0"
    )
    first, agreed, _, call, seen, answer, praise, end = items("agentinstruct-kg", value, Notes(faithful=True))
    rewritten = "'<solution> #id </solution>'.\nYou can only take ONE action at a time!!\n\nOk? Understood?"
    assert first["content"].endswith(rewritten)
    assert (agreed["class_"], agreed["source"], seen["source"]) == ("text_observation", "agent", "user")
    assert call["extra"] == {"adp-v1": {"printed": {"variable": "'#0'"}}}
    assert (answer["content"], answer["description"]) == ("<solution> #0 </solution>", "so")
    assert praise["synthetic"] and end["synthetic"] and end["content"].startswith("<finish> ")


def test_an_option_that_is_not_on_offer_leaves_the_row_out():
    question = "'''\n<html></html>\n'''\n\nBased on the HTML webpage above, try ...\n\nA. None\nB. <a>"
    (_, answer) = items("agentinstruct-mind2web", chat("m", question, "Thought: t\nAnswer: B.\nAction: CLICK"))
    assert (answer["content"], answer["description"]) == ("<finish> B.\nAction: CLICK </finish>", "t")
    assert reason("agentinstruct-mind2web", chat("m", question, "Thought: t\nAnswer: C.")).startswith(
        "the chosen option"
    )


def test_shell_acts():
    start = "You are an assistant that ... Now, my problem is:\n\nCount?"
    steps = (
        "Think: a\n\nAct: bash\n\n```bash\nls | wc -l\n```",
        "The output of the OS:\n3",
        "Think: b\n\nAct: answer(f(3))",
    )
    task, code, seen, answer = items("agentinstruct-os", chat("os_1", start, *steps))
    assert task["content"].startswith("Count?\n\n")
    assert (code["content"], code["description"], seen["content"]) == ("ls | wc -l", "a", "3")
    assert (seen["source"], answer["content"]) == ("environment", "<finish> <solution> f(3) </solution> </finish>")
    assert reason("agentinstruct-os", chat("os_1", start, "Think: a\n\nAct: reboot")).startswith("an act other than")


def test_shop_steps_that_do_not_parse_leave_the_row_out():
    start = (
        "You are web shopping.\nIf not valid, nothing.\nYour response should use the following format:\n\nThought:\nx"
    )
    good = "Thought:\nlook\n\nAction:\nsearch[a [b] c]"
    first, _, _, call = items("agentinstruct-webshop", chat("w", start, "Ok.", "Shop", good))
    assert first["content"] == "You are web shopping.\nIf not valid, nothing."
    assert (call["function"], call["kwargs"]) == ("search", {"keywords": "a [b] c"})
    assert reason("agentinstruct-webshop", chat("w", start, "Ok.", "Shop", "Thought:\nx\nAction:\nbuy[1]")).startswith(
        "a step"
    )


def test_all_code_and_all_text_of_a_turn_is_kept():
    answer = "First:\n\n```python\na = 1\n```\n\nthen\n\n```Bash\nls\n```\n\nas text\n\n```text\nnot code\n```\nbye"
    value = chat(7, "Do it", answer, "Execution result: \n1\n", "Done.", field="messages")
    asked, python, bash, rest, result, final = items("code-feedback", value)
    assert (python["content"], python["description"], "joined" in python) == ("a = 1", "First:", False)
    assert (bash["language"], bash["content"], bash["description"], bash["joined"]) == ("bash", "ls", "then", True)
    assert (rest["content"], rest["joined"]) == ("as text\n\n```text\nnot code\n```\nbye", True)
    assert (result["source"], result["content"], final["content"]) == ("environment", "1\n", "<finish> Done. </finish>")
    assert (asked["source"], decode(named("code-feedback"), value, Notes())["id"]) == ("user", "7")


def test_the_published_form_says_what_it_loses():
    value = chat(7, "Do it", "A\n```python\na = 1\n```\nB\n```python\nb\n```", field="messages")
    notes = Notes(faithful=True)
    _, code, *closing = items("code-feedback", value, notes)
    assert (code["content"], code["description"]) == ("a = 1", "A\n")
    assert ("lost by the published form", "\nB\n```python\nb\n```") in notes.dropped
    assert [item["synthetic"] for item in closing] == [True, True]
    assert {text for why, text in notes.invented if why == "closing exchange"} == {
        closing[0]["content"],
        closing[1]["content"].removeprefix("<finish> ").removesuffix(" </finish>"),
    }


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="`"), max_size=20),
            st.sampled_from(["python", "bash", "c++"]),
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="`\r"), min_size=1, max_size=30),
        ),
        max_size=4,
    )
)
@settings(max_examples=60, deadline=None)
def test_any_mixture_of_text_and_code_comes_back(parts):
    answer = "".join(f"{text}\n```{language}\n{code}\n```\n" for text, language, code in parts) + "end"
    _, *response = items("code-feedback", chat(1, "x", answer, field="messages"))
    found = [(item.get("description") or "", item["language"], item["content"]) for item in response[:-1]]
    assert found == [(text.strip(), language, code) for text, language, code in parts]
    assert response[-1]["content"] == "<finish> end </finish>"


def test_orca_rows_come_as_json_text_without_an_id():
    turns = [
        {"role": "system", "content": ""},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ho"},
    ]
    value = {"messages": orjson.dumps(turns).decode()}
    format = named("orca-agentinstruct")
    row = decode(format, value, Notes())
    assert row["id"] == decode(format, value, Notes())["id"] != decode(format, {"messages": "[]"}, Notes())["id"]
    assert [item["content"] for item in row["content"]] == ["Hi", "<finish> Ho </finish>"]
    assert format.likes(value) > 80


def test_code_and_solutions_in_tags():
    prompt = "Use <execute> or <solution> tags."
    texts = (
        "Task:\nSum?",
        "Add. <execute>print(1+1)</execute> then <execute>2</execute>",
        "Observation:\n2",
        "So <solution>2</solution>.",
    )
    system, task, one, two, seen, final = items("codeactinstruct", chat("c", prompt, *texts, first="system"))
    assert (system["source"], task["content"], seen["source"]) == ("system", "Sum?", "environment")
    assert (one["content"], one["description"]) == ("print(1+1)", "Add.")
    assert (two["content"], two["description"], two["joined"]) == ("2", "then", True)
    assert (final["content"], final["description"]) == ("<finish> <solution> 2 </solution> </finish>", "So")


def test_endings_are_optional_tagged_and_chosen_by_the_id():
    def run(id, **settings):
        return items("code-feedback", chat(id, "x", "```python\n1\n```", field="messages"), Notes(**settings))

    assert len(run(1)) == 2
    assert all(item["synthetic"] for item in run(1, endings=True)[2:])
    assert run(1, endings=True) == run(1, endings=True)
    assert len({orjson.dumps(run(id, endings=True)) for id in range(30)}) > 5


ODD = [None, 3, "x", [], {}, {"id": 1}, {"id": 1, "conversations": 3, "messages": 3}]
ODD.append({"id": 1, "conversations": [1], "messages": [{"role": "user"}, {"role": "x"}]})


@pytest.mark.parametrize("name", DATA_SETS)
@pytest.mark.parametrize("value", ODD)
def test_a_value_of_another_shape_is_that_rows_error(name, value):
    with pytest.raises(RowError) as caught:
        row = decode(named(name), value, Notes())
        assert isinstance(row, Skip)
        raise RowError(row.reason)
    assert "\n" not in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "messages", "conversations", "role", "from", "content", "value"]), inner
        )
    ),
    max_leaves=8,
)


@given(json_values)
@settings(max_examples=80, deadline=None)
def test_recognising_never_raises(value):
    for name in DATA_SETS:
        assert 0 <= named(name).likes(value) <= 100
