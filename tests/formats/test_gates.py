import copy
import json

import pytest
from casefiles import case
from hypothesis import given, settings
from strategies import rows

from fairtrial.formats.format import Notes, Numbered, decode, named
from fairtrial.formats.gates import GATES, Card, Evaluation, check_row, cover
from fairtrial.formats.gates.checks import responses
from fairtrial.formats.items import api, code, message, text, web

TREE = "RootWebArea 'Shop'\n\t[12] link 'Cart'\n\t[a7] button 'Go'"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "edit",
            "parameters": {
                "type": "object",
                "properties": {"text": {"type": "string"}, "line": {"type": "integer"}, "any": {}},
            },
        },
    }
]


def codes(*content, raw=None, **fields):
    found = check_row({"id": "r", "content": list(content), **fields}, raw=raw)
    assert {finding.code for finding in found} <= GATES.keys()
    return [finding.code for finding in found]


ASK = text("Do it.", "user")


def test_a_sound_trajectory_passes():
    run = [
        ASK,
        code("bash", "ls", "Look first.", call_id="1"),
        api("edit", {"text": "5", "line": 3}, call_id="2", joined=True),
        text("a.txt", "environment", call_id="1"),
        text("ok", "environment", call_id="2"),
        message("<finish> Done. </finish>"),
    ]
    assert codes(*run, tools=TOOLS) == []


def test_calls_and_results_are_paired():
    call, result = code("bash", "ls", call_id="1"), text("a", "environment", call_id="1")
    assert codes(ASK, call, result, call, result) == ["call ids"]
    assert codes(ASK, call, text("b", "environment", call_id="2")) == ["call ids", "call ids"]
    assert codes(ASK, call) == []
    assert codes(ASK, call, text("Stop!", "user"), message("Yes?")) == ["call ids"]


@pytest.mark.parametrize(
    ("kwargs", "lost"),
    [
        ({"bid": "12"}, 0),
        ({"bid": "a7"}, 0),
        ({"bid": "1"}, 1),
        ({"from_bid": "12", "to_bid": "7"}, 1),
        ({"url": "x"}, 0),
    ],
)
def test_elements_are_in_the_page_seen_last(kwargs, lost):
    old = web(axtree="[1] link 'x'\n[7] link 'y'")
    assert codes(ASK, old, web(axtree=TREE), api("click", kwargs)) == ["grounded elements"] * lost
    assert codes(ASK, api("click", kwargs)) == []
    assert codes(ASK, web(url="http://a.test"), api("click", kwargs)) == []


def test_elements_of_html_pages():
    page = web(html='<a backend_node_id="136">x</a>')
    assert codes(ASK, page, api("click", {"xpath": "//*[@backend_node_id='136']"})) == []
    assert codes(ASK, page, api("click", {"xpath": "//*[@backend_node_id='13']"})) == ["grounded elements"]


def test_call_syntax_has_no_place_in_text():
    assert codes(ASK, code("bash", "ls", "<function=browser>\n<parameter=code>\n")) == ["call syntax in text"]
    assert codes(ASK, message("Now <execute> ls </execute>")) == ["call syntax in text"]
    assert codes(ASK, message("if a < b and f(x) > c: use <b>")) == []


def test_steps_that_are_lost_are_seen():
    raw = {"messages": [{"role": "user"}, {"role": "assistant"}, {"role": "user"}, {"role": "assistant"}]}
    assert codes(ASK, message("one"), raw=raw) == ["steps conserved"]
    assert codes(ASK, message("one"), text("more", "user"), message("two"), raw=raw) == []
    closing = [text("Fine.", "user", synthetic=True), message("Bye", synthetic=True)]
    assert codes(ASK, message("one"), *closing, raw=raw) == ["steps conserved"]
    assert responses({"steps": [{}, {}, {}]}) == 3
    assert [responses(value) for value in (None, 3, {}, {"messages": "[]"}, {"messages": [1]})] == [None] * 5


def test_what_follows_a_call_is_no_user():
    assert codes(ASK, code("bash", "ls"), text("a.txt", "user")) == ["roles"]
    assert codes(ASK, api("finish", {}), text("Thanks, and now?", "user")) == []
    assert codes(ASK, code("bash", "ls"), text("Well done.", "user", synthetic=True)) == []


