import pytest
from casefiles import case

from fairtrial.formats.adp import ADP_V1
from fairtrial.formats.datasets.openhands_feedback import OPENHANDS_FEEDBACK
from fairtrial.formats.datasets.openhands_page import flatten
from fairtrial.formats.format import Notes, RowError, Skip, decode


def event(source="agent", **fields):
    return {"source": source, "message": "", "timestamp": None, **fields}


def row(*events, **fields):
    return {
        "version": "1.0",
        "feedback": "positive",
        "permissions": "private",
        "id": "4",
        "trajectory": list(events),
        **fields,
    }


ASK = event("user", action="message", args={"content": "Clean up."})


def items(*events, **settings):
    decoded = decode(OPENHANDS_FEEDBACK, row(ASK, *events), Notes(**settings))
    return decoded["content"][1:] if isinstance(decoded, dict) else decoded


def test_only_the_echo_of_a_command_is_taken_off():
    echoed = event(observation="run", content="ls\r\na.txt\r\nb.txt", extras={"command": "ls", "exit_code": 0})
    plain = event(observation="run", content="a.txt\r\nb.txt", extras={"command": "ls", "exit_code": 2})
    call = event(action="run", args={"command": "ls", "thought": "Look."})
    code, first, _, second = items(call, echoed, call, plain)
    assert (code["language"], code["content"], code["description"]) == ("bash", "ls", "Look.")
    assert first["content"] == second["content"] == "a.txt\r\nb.txt"
    assert (first.get("is_error"), second["is_error"]) == (None, True)
    # as published the first line goes, whatever it is
    assert items(call, plain, faithful=True)[1]["content"] == "b.txt"


def test_personal_data_is_nowhere():
    notes = Notes()
    value = row(
        ASK, event(action="message", content="Hi", args={"content": "Hi"}), email="ada@mail.test", token="s3cret"
    )
    decoded = decode(OPENHANDS_FEEDBACK, value, notes)
    assert "ada@mail.test" not in repr((decoded, notes))
    assert "s3cret" not in repr((decoded, notes))
    assert [reason for reason, _ in notes.dropped].count("personal data") == 2


def test_results_are_tied_to_the_event_that_caused_them():
    calls = [
        event(action="run", id=4, args={"command": "a"}),
        event(action="run", id=5, args={"command": "b"}),
        event(observation="run", cause=5, content="B", extras={}),
        event(observation="run", cause=4, content="A", extras={}),
    ]
    first, second, b, a = items(*calls)
    assert (first["call_id"], second["call_id"]) == (a["call_id"], b["call_id"]) == ("4", "5")
    assert items(*calls, faithful=True) == Skip("two actions in a row")


def test_browser_calls_are_values_and_pages_are_kept():
    tree = {
        "nodes": [
            {"nodeId": "1", "role": {"value": "RootWebArea"}, "name": {"value": "Shop"}, "childIds": ["2", "3"]},
            {"nodeId": "2", "role": {"value": "generic"}, "name": {"value": ""}, "childIds": ["4"]},
            {"nodeId": "3", "role": {"value": "button"}, "name": {"value": "Go"}, "browsergym_id": "b2"},
            {"nodeId": "4", "role": {"value": "link"}, "name": {"value": "Cart"}, "browsergym_id": "a1",
             "properties": [{"name": "focused", "value": {"value": True}}]},
        ]
    }  # fmt: skip
    acts = "fill('a1', 'say \"hi\", ok')\nclick('b2', button='middle')"
    shown = event(observation="browse", content="", extras={"url": "http://shop.test", "axtree_object": tree})
    fill, click, page = items(
        event(action="browse_interactive", args={"browser_actions": acts, "thought": "Now."}), shown
    )
    assert (fill["kwargs"], fill["description"]) == ({"bid": "a1", "value": 'say "hi", ok'}, "Now.")
    assert (click["kwargs"], click["joined"], "description" in click) == (
        {"bid": "b2", "button": "middle"},
        True,
        False,
    )
    assert page["axtree"].split("\n") == ["RootWebArea 'Shop'", "\t[a1] link 'Cart', focused", "\t[b2] button 'Go'"]


def test_a_tree_that_bites_its_tail_ends():
    looped = {"nodes": [{"nodeId": "1", "role": {"value": "a"}, "childIds": ["1", "9"]}]}
    assert flatten(looped) == "a ''"


def test_browser_actions_that_are_no_calls_reject_the_row():
    with pytest.raises(RowError, match="no calls"):
        items(event(action="browse_interactive", args={"browser_actions": "click('a1"}))


def test_an_answer_is_said_once():
    (answer,) = items(event(action="finish", message="All done.", args={"thought": "All done.", "outputs": {}}))
    assert (answer["content"], answer.get("description")) == ("<finish> All done. </finish>", None)


def test_nothing_is_made_up_unless_asked_for():
    delegate = event(action="delegate", args={"agent": "CrawlAgent", "inputs": {"task": "t", "link": "l"}})
    (call,) = items(delegate)
    assert (call["function"], call["kwargs"]) == ("delegate_to_CrawlAgent", {"task": "t", "link": "l"})
    closed = items(delegate, endings=True)
    assert [item.get("synthetic") for item in closed] == [None, True, True]


def test_left_out_by_the_data_sets_rules():
    negative = row(ASK, feedback="negative")
    assert decode(OPENHANDS_FEEDBACK, negative, Notes()) == Skip("feedback is not positive")
    mute = row(event(action="run", args={"command": "ls"}))
    assert decode(OPENHANDS_FEEDBACK, mute, Notes()) == Skip("does not start with what the agent saw")


def test_only_its_own_rows_are_liked():
    assert OPENHANDS_FEEDBACK.likes(row(ASK)) > 90
    assert [OPENHANDS_FEEDBACK.likes(value) for value in (None, [], {}, row(), row(1))] == [0] * 5


def test_the_published_form_of_the_stored_rows():
    published = {value["id"]: value for value in case("adp/openhands_feedback/sample_std.json")}
    for value in case("adp/openhands_feedback/sample_raw.json"):
        decoded = decode(OPENHANDS_FEEDBACK, value, Notes(faithful=True))
        (written,) = ADP_V1.encode(decoded, Notes())
        expected = published[value["id"]]
        ours = [{key: field for key, field in item.items() if field is not None} for item in written["content"]]
        theirs = [{key: field for key, field in item.items() if field is not None} for item in expected["content"]]
        end = sum(item.get("synthetic", False) for item in decoded["content"])
        assert len(ours) == len(theirs)
        assert ours[:-end] == theirs[:-end]
        assert written["details"] == expected["details"]
