"""The scripted model says what its script says, fails where it should, and its token ids are exact."""

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairtrial.core.clock import Timer, VirtualClock
from fairtrial.core.errors import InfraError, UserError
from fairtrial.models import byte_chat
from fairtrial.models.model import ContextTooLongError, Message, Pair, Request, Sampling, UnsupportedError
from fairtrial.models.opening import open_model
from fairtrial.models.scripted import Script, ScriptedModel

HERE = Path()


def scripted(**table):
    return open_model({"kind": "scripted", **table}, HERE)


def ask(model, *texts, **sampling):
    """One reply; texts alternate between user and assistant."""
    roles = ("user", "assistant")
    messages = tuple(Message(role=roles[i % 2], content=text) for i, text in enumerate(texts))
    return asyncio.run(model.generate(Request(messages=messages, sampling=Sampling(**sampling))))


def test_replies_come_in_order_for_each_conversation():
    model = scripted(replies=["one", "two"])
    assert [ask(model, "a").text, ask(model, "a", "one", "b").text, ask(model, "x").text] == ["one", "two", "one"]
    with pytest.raises(UserError, match=r"no answer to turn 3.*after"):
        ask(model, "a", "one", "b", "two", "c")
    assert ask(scripted(replies=["one", "two"], after="last"), "a", "", "b", "", "c").text == "two"
    assert ask(scripted(replies=["one", "two"], after="again"), "a", "", "b", "", "c").text == "one"


def test_rules_match_the_last_message_and_fill_in_groups(tmp_path):
    (tmp_path / "s.toml").write_text(
        """
        [[rules]]
        matches = 'add (\\d+) and (\\d+)'
        text = "{1}+{2}, from '{0}'"
        reasoning = "sum of {1}"
        tool_calls = [{ name = "sum", arguments = { values = ["{1}", "{2}"] } }]
        [[rules]]
        contains = "hello"
        text = "braces {1} stay"
        [[rules]]
        call = 2
        text = "second turn"
        """
    )
    model = open_model(f"scripted:{tmp_path / 's.toml'}", HERE)
    reply = ask(model, "please add 12 and 30")
    assert reply.text == "12+30, from 'add 12 and 30'"
    assert reply.message.reasoning == "sum of 12"
    assert json.loads(reply.message.tool_calls[0].arguments) == {"values": ["12", "30"]}
    assert reply.finish == "tool_calls"
    assert ask(model, "hello").text == "braces {1} stay"
    assert ask(model, "a", "b", "c").text == "second turn"
    with pytest.raises(UserError, match=r'no answer to turn 1 .*"what"'):
        ask(model, "what")


def test_a_json_list_is_replies_and_a_key_beside_the_path_goes_first(tmp_path):
    (tmp_path / "s.json").write_text('["one"]')
    model = open_model({"kind": "scripted", "path": "s.json", "name": "mine"}, tmp_path)
    assert (ask(model, "a").text, model.name) == ("one", "mine")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "says nothing"),
        ({"rules": [{"matches": "("}]}, "not a regular expression"),
        ({"rules": [{"matches": "(a)", "text": "{2}"}]}, "matches has 1 groups"),
        ({"replys": []}, 'did you mean "replies"'),
        ({"path": "nowhere.toml"}, "no such file"),
        ({"faults": [{"kind": "flood"}], "replies": ["a"]}, "faults.0.kind"),
    ],
)
def test_a_bad_script_is_one_clear_line(table, message):
    with pytest.raises(UserError, match=message) as caught:
        scripted(**table)
    assert "\n" not in str(caught.value)


def test_stop_max_tokens_and_context():
    model = scripted(replies=["alpha beta gamma"], context=60)
    assert (ask(model, "a", stop=["mm", "beta"]).text, ask(model, "a", stop=["zzz"]).finish) == ("alpha ", "stop")
    short = ask(model, "a", max_tokens=3)
    assert (short.text, short.finish, short.usage.output_tokens) == ("alp", "length", 3)
    with pytest.raises(ContextTooLongError, match="takes 60"):
        ask(model, "a" * 60)
    assert ask(model, "a" * 50).finish == "length"
    with pytest.raises(UnsupportedError, match="json_schema"):
        ask(model, "a", json_schema={})


texts = st.text(st.characters(codec="utf-8"), max_size=12)
answers = st.fixed_dictionaries(
    {"text": texts, "reasoning": st.none() | texts},
    optional={"tool_calls": st.lists(st.fixed_dictionaries({"name": st.just("f"), "arguments": texts}), max_size=2)},
)


@settings(max_examples=60, deadline=None)
@given(script=st.lists(answers, min_size=1, max_size=4), said=st.data())
def test_ids_of_a_turn_are_a_prefix_of_the_next_prompt_and_decode_to_the_text(script, said):
    model = scripted(replies=script)
    messages, before = [], ()
    for turn in range(len(script)):
        messages.append(Message(role="user", content=said.draw(texts)))
        limit = said.draw(st.none() | st.integers(1, 20))
        pieces = []
        request = Request(messages=tuple(messages), sampling=Sampling(max_tokens=limit))
        reply = asyncio.run(model.generate(request, on_delta=pieces.append))
        assert reply.prompt_ids is not None and reply.completion_ids is not None
        assert reply.prompt_ids[: len(before)] == before
        before = reply.prompt_ids + reply.completion_ids
        assert byte_chat.read_turn(reply.completion_ids).text == reply.text
        assert "".join(piece.text for piece in pieces) == reply.text
        assert "".join(piece.reasoning for piece in pieces) == (reply.message.reasoning or "")
        assert sum((piece.token_ids for piece in pieces), ()) == reply.completion_ids
        assert len(reply.logprobs or ()) == len(reply.completion_ids)
        # the same prompt as ids gets the same reply
        ids_request = Request(prompt_ids=reply.prompt_ids, sampling=request.sampling)
        assert asyncio.run(model.generate(ids_request)).completion_ids == reply.completion_ids
        messages.append(reply.message)
        assert turn < len(script)