def test_made_up_praise_is_marked():
    praise = text("Congratulations! You have successfully solved the task.", "user")
    thanks = message("<finish> I did it! The task is now complete. </finish>")
    assert codes(ASK, message("x"), praise, thanks) == ["synthetic tagged"] * 2
    marked = [{**praise, "synthetic": True}, {**thanks, "synthetic": True}]
    assert codes(ASK, message("x"), *marked) == []


def test_claims_need_an_action():
    assert codes(ASK, message("<finish> I made the row. </finish>"), tools=TOOLS) == ["claims without action"]
    assert codes(ASK, message("<finish> 4. </finish>")) == []
    assert codes(text("Use <execute_mysql>.", "user"), message("<finish> 4 </finish>")) == ["claims without action"]


def test_one_thought_counts_once():
    twice = [code("bash", "a", "Think."), code("bash", "b", "Think.", joined=True)]
    assert codes(ASK, *twice) == ["one thought a response"]
    assert codes(ASK, twice[0], text("r", "environment"), twice[0]) == []


def test_types_are_the_tools():
    assert codes(ASK, api("edit", {"text": 5, "line": "3", "any": 1}), tools=TOOLS) == ["arguments typed"] * 2
    assert codes(ASK, api("edit", {"text": True}), tools=TOOLS) == ["arguments typed"]


def test_a_label_that_was_not_performed():
    labelled = api("click", {"bid": "12"}, extra={"nnetnav-live": {"performed": "click [7]"}})
    assert codes(ASK, web(axtree=TREE), labelled) == ["labels performed"]


@settings(max_examples=40, deadline=None)
@given(rows())
def test_any_valid_trajectory_can_be_checked_and_carded(row):
    card = Card()
    card.add(row, row, Notes())
    values = json.loads(json.dumps(card.to_json()))
    assert values["trajectories"] == 1
    assert values["coverage"]["unaccounted"] == 0
    assert card.to_html().startswith("<!doctype html>")


# coverage


def test_each_character_is_kept_rewritten_dropped_or_lost():
    raw = {
        "messages": [
            {"role": "user", "content": "Task: find the pen\nand buy it"},
            {"role": "assistant", "content": "THOUGHT: I look for it now ACTION: search[pen]"},
            {"role": "tool", "content": "this is left out on purpose"},
            {"role": "user", "content": "zebra quux 12345 nowhere to be seen"},
        ]
    }
    row = {
        "id": "1",
        "content": [text("find the pen\nand buy it", "user"), api("search", {"q": "pen"}, "I look for it now")],
    }
    notes = Notes()
    notes.drop("markup", "Task:")
    notes.drop("markup", "THOUGHT:")
    notes.drop("noise", "this is left out on purpose")
    notes.rewrite("call", "ACTION: search[pen]")
    count = cover(raw, row, notes)
    assert count.kept >= len("find the pen" + "and buy it" + "I look for it now")
    assert count.rewritten >= len("search[pen]")
    assert count.dropped >= len("Task:" + "THOUGHT:" + "this is left out on purpose")
    assert 25 <= count.unaccounted <= len(raw["messages"][3]["content"])
    assert cover(raw, row, Notes()).unaccounted > count.unaccounted


def test_json_in_text_is_looked_into_and_stars_stand_for_what_is_personal():
    raw = {"arguments": '{"path": "a\\nb\\tc is long enough"}', "email": "ada@mail.test"}
    row = {"id": "1", "content": [api("open", {"path": "a\nb\tc is long enough"})]}
    notes = Notes()
    assert cover(raw, row, notes).unaccounted == len("ada@mail.test")
    notes.drop("personal data", "*" * len("ada@mail.test"))
    assert cover(raw, row, notes).unaccounted == 0


def test_text_that_is_nowhere_takes_no_long():
    import time

    raw = {"text": "\n".join(f"line {index * 7919 % 100003} of nothing" for index in range(20_000))}
    row = {"id": "1", "content": [text("\n".join(f"other {index}" for index in range(100_000)), "user")]}
    began = time.process_time()
    count = cover(raw, row, Notes())
    assert count.unaccounted > 0.5 * count.total
    assert time.process_time() - began < 20


# the card


