"""The parts of the native model by themselves: chat ids, parsed calls, held-back text, draws, kept prefixes."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers")

from fairtrial.core.errors import UserError  # noqa: E402
from fairtrial.models.model import Message, ToolCall  # noqa: E402
from fairtrial.models.native.chat import Chat, spelled  # noqa: E402
from fairtrial.models.native.prefix import Prefixes  # noqa: E402
from fairtrial.models.native.sampling import Draw, cut, draw  # noqa: E402
from fairtrial.models.native.text import Text, held_back  # noqa: E402
from fairtrial.nn.state import State  # noqa: E402
from fairtrial.nn.tokenizer import Tokenizer  # noqa: E402

TEXT = 'The quick brown fox jumps over the lazy dog. {"name": "add", "arguments": {"a": 1}} Zwölf Boxkämpfer. 日本語'
TOKENIZER = Tokenizer.train([TEXT], vocab_size=300)
CHAT = Chat(TOKENIZER)
TOOLS = ({"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}},)

texts = st.text(max_size=30) | st.sampled_from(["<|end|>", "<|call|>{}", "a<|agent|>b", "{}", "日本語🙂"])
sampled = st.lists(st.integers(0, TOKENIZER.vocab_size - 1), min_size=1, max_size=12).map(
    lambda ids: [index for index in ids if index != CHAT.end] or [40]
)


@given(
    system=st.none() | texts,
    turns=st.lists(st.tuples(texts, sampled, st.booleans(), st.booleans()), min_size=1, max_size=5),
    tools=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_the_ids_of_a_turn_are_a_prefix_of_the_next_prompt(
    system: str | None, turns: list[tuple[str, list[int], bool, bool]], tools: bool
):
    given_tools = TOOLS if tools else ()
    messages = [] if system is None else [Message(role="system", content=system)]
    before: list[int] = []
    for said, completion, ended, cut_short in turns:
        messages.append(Message(role="user", content=said))
        prompt = CHAT.prompt(messages, given_tools)
        assert prompt[: len(before)] == before
        ids = [*completion, CHAT.end] if ended else completion
        parsed = CHAT.parse(ids)
        content, calls = parsed.content, parsed.calls
        if cut_short and not calls:  # as a stop text does
            content = content[: len(content) // 2]
        messages.append(Message(role="assistant", content=content, tool_calls=calls, token_ids=tuple(ids)))
        messages += [Message(role="tool", content=said, tool_call_id=call.id) for call in calls]
        before = prompt + ids
        text = TOKENIZER.decode(before)
        assert TOKENIZER.decode(prompt) + TOKENIZER.decode(ids) == text or "\ufffd" in text


@given(st.lists(texts, min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_text_cannot_forge_a_mark_and_decodes_to_itself(said: list[str]):
    messages = [Message(role="user" if i % 2 else "assistant", content=text) for i, text in enumerate(said)]
    ids = CHAT.prompt(messages)
    marks = [index for index in ids if index in TOKENIZER.specials.values()]
    assert len(marks) == 2 * len(said) + 1
    opening = {"user": "<|user|>", "assistant": "<|agent|>"}
    spelled_out = "".join(f"{opening[one.role]}{one.content}<|end|>" for one in messages) + "<|agent|>"
    assert TOKENIZER.decode_bytes(ids) == spelled_out.encode("utf-8", "surrogatepass")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    name=st.text(min_size=1, max_size=12),
    arguments=st.dictionaries(st.text(max_size=5), json_values, max_size=3),
    spaced=st.booleans(),
    content=st.text(max_size=10),
)
@settings(max_examples=150, deadline=None)
def test_a_call_is_read_back_as_it_was_written(name: str, arguments: dict[str, Any], spaced: bool, content: str):
    name = name.encode("utf-8", "replace").decode()
    written = json.dumps(arguments, indent=2 if spaced else None)
    calls = (ToolCall(id="a", name=name, arguments=written), ToolCall(id="b", name=name, arguments="{}"))
    ids = [*TOKENIZER.encode(content)]
    for call in calls:
        ids += [CHAT.call, *TOKENIZER.encode(spelled(call))]
    parsed = CHAT.parse([*ids, CHAT.end])
    assert [(call.name, call.arguments) for call in parsed.calls] == [(name, written), (name, "{}")]
    again = CHAT.parse([*ids, CHAT.end], behind=[*ids, CHAT.end])
    assert len({call.id for call in parsed.calls + again.calls}) == 4, "the same calls in a later turn are others"
    assert parsed.content == TOKENIZER.decode(TOKENIZER.encode(content))


@pytest.mark.parametrize(
    ("text", "name", "arguments"),
    [
        ('{"name": "add", "arguments": {"a": 1,}}', "add", '{"a": 1,}'),
        ('{"name": "add", "arguments": {"a": "unfinished', "add", '{"a": "unfinished'),
        ('{"arguments": {"name": 3}, "name": "f"}', "f", '{"name": 3}'),
        ('{"name": "now"}', "now", "{}"),
        ('{"name": "s", "arguments": "text"}', "s", '"text"'),
        ("no json at all", "", "no json at all"),
        ("", "", ""),
        ("[" * 5000, "", "[" * 5000),
    ],
)
def test_a_call_that_does_not_parse_is_kept_as_written(text: str, name: str, arguments: str):
    (call,) = CHAT.parse([CHAT.call, *TOKENIZER.encode(text), CHAT.end]).calls
    assert (call.name, call.arguments) == (name, arguments)


def test_ids_that_do_not_say_what_the_message_says_are_not_used():
    ids = tuple(TOKENIZER.encode("The quick fox"))
    user = Message(role="user", content="x")
    mine = CHAT.prompt([user, Message(role="assistant", content="The quick fox", token_ids=ids)])
    assert mine[-2 - len(ids) : -2] == list(ids)
    edited = Message(role="assistant", content="A slow fox", token_ids=ids)
    assert TOKENIZER.decode(CHAT.prompt([user, edited])) == "<|user|>x<|end|><|agent|>A slow fox<|end|><|agent|>"
    foreign = Message(role="assistant", content="The quick fox", token_ids=(99999, 5))
    assert TOKENIZER.decode(CHAT.prompt([user, foreign])).count("The quick fox") == 1


def test_tools_stand_in_the_system_text():
    prompt = TOKENIZER.decode(
        CHAT.prompt([Message(role="system", content="Be brief."), Message(role="user", content="?")], TOOLS)
    )
    assert prompt.startswith("<|system|>Be brief.\n\nTools:\n") and prompt.count("<|system|>") == 1
    assert '"name": "add"' in prompt.split("<|end|>")[0]
    alone = TOKENIZER.decode(CHAT.prompt([Message(role="user", content="?")], TOOLS))
    assert alone.startswith("<|system|>Tools:\n")


def test_a_tokenizer_without_the_marks_is_refused():
    bare = Tokenizer.train(["text"], vocab_size=260, specials=("<|end|>",))
    with pytest.raises(UserError, match=r"no special token .*<\|call\|>"):
        Chat(bare)


@given(st.text(alphabet="abc", max_size=40), st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3))
@settings(max_examples=300, deadline=None)
def test_shown_text_never_has_to_be_taken_back(text: str, stops: list[str]):
    growing = Text(TOKENIZER, stops)
    shown = ""
    for index in TOKENIZER.encode_bytes(text):
        shown += growing.push(index)
        if growing.stopped:
            break
    shown += growing.finish()
    complete = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    cut_at = min(complete)[1] if complete else len(text)
    assert shown == growing.content == text[:cut_at]


def test_only_what_may_become_a_stop_text_is_held_back():
    assert [held_back(text, ["END", "\n\n"]) for text in ("E", "EN", "xE", "END.", "E E", "\n", "no")] == [
        1,
        2,
        1,
        0,
        1,
        1,
        0,
    ]


def test_draws_follow_the_distribution_they_report():
    logits = torch.log(torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.0625]))
    for one, wanted in (
        (Draw(1.0, 1.0, 0, 7), [0.5, 0.25, 0.125, 0.0625, 0.0625]),
        (Draw(1.0, 1.0, 2, 7), [2 / 3, 1 / 3, 0, 0, 0]),
        (Draw(1.0, 0.8, 0, 7), [4 / 7, 2 / 7, 1 / 7, 0, 0]),
        (Draw(0.5, 1.0, 0, 7), [64 / 86, 16 / 86, 4 / 86, 1 / 86, 1 / 86]),
    ):
        counts: Counter[int] = Counter()
        for _ in range(1500):
            (token,), (logprob,) = draw(logits[None].clone(), [one], [None])
            counts[token] += 1
            assert logprob == pytest.approx(math.log(wanted[token]), abs=1e-5)
        for token, share in enumerate(wanted):
            assert counts[token] / 1500 == pytest.approx(share, abs=0.045)


def test_a_draw_does_not_depend_on_its_batch():
    rng = random.Random(1)
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(0)) * 3

    def fresh() -> list[Draw]:
        return [
            Draw(t, p, k, i)
            for i, (t, p, k) in enumerate([(0, 1, 0), (1, 1, 0), (0.3, 0.9, 0), (2, 1, 7), (1, 0.5, 3), (1e-40, 1, 0)])
        ]

    alone = [draw(logits[i : i + 1].clone(), [one], [None]) for i, one in enumerate(fresh())]
    order = rng.sample(range(6), 6)
    draws = fresh()
    tokens, logprobs = draw(logits[order].clone(), [draws[i] for i in order], [None] * 6)
    for place, index in enumerate(order):
        assert (tokens[place], logprobs[place]) == (alone[index][0][0], alone[index][1][0])


def test_equal_logits_go_to_the_lowest_id_and_a_grammar_comes_first():
    logits = torch.tensor([[1.0, 3.0, 3.0, 2.0]])
    assert draw(logits.clone(), [Draw(0.0, 1.0, 0, 0)], [None])[0] == [1]
    allowed = torch.tensor([True, False, False, True])
    assert draw(logits.clone(), [Draw(0.0, 1.0, 0, 0)], [allowed])[0] == [3]
    assert torch.isfinite(cut(logits[0], 1, 1.0)).tolist() == [False, True, False, False]
    assert torch.isfinite(cut(logits[0], 0, 1e-9)).tolist() == [False, True, False, False]


def test_kept_prefixes_are_found_by_the_longest_and_bounded_by_bytes():
    def state(tokens: int) -> State:
        return State([{"S": torch.zeros(1, 10)}], [tokens])

    size = state(1).allocated
    kept = Prefixes(3 * size + 8 * 20)
    kept.keep([1, 2], state(2))
    kept.keep([1, 2, 3, 4], state(4))
    assert kept.find([1, 2, 3, 4]).positions == [2]  # one id is left to read
    assert kept.find([1, 2, 3, 4, 5]).positions == [4]
    assert kept.find([1, 3]) is None and kept.find([2]) is None
    assert kept.shared([1, 2, 3, 9, 9]) == 3
    kept.keep([7, 7, 7], state(3))
    assert kept.find([1, 2, 9]).positions == [2]
    kept.keep([8] * 6, state(6))  # the least recently used one makes room
    assert kept.find([1, 2, 3, 4, 5]).positions == [2]
    assert kept.nbytes <= 3 * size + 8 * 20 and len(kept) == 3
    kept.keep([9] * 100_000, state(1))
    assert len(kept) == 3