def test_a_call_never_has_the_id_of_another_in_its_prompt_also_when_turns_were_left_out():
    model = scripted(replies=[{"tool_calls": [{"name": "look"}]}], after="last")

    async def main():
        asked, said = [Message(role="user", content="go")], []
        for _ in range(3):
            reply = await model.generate(Request(messages=(*asked, *said)))
            said.append(reply.message)
            said.append(Message(role="tool", content="seen", tool_call_id=reply.message.tool_calls[0].id))
        last = await model.generate(Request(messages=(*asked, *said[2:])))
        return [message.tool_calls[0].id for message in [*said[::2], last.message]]

    assert asyncio.run(main()) == ["call_1_1", "call_2_1", "call_3_1", "call_4_1"]


def test_without_ids_the_text_gives_the_same_prompt():
    model = scripted(replies=[{"text": "t", "tool_calls": [{"name": "f", "arguments": {"a": 1}}]}, "done"])
    first = ask(model, "go")
    call = first.message.tool_calls[0]
    for message in (first.message, Message(role="assistant", content="t", tool_calls=(call,))):
        result = Message(role="tool", tool_call_id=call.id, content="ok")
        request = Request(messages=(Message(role="user", content="go"), message, result))
        reply = asyncio.run(model.generate(request))
        assert reply.prompt_ids[: len(first.prompt_ids)] == first.prompt_ids
        assert reply.prompt_ids[len(first.prompt_ids) :][: len(first.completion_ids)] == first.completion_ids


def test_faults_by_call_number():
    model = scripted(
        replies=[{"text": "héllo wörld", "tool_calls": [{"name": "f", "arguments": {"a": 1}}]}],
        faults=[
            {"kind": "rate_limit", "calls": [1], "seconds": 2.5},
            {"kind": "server_error", "calls": [2]},
            {"kind": "truncated", "calls": [3]},
            {"kind": "malformed", "calls": [4]},
            {"kind": "empty", "calls": [5]},
        ],
    )
    causes = []
    for _ in range(2):
        with pytest.raises(InfraError) as caught:
            ask(model, "a")
        causes.append((caught.value.cause, caught.value.retry_after_s))
    assert causes == [("rate_limit", 2.5), ("server_error", None)]
    pieces = []
    with pytest.raises(InfraError) as caught:
        request = Request(messages=(Message(role="user", content="a"),))
        asyncio.run(model.generate(request, on_delta=pieces.append))
    assert caught.value.cause == "truncated" and pieces[0].text == "héllo w"
    with pytest.raises(json.JSONDecodeError):
        json.loads(ask(model, "a").message.tool_calls[0].arguments)
    empty = ask(model, "a")
    assert (empty.text, empty.message.tool_calls, empty.finish) == ("", (), "stop")
    assert ask(model, "a").text == "héllo wörld"


def test_faults_by_probability_are_drawn_from_the_seed():
    def pattern(seed):
        model = scripted(replies=["x"], faults=[{"kind": "server_error", "probability": 0.4}], seed=seed)
        outcome = []
        for index in range(200):
            try:
                ask(model, f"request {index % 100}")
                outcome.append(False)
            except InfraError:
                outcome.append(True)
        return outcome

    first = pattern(1)
    assert first == pattern(1) != pattern(2)
    assert 50 <= sum(first) <= 110
    assert first[:100] != first[100:], "a second try of the same request is drawn anew"


def test_a_stall_is_booked_as_waiting():
    async def run():
        clock = VirtualClock()
        script = Script.model_validate({"replies": ["x"], "faults": [{"kind": "stall", "calls": [1], "seconds": 30}]})
        timer = Timer(clock)
        call = asyncio.create_task(ScriptedModel(script, clock).generate(Request(prompt="a"), timer=timer))
        await clock.run_until_idle()
        return await call, timer

    reply, timer = asyncio.run(run())
    assert (reply.waited_s, timer.waiting_s, timer.working_s) == (30, 30, 0)


def test_score_is_uniform_over_bytes():
    model = scripted(replies=["x"])
    one, two, none = asyncio.run(model.score([Pair("ctx", " a"), Pair("", "é"), Pair("ctx", "")]))
    assert one.per_byte == two.per_byte == pytest.approx(-5.545177444)
    assert (two.characters, two.bytes, none.logprob, none.tokens) == (1, 2, 0, 0)


def test_unknown_ids_are_refused():
    with pytest.raises(UserError, match="token id 9999"):
        asyncio.run(scripted(replies=["x"]).generate(Request(prompt_ids=(1, 9999))))