def small_card():
    card = Card("mine", [Evaluation.of("Arena", ids=["x-1"], sites=["shop.test"], tasks=["do IT"])])
    steps = [api("click", {"bid": "12"}, "Go."), text("gone", "environment", is_error=True), code("python", "1", "")]
    card.add({"id": "x-1", "content": [ASK, web(axtree=TREE, url="http://Shop.test:80/a"), *steps]})
    card.add(
        {
            "id": "x-2",
            "content": [text("<b>&", "user"), message("<finish> <script>x</script> </finish>")],
            "tools": TOOLS,
        }
    )
    card.add({"id": "x-2", "content": [ASK, api("click", {"bid": "99"})]})
    return card


def test_the_columns_of_table_2_and_ours():
    values = small_card().to_json()
    assert values["table_2"] == {
        "rounds": 1.33, "api_share": 0.5, "code_share": 0.25, "message_share": 0.25, "calls_with_thought": 0.333333,
    }  # fmt: skip
    assert values["tools"] == {"click": 2}
    assert values["languages"] == {"python": 1}
    assert values["observations_with_error"] == 1
    assert values["elements"] == {"named": 1, "ungrounded": 0, "grounded_share": 1.0}
    assert values["gates"]["unique ids"]["failed"] == 1
    # a gate that had nothing to look at passes nothing
    assert (values["gates"]["grounded elements"]["checked"], values["gates"]["grounded elements"]["pass_rate"]) == (
        1,
        1.0,
    )
    assert values["gates"]["text accounted"]["pass_rate"] is None
    assert values["gates"]["claims without action"]["pass_rate"] == round(2 / 3, 6)
    assert values["overlap"]["Arena"] == {"ids": 1, "sites": 1, "tasks": 2, "examples": ["x-1", "x-2"]}
    json.dumps(values)


def test_the_page_is_self_contained_and_escapes_what_it_shows():
    card = small_card()
    card.add({"id": "<img src=x>", "content": [ASK, message("</function>"), code("<script>", "1")]})
    page = card.to_html()
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;img src=x&gt;" in page
    assert "default-src &#39;none&#39;" in page
    assert "http" not in page.replace('http-equiv="', "")


def test_what_a_card_keeps_does_not_grow_with_names():
    card = Card()
    for index in range(3000):
        card.add({"id": str(index), "content": [api(f"tool{index}", {}), web(url=f"http://h{index}.test/")]})
    values = card.to_json()
    assert len(values["tools"]) == 1001
    assert values["tools"]["(others)"] == 2000
    assert len(card.sites) == 1000


def test_the_order_of_trajectories_does_not_matter():
    rows = [
        {"id": "1", "content": [ASK, web(axtree=TREE), api("click", {"bid": "12"})]},
        {"id": "2", "content": [ASK, api("click", {"bid": "12"})]},
        {"id": "3", "content": [ASK, api("click", {"bid": "9"})]},
    ]
    cards = [Card(), Card()]
    for card, ordered in zip(cards, (rows, rows[::-1]), strict=True):
        for row in ordered:
            card.add(copy.deepcopy(row))
    assert cards[0].to_json() == cards[1].to_json()


# genuine samples


def carded(name, folder, **settings):
    """The card of a stored raw sample."""
    format = named(name)
    values = (Numbered(line, value) for line, value in enumerate(case(f"adp/{folder}/sample_raw.json"), 1))
    card, repeats = Card(name), {}
    for value in format.gather(values) if format.gather else values:
        notes = Notes(repeats=repeats, **settings)
        row = decode(format, value.value, notes)
        if isinstance(row, dict):
            card.add(row, value.value, notes)
    return card.to_json()


def test_the_clean_form_of_a_stored_sample_loses_no_text():
    for name, folder in (("nnetnav-live", "nnetnav-live"), ("openhands-feedback", "openhands_feedback")):
        values = carded(name, folder)
        assert values["trajectories"] == 5
        assert values["coverage"]["accounted_share"] == 1.0
        assert values["gates"]["text accounted"]["failed"] == 0
    # as published, text is gone without a word
    published = carded("openhands-feedback", "openhands_feedback", faithful=True)
    assert published["gates"]["text accounted"]["failed"] == 5


def test_what_the_stored_web_sample_says_against_itself():
    gates = carded("nnetnav-live", "nnetnav-live")["gates"]
    assert (gates["grounded elements"]["findings"], gates["labels performed"]["findings"]) == (1, 19)
    failing = {name for name, gate in gates.items() if gate["failed"]}
    assert failing == {"grounded elements", "labels performed"}
