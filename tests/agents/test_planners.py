"""Every dialect reads what it writes, and nothing that a model may write slips through unread (trap 11)."""

import time
from random import Random
from typing import Any

import pytest

from fairtrial.agents.context.tags import apart
from fairtrial.agents.planners.opening import open_planner
from fairtrial.agents.planners.plan import Node, Plan, Ref, Template, refs
from fairtrial.agents.planners.planner import Move, RejectedTurn
from fairtrial.core.errors import UserError
from fairtrial.models.model import ToolCall


def tool(name: str, required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    if properties:
        parameters["additionalProperties"] = False
    return {"type": "function", "function": {"name": name, "description": name, "parameters": parameters}}


TEXT = {"type": "string"}
SEARCH = tool("search", ("query",), query=TEXT, k={"type": "integer"})
VISIT = tool("visit", ("title",), title=TEXT)
READ = tool("read", ("question", "document"), question=TEXT, document=TEXT)
ANY = tool("any")
TOOLS = [SEARCH, VISIT, ANY, READ]
GRAPHS: dict[str, Any] = {
    "nodes": open_planner("graph"),
    "tasks": open_planner({"id": "graph", "dialect": "tasks"}),
    "compiler": open_planner("compiler"),
    "rewoo": open_planner("rewoo"),
}
NAMES = {"nodes": "s{}", "tasks": "T{}", "compiler": "{}", "rewoo": "E{}"}


def planned(planner: Any, text: str, tools: Any = TOOLS) -> Plan:
    plan = planner.read(text, (), tools).plan
    assert plan is not None
    return plan


def rejection(planner: Any, text: str, calls: tuple[ToolCall, ...] = (), tools: Any = TOOLS) -> tuple[str, str]:
    with pytest.raises(RejectedTurn) as caught:
        planner.read(text, calls, tools)
    assert "\n" not in str(caught.value)
    return caught.value.code, str(caught.value)


# ---- read(write(move)) is the move again


NASTY = [
    *(
        "{s1}",
        "{T1}",
        "{{s1}}",
        "$1",
        "$10",
        "$$1",
        "${1}",
        "#E1",
        "#E10",
        "#{E1.a}",
        "\\",
        '"',
        "'",
        "|",
        "<a|b>",
        "]",
        "}",
    ),
    *(
        "</node>",
        "</graph>",
        "<answer>no</answer>",
        "<tool_call>",
        "</tool_call>",
        "<think>",
        "\n",
        "\nT2: search(",
        "0",
    ),
    *(
        "\n2. search('x')",
        "\n#E2 = search[x]",
        "\n- Dependencies: T9",
        "Action: any",
        "1.5",
        ".title",
        "\u2028",
        "\x00",
        " ",
    ),
]


def words(rng: Random) -> str:
    """Text of pieces that mean something in some dialect, and of any characters."""
    pieces = [
        rng.choice(NASTY) if rng.random() < 0.6 else chr(rng.randrange(1, 0xD800)) for _ in range(rng.randrange(5))
    ]
    return "".join([*pieces, *(["\U0001f600"] if rng.random() < 0.1 else [])])


def key(rng: Random) -> str:
    return rng.choice(["a", "b_c", "query", "_", "X9"]) + str(rng.randrange(9))


def ref(rng: Random, ids: list[str]) -> Ref:
    path = [
        rng.choice([rng.randrange(100), "title", "born in", "", "a-b", "_x1", "0"]) for _ in range(rng.randrange(3))
    ]
    return Ref(rng.choice(ids), tuple(path))


def template(rng: Random, ids: list[str]) -> Template:
    parts: list[str | Ref] = []
    for _ in range(rng.randrange(1, 4)):
        parts += [words(rng), ref(rng, ids)]
    return Template(tuple(part for part in [*parts, words(rng)] if part != ""))


def value(rng: Random, ids: list[str], depth: int = 0) -> Any:
    kind = rng.randrange(11 if depth < 3 else 8)
    if kind < 2 and ids:
        return (ref if kind else template)(rng, ids)
    if kind < 5:
        return words(rng)
    if kind < 8:
        return rng.choice([None, True, False, 0, -7, 10**30, 0.1, -1e-9, 1e300, 2.0])
    if kind == 8:
        return {words(rng): value(rng, ids, depth + 1) for _ in range(rng.randrange(3))}
    return [value(rng, ids, depth + 1) for _ in range(rng.randrange(3))]


def random_plan(rng: Random, dialect: str) -> Plan:
    graph = dialect in ("nodes", "tasks")
    nodes: list[Node] = []
    for number in range(1, rng.randrange(2, 14)):
        earlier = [node.id for node in nodes]
        args = {key(rng): value(rng, earlier) for _ in range(rng.randrange(4))}
        needs = [ref.node for ref in refs(args)]
        if graph and earlier:
            needs += [rng.choice(earlier) for _ in range(rng.randrange(3))]
        nodes.append(Node(NAMES[dialect].format(number), "any", args, tuple(dict.fromkeys(needs))))
    return Plan(tuple(rng.sample(nodes, len(nodes)) if graph else nodes))


@pytest.mark.parametrize("dialect", GRAPHS)
def test_a_dialect_reads_the_plan_that_it_writes(dialect: str) -> None:
    planner: Any = GRAPHS[dialect]
    for seed in range(400):
        rng = Random(seed)
        plan = random_plan(rng, dialect)
        text, calls = planner.write(Move(plan=plan))
        assert calls == ()
        read = planned(planner, f"Some words before.\n{text}\n")
        assert repr(read) == repr(plan), seed  # 1, 1.0 and True are equal to Python and not to a tool
        # of the unfinished text come the first nodes, and in the end all of them
        so_far = planner.nodes_so_far(text[: rng.randrange(len(text))], TOOLS)
        assert so_far == plan.nodes[: len(so_far)], seed
        assert planner.nodes_so_far(f"<think>perhaps {text[:9]}</think>{text}\n", TOOLS) == plan.nodes, seed


@pytest.mark.parametrize("spec", ["react", {"id": "react", "dialect": "action"}, "native"])
def test_single_calls_and_native_calls_read_what_they_write(spec: Any) -> None:
    planner = open_planner(spec)
    for seed in range(300):
        rng = Random(seed)
        args = [
            {words(rng): value(rng, []) for _ in range(3)}
            for _ in range(rng.randrange(1, 5) if spec == "native" else 1)
        ]
        plan = Plan(tuple(Node(str(n), "any", each) for n, each in enumerate(args, start=1)))
        text, calls = planner.write(Move(plan=plan))
        assert repr(planner.read(text, calls, TOOLS).plan) == repr(plan), seed


def test_calls_joined_by_bars_read_back_with_bars_in_their_texts() -> None:
    planner = open_planner({"id": "graph", "dialect": "joined"})
    argument = {"search": "query", "visit": "title"}
    for seed in range(300):
        rng = Random(seed)
        texts = ["".join(rng.choices("ab |{}$\"'", k=6)) + "x" for _ in range(rng.randrange(1, 6))]
        names = [rng.choice(["search", "visit"]) for _ in texts]
        plan = Plan(
            tuple(
                Node(f"T{number}", name, {argument[name]: text.strip()})
                for number, (name, text) in enumerate(zip(names, texts, strict=True), start=1)
            )
        )
        assert planned(planner, planner.write(Move(plan=plan))[0]) == plan


@pytest.mark.parametrize("spec", ["react", "native", "graph", "compiler", "rewoo"])
def test_answers_come_between_tags_and_the_last_one_counts(spec: str) -> None:
    planner = open_planner(spec)
    for answer in ("Paris", "a|b", "1. search(x)", "two\nlines"):
        move = Move(answer=answer)
        assert planner.read(*planner.write(move), TOOLS).answer == answer
    assert planner.read("<answer>no</answer> wait <answer> yes </answer>", (), TOOLS).answer == "yes"
    assert rejection(planner, "<answer> </answer>")[0] == "empty-answer"
    assert rejection(planner, "<answer>Par")[0] == "malformed"
    assert rejection(planner, "I do not know.")[0] == "no-action"
    with pytest.raises(ValueError, match="between tags"):
        planner.write(Move(answer="</answer>"))


def test_a_plan_with_other_names_is_written_under_the_dialects_own() -> None:
    plan = Plan(
        (Node("hop one", "search", {"query": "x"}), Node("2", "visit", {"title": Ref("hop one")}, ("hop one",)))
    )
    for dialect, planner in GRAPHS.items():
        first, second = planned(planner, planner.write(Move(plan=plan))[0]).nodes
        assert first.id == NAMES[dialect].format(1)
        assert second.args == {"title": Ref(first.id)}


@pytest.mark.parametrize("spec", ["react", {"id": "react", "dialect": "action"}, "graph", "compiler", "rewoo"])
def test_the_form_that_the_rules_show_is_read(spec: Any) -> None:
    planner = open_planner(spec)
    rules = planner.rules(TOOLS)
    assert '"name": "search"' in rules
    form = rules.rsplit("\n\n", 1)[0]
    for start in ("<graph>\n", "<tool_call>", "Action: ", "1. search", "#E1 = search"):
        if start in form:
            assert planned(planner, form[form.rindex(start) :]).nodes[0].tool == "search"
            break
    else:
        raise AssertionError("the rules show no form")
    assert planner.rules([]) != ""


# ---- the published forms


def test_the_graph_of_the_paper_is_read() -> None:
    text = """<think>two cities</think>
<graph>
  <node id="s1">search("capital of France")</node>
  <node id='s2'>search("capital of Spain", k=3)</node>
  <node id="s3" depends="s1, s2">read('larger of {s1[0].title} and {s2}?', {s1})</node>
</graph>"""
    question = Template(("larger of ", Ref("s1", (0, "title")), " and ", Ref("s2"), "?"))
    assert planned(GRAPHS["nodes"], text).nodes == (
        Node("s1", "search", {"query": "capital of France"}),
        Node("s2", "search", {"query": "capital of Spain", "k": 3}),
        Node("s3", "read", {"question": question, "document": Ref("s1")}, ("s1", "s2")),
    )


def test_tasks_with_dependencies_are_read_and_notes_in_prose_are_not_calls() -> None:
    planner = open_planner("graph")
    text = '<plan>\nT1: search("a")\n- Dependencies: none\nT2: visit({T1})\n- Dependencies: T1\n</plan>'
    assert planned(planner, text).nodes[1] == Node("T2", "visit", {"title": Ref("T1")}, ("T1",))
    notes = "<plan>\nT1: find a\n- Dependencies: none\n</plan>\n<search>query a|query \\| b</search>\n<visit>c</visit>"
    assert planned(planner, notes).nodes == (
        Node("T1", "search", {"query": "query a"}),
        Node("T2", "search", {"query": "query | b"}),
        Node("T3", "visit", {"title": "c"}),
    )
    assert rejection(planner, "T1: look for a\nT2: search('b')\n- Dependencies: none")[0] == "malformed"
    assert rejection(planner, "<serch>a</serch>") == (
        "unknown-tool",
        'there is no tool "serch"; did you mean "search"?',
    )


def test_the_compilers_plan_is_read_with_thoughts_and_join() -> None:
    text = 'Thought: both at once\n1. search("a")\n2. search("b", 4)\nThought: then\n3. read("which?", "$1 or ${2}0")\n'
    plan = planned(GRAPHS["compiler"], f"{text}4. join()<END_OF_PLAN>")
    assert [node.id for node in plan.nodes] == ["1", "2", "3"]
    assert plan.nodes[2].args["document"] == Template((Ref("1"), " or ", Ref("2"), "0"))
    assert plan.nodes[2].deps == ("1", "2")


def test_rewoos_evidence_is_read_beyond_e9_and_llm_is_a_reader() -> None:
    lines = [f"Plan: next\n#E{n} = search[fact [{n}]{f' after #E{n - 1}' if n > 1 else ''}]" for n in range(1, 13)]
    plan = planned(GRAPHS["rewoo"], "\n".join([*lines, "#E13 = LLM[Who wrote \\#E1? Given context: #E12, #E1]"]))
    assert plan.nodes[10].args["query"] == Template(("fact [11] after ", Ref("E10")))
    assert plan.nodes[12] == Node(
        "E13",
        "read",
        {"question": "Who wrote #E1?", "document": Template((Ref("E12"), "\n\n", Ref("E1")))},
        ("E12", "E1"),
    )


def test_react_reads_both_forms_and_refuses_made_up_results() -> None:
    planner = open_planner("react")
    want = (Node("1", "search", {"query": "a\nb"}),)
    assert (
        planned(planner, 'I look.\n<tool_call>{"name": "search", "arguments": {"query": "a\nb"}}</tool_call>').nodes
        == want
    )
    line = 'Thought: I look.\nAction: search\nAction Input: {"query": "a\\nb"}\n'
    assert planned(planner, line).nodes == want
    assert rejection(planner, f"{line}Observation: found it")[0] == "observation"
    assert rejection(planner, line + line)[0] == "two-moves"
    assert rejection(planner, "Action: search\nAction Input: {oops")[0] == "malformed"
    assert rejection(planner, '<tool_call>{"name": "search", "arguments": "a"}</tool_call>')[0] == "malformed"
    assert rejection(planner, '<tool_call>{"name": "search", "args": {}}</tool_call>')[0] == "malformed"
    assert rejection(planner, f"{line}<answer>a</answer>")[0] == "two-moves"


def test_native_calls_that_are_no_json_or_no_tool_are_told_with_the_nearest_name() -> None:
    planner = open_planner("native")
    call = ToolCall(id="c1", name="search", arguments='{"query": "a"}')
    assert planner.read("", (call,), TOOLS).plan == Plan((Node("c1", "search", {"query": "a"}),))
    for bad in ("{", "[1]", '{"query": NaN}', '{"query": "\\ud800"}', "[" * 100_000):
        assert rejection(planner, "", (call.model_copy(update={"arguments": bad}),))[0] == "malformed"
    assert rejection(planner, "", (call.model_copy(update={"name": "searhc"}),)) == (
        "unknown-tool",
        'there is no tool "searhc"; did you mean "search"?',
    )
    # servers that number the calls of each reply from 0, or give no ids at all
    twice = planner.read("", (call, call), TOOLS).plan
    assert twice is not None
    assert [node.id for node in twice.nodes] == ["1", "2"]
    assert open_planner({"id": "native", "answer": "text"}).read("Paris", (), TOOLS).answer == "Paris"


# ---- trap 11: placeholders


@pytest.mark.parametrize(
    ("dialect", "text", "code"),
    [
        ("compiler", '1. search("a")\n2. search("$2")', "self-reference"),
        ("compiler", '1. search("$2")\n2. search("a")', "forward-reference"),
        ("compiler", '1. search("a")\n10. search("b")\n11. search("$100")', "unknown-reference"),
        ("compiler", '1. search("a")\n1. search("b")', "duplicate-id"),
        ("compiler", '1. search("a costs $1.50")', "ambiguous-reference"),
        ("compiler", '1. serch("a")', "unknown-tool"),
        ("compiler", '1. search("a", k="many")', "schema"),
        ("compiler", "1. search(qury='a')", "schema"),
        ("compiler", "1. search('a', 1, 2)", "schema"),
        ("compiler", "1. search('a', query='b')", "schema"),
        ("compiler", "1. search('a'", "malformed"),
        ("compiler", "1. search('a') then 2", "malformed"),
        ("compiler", "1. search 'a'\n2. search('b')", "malformed"),
        ("compiler", "1. search('\\d')", "malformed"),
        ("compiler", "1. search('\\ud800')", "malformed"),
        ("compiler", f"1. any(x={'[' * 5000})", "malformed"),
        ("compiler", f"1. any(x={'9' * 5000})", "malformed"),
        ("compiler", "1. any(x=1e999)", "malformed"),
        ("nodes", '<graph><node id="a">search("{b}")</node></graph>', "unknown-reference"),
        (
            "nodes",
            '<graph><node id="a">search("x")</node><node id="b">search("{a}")</node></graph>',
            "undeclared-reference",
        ),
        ("nodes", '<graph><node id="a" depends="a">search("x")</node></graph>', "self-reference"),
        (
            "nodes",
            '<graph><node id="a" depends="c">search("x")</node><node id="b" depends="a">search("x")</node>'
            '<node id="c" depends="b">search("x")</node></graph>',
            "cycle",
        ),
        ("nodes", '<graph><node id="a">search("x")</node><node id="a">search("y")</node></graph>', "duplicate-id"),
        ("nodes", '<graph><node id="a">search("x")</node>', "malformed"),
        ("nodes", '<graph><node id="a" needs="b">search("x")</node></graph>', "malformed"),
        ("nodes", '<graph><node name="a">search("x")</node></graph>', "malformed"),
        ("nodes", "<graph></graph>", "empty-plan"),
        ("nodes", '<graph><node id="a">search("x")</node></graph><search>y</search>', "two-moves"),
        ("nodes", '<graph><node id="a">search("x")</node></graph><answer>y</answer>', "two-moves"),
        ("rewoo", "#E1 = search[a]\n#E2 = search[#E3]\n#E3 = search[b]", "forward-reference"),
        ("rewoo", "#E1 = search[a", "malformed"),
        ("rewoo", "#E1 = Serch[a]", "unknown-tool"),
        ("rewoo", "#E1 = LLM[who?]", "malformed"),
        ("rewoo", '#E1 = search[{"k": 1}]', "schema"),
    ],
)
def test_trap_11_slips_are_told_and_nothing_is_run(dialect: str, text: str, code: str) -> None:
    assert rejection(GRAPHS[dialect], text)[0] == code


def test_trap_11_one_is_not_ten_and_literal_signs_can_be_written() -> None:
    lines = [f'{n}. search("q{n}")' for n in range(1, 11)]
    plan = planned(GRAPHS["compiler"], "\n".join([*lines, '11. search("$10, $1 and \\$1")']))
    assert plan.nodes[10].args["query"] == Template((Ref("10"), ", ", Ref("1"), " and $1"))
    graph = '<graph><node id="s1">search("a{2,3} \\{s1} {x y} a|b \'c\'")</node></graph>'
    assert planned(GRAPHS["nodes"], graph).nodes[0].args == {"query": "a{2,3} {s1} {x y} a|b 'c'"}


def test_an_undeclared_reference_is_added_where_the_user_says_so() -> None:
    planner = open_planner({"id": "graph", "undeclared": "add"})
    text = '<graph><node id="a">search("x")</node><node id="b">any(x=[{"y": "{a}"}])</node></graph>'
    assert planned(planner, text).nodes[1].deps == ("a",)


def test_forward_references_of_a_graph_are_edges_like_all_others() -> None:
    text = '<graph><node id="b" depends="a">search("{a}")</node><node id="a">search("x")</node></graph>'
    assert [node.id for node in planned(GRAPHS["nodes"], text).nodes] == ["b", "a"]


@pytest.mark.parametrize("dialect", GRAPHS)
def test_trap_11_a_chain_of_100_000_nodes_is_read_without_recursion(dialect: str) -> None:
    count = 100_000 if dialect == "nodes" else 10_000
    name = NAMES[dialect].format
    nodes = [Node(name(1), "search", {"query": "x"})]
    for n in range(2, count + 1):
        nodes.append(Node(name(n), "search", {"query": Template(("of ", Ref(name(n - 1))))}, (name(n - 1),)))
    spec = {"id": "graph", "dialect": dialect} if dialect in ("nodes", "tasks") else {"id": dialect}
    planner: Any = open_planner(spec | {"max_nodes": count})
    text, _ = planner.write(Move(plan=Plan(tuple(nodes))))
    assert planned(planner, text).nodes == tuple(nodes)
    few, _ = planner.write(Move(plan=Plan(tuple(nodes[:257]))))
    assert rejection(GRAPHS[dialect], few)[0] == "too-many-nodes"


@pytest.mark.parametrize(
    "text",
    [
        "1. " * 20_000,
        "<graph><node id='a'" + " " * 50_000,
        "#E1 = LLM[" + "#E1 " * 20_000 + "x]",
        "#E1 = search[" + "]" * 50_000 + "x",
        "Action: " + " " * 50_000 + "x",
        '1. search("' + "\\" * 50_001,
        "<a>" * 20_000,
        "T1: " * 20_000 + "T1: search(",
        "\nT1: search('a')" + "\n" * 50_000,
        "{s1" * 30_000,
    ],
    ids=range(10),
)
def test_hostile_texts_take_linear_time(text: str) -> None:
    for spec in ("react", "graph", "compiler", "rewoo"):
        planner: Any = open_planner(spec)
        start = time.process_time()
        try:
            planner.read(text, (), TOOLS)
        except RejectedTurn as error:
            assert len(str(error)) < 600
        if spec != "react":
            planner.nodes_so_far(text, TOOLS)
        assert time.process_time() - start < 2


# ---- streaming


def test_nodes_of_an_unfinished_text_come_as_soon_as_they_are_complete() -> None:
    planner: Any = GRAPHS["nodes"]
    text = '<graph><node id="a">search("x")</node><node id="b" depends="a">search("{a}")</node></graph>'
    seen = [len(planner.nodes_so_far(text[:end], TOOLS)) for end in range(len(text) + 1)]
    assert seen == sorted(seen)
    assert seen.index(1) == text.index("</node>") + len("</node>")
    # inside thinking or a policy's part it is not a plan
    assert planner.nodes_so_far(f"<think>{text}", TOOLS) == ()
    assert planner.nodes_so_far(f'<folding>{{"summary": "{text}', TOOLS) == ()
    assert planner.nodes_so_far(f'<folding>{{"summary": ""}}</folding>{text}', TOOLS) != ()
    # up to the first one that cannot be run
    assert planner.nodes_so_far(text.replace('depends="a"', ""), TOOLS) == planned(planner, text).nodes[:1]
    assert planner.nodes_so_far(text.replace("search", "serch"), TOOLS) == ()


def test_a_line_that_may_go_on_is_not_complete_and_thinking_between_lines_is_no_plan() -> None:
    rewoo, tasks, compiler = (GRAPHS[name] for name in ("rewoo", "tasks", "compiler"))
    assert rewoo.nodes_so_far("#E1 = search[a]", TOOLS) == ()
    assert rewoo.nodes_so_far("#E1 = search[a] or [b]\n", TOOLS)[0].args == {"query": "a] or [b"}
    assert tasks.nodes_so_far('T1: search("a")\n- Dependencies: T', TOOLS) == ()
    for planner, first, later in (
        (rewoo, "#E1 = search[a]\n", "#E2 = search[b]\n"),
        (tasks, 'T1: search("a")\n- Dependencies: none\n', 'T2: search("b")\n- Dependencies: none\n'),
        (compiler, '1. search("a")\n', '2. search("b")\n'),
    ):
        assert len(planner.nodes_so_far(first + later, TOOLS)) == 2
        assert len(planner.nodes_so_far(f"{first}<think>or\n{later}", TOOLS)) == 1


FRAGMENTS = {
    "nodes": [
        *(
            '<node id="s1">search("a")</node>',
            '<node id="s2" depends="s1">search("{s1} b")</node>',
            "<graph>",
            "</graph>",
        ),
        *(
            '<node id="s3" depends="s4">any(x={s4})</node>',
            '<node id="s4">any()</node>',
            "<search>a|b</search>",
            "<search>",
        ),
    ],
    "tasks": ['T1: search("a")\n', "- Dependencies: none\n", 'T2: any(x="{T1}")\n- Dependencies: T1\n', "T1: look\n"],
    "compiler": ['1. search("a")\n', '2. search("b $1")\n', '3. any(x=[$2, "${1.a}"])\n', "1. think\n", "4. join()\n"],
    "rewoo": ["#E1 = search[a]\n", "#E2 = search[b #E1]\n", "#E3 = LLM[q #E2]\n", '#E4 = any[{"x": #E3}]', "Plan: x\n"],
}
ANYWHERE = [
    "<think>",
    "</think>",
    "<plan>",
    "</plan>",
    "<folding>",
    "</folding>",
    "<note>",
    "</note>",
    "\n",
    '"',
    "<answer>",
]


@pytest.mark.parametrize("dialect", GRAPHS)
def test_what_was_started_early_is_what_the_whole_turn_begins_with(dialect: str) -> None:
    planner: Any = GRAPHS[dialect]
    plans_read = 0
    for seed in range(1500):
        rng = Random(seed)
        pieces = [
            rng.choice(FRAGMENTS[dialect] if rng.random() < 0.8 else ANYWHERE) for _ in range(rng.randrange(1, 10))
        ]
        text = "".join(pieces)
        if "</think>" in text.split("<think>")[0]:
            continue  # thinking that the prompt opened: the reader is given the text behind it
        cuts = [planner.nodes_so_far(text[: rng.randrange(len(text) + 1)], TOOLS) for _ in range(6)]
        try:
            plan = planner.read(apart(text)[0], (), TOOLS).plan
        except RejectedTurn:
            continue
        plans_read += plan is not None
        for nodes in cuts:
            assert plan is not None or not nodes, text
            assert plan is None or nodes == plan.nodes[: len(nodes)], text
    assert plans_read > 50


def test_settings_are_checked() -> None:
    with pytest.raises(UserError, match='unknown planner "grap"; did you mean "graph"'):
        open_planner("grap")
    with pytest.raises(UserError, match="dialect"):
        open_planner({"id": "graph", "dialect": "taks"})
    with pytest.raises(UserError, match="say which planner"):
        open_planner({"dialect": "tasks"})
