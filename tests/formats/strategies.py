"""Hypothesis strategies for canonical rows: the trajectories that every format must survive as far as it can hold them.

`rows()` draws everything that is on by default; a format's test switches off what its format cannot hold:

    @given(rows(code=False, web=False, images=False, reasoning=False))

or starts from nothing: `rows(all_on=False, parallel=True)`. Drawn rows keep the room's conventions: one response is a
text (the `description` of its first call, or a message) and calls, the later ones `joined`; results follow all calls
of their response, named after their tool; every action of a response names the same model call; timestamps and
rewards sit on the first item of a message. Between two responses there is always something that the agent saw.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from fairtrial.core.trajectory import token_delta

ON = frozenset(
    {
        "system",  # a system prompt comes first
        "images",  # an image beside a user's text (joined)
        "web",  # some results are web observations
        "apis",  # named tool calls
        "code",  # code actions
        "reasoning",
        "parallel",  # several calls in one response
        "call_ids",  # every call and result has one; off: none has
        "names",  # a result of a named call carries its name
        "errors",  # is_error True or False on some results
        "timestamps",  # on users' messages and responses
        "result_timestamps",  # on results (with `timestamps`)
        "model_calls",
        "usage",  # tokens spent in a model call
        "token_ids",  # prompt, completion and logprobs in a model call
        "tools",
        "rewards",  # on a response's first item
        "reward",  # of the run
        "details",  # text values
        "malformed",  # arguments that are no JSON object
        "unanswered",  # the last response's calls may have no results
        "empty",  # empty texts, and "" as well as no description
        "kwargs_nested",  # lists, dicts, null, bools, numbers as arguments; off: texts only
    }
)
OFF = frozenset(
    {
        "developer",  # a second prompt, from the developer
        "message_descriptions",  # a thought before a message to the user (ADP)
        "result_images",  # an image beside a result's text (joined, same call id)
        "shuffled",  # results in another order than their calls
        "joined_text",  # text after the calls of a response: a joined message
        "consecutive",  # two users' messages or two responses in a row
        "synthetic",
        "loss",
        "subagents",
    }
)

PIECES = [
    '"',
    "'",
    "\\",
    "\n",
    "\r\n",
    "\t",
    "{}",
    "[1]",
    "null",
    "1",
    "<b>",
    "&amp;",
    "```",
    "é",
    "中",
    "🦊",
    "\u2028",
    " ",
]
any_text = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.lists(st.sampled_from([*PIECES, "look", "done."]), max_size=5).map("".join),
)
"""Text with unicode, quotes, newlines, markup; may be empty."""
some_text = any_text.filter(lambda text: text.strip() != "")
tool_names = st.sampled_from(["search", "read_file", "str_replace_editor", "click", "lookup_2"])
languages = st.sampled_from(["bash", "python", "sql"])
times = st.sampled_from(
    ["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.678Z", "2026-01-02T03:04:06+00:00", "2026-05-06T07:08:09.101112Z"]
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    any_text,
)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc_", max_size=4), inner, max_size=3),
    max_leaves=5,
)
parameter_names = st.sampled_from(["path", "query", "text", "k", "n_lines", "old_str"])
broken_arguments = st.sampled_from(['{"path": "a', "ls -la", '["a"]', "{'k': 1}", '"text"', "{"])


def rows(all_on: bool = True, text: st.SearchStrategy[str] = any_text, **features: bool) -> st.SearchStrategy[dict]:
    """Rows with these features; unnamed ones as ON and OFF say (all off with `all_on=False`)."""
    if unknown := features.keys() - ON - OFF:
        raise TypeError(f"no such feature: {sorted(unknown)}")
    wanted = {name for name in (ON if all_on else ()) if features.get(name, True)}
    wanted |= {name for name, on in features.items() if on}
    return _row(frozenset(wanted), text)


@st.composite
def _row(draw: st.DrawFn, on: frozenset[str], text: st.SearchStrategy[str]) -> dict[str, Any]:
    return _Writer(draw, on, text).row()


class _Writer:
    """Draws one row; keeps the counters that make call ids unique and model calls numbered."""

    def __init__(self, draw: st.DrawFn, on: frozenset[str], text: st.SearchStrategy[str]) -> None:
        self.draw, self.on = draw, on
        self.text = text if "empty" in on else text.filter(lambda drawn: drawn.strip() != "")
        self.given = text.filter(lambda drawn: drawn.strip() != "")
        self.content: list[dict[str, Any]] = []
        self.model_calls: list[dict[str, Any]] = []
        self.sequences: list[list[int]] = []
        self.calls = 0

    def maybe(self, feature: str) -> bool:
        return feature in self.on and self.draw(st.booleans())

    def row(self) -> dict[str, Any]:
        draw = self.draw
        row: dict[str, Any] = {"id": draw(st.text("abcXYZ019-_", min_size=1, max_size=10)), "content": self.content}
        if self.maybe("system"):
            self.see(class_="text_observation", content=draw(self.given), source="system")
        if self.maybe("developer"):
            self.see(class_="text_observation", content=draw(self.given), source="system", name="developer")
        self.user()
        for left in range(draw(st.integers(0, 3)), 0, -1):
            self.turn(last=left == 1)
        if self.maybe("tools"):
            row["tools"] = [_tool(name, draw(any_text)) for name in draw(st.lists(tool_names, min_size=1, unique=True))]
        if self.model_calls:
            row["model_calls"] = self.model_calls
        if self.maybe("reward"):
            row["reward"] = draw(_rewards)
        if self.maybe("details"):
            row["details"] = draw(st.dictionaries(st.text("abc_", min_size=1, max_size=5), any_text, max_size=2))
            if not row["details"]:
                del row["details"]
        if self.maybe("subagents"):
            self.subagents(row)
        return row

    def subagents(self, row: dict[str, Any]) -> None:
        observations = [i for i in self.content if "call_id" in i and i["class_"] == "text_observation"]
        if not observations:
            return
        below = self.draw(_row(self.on - {"subagents"}, self.text))
        below["id"] = f"{row['id']}/below"
        row["subagents"] = [below]
        observations[0]["subagents"] = [below["id"]]

    def see(self, **item: Any) -> None:
        if self.maybe("timestamps"):
            item["timestamp"] = self.draw(times)
        self.content.append(item)

    def user(self) -> None:
        for _ in range(1 + self.maybe("consecutive")):
            self.see(class_="text_observation", content=self.draw(self.text), source="user")
            if self.maybe("images"):
                self.content.append(
                    {"class_": "image_observation", "content": self.draw(_images), "source": "user", "joined": True}
                )

    def turn(self, last: bool) -> None:
        kinds = sorted(self.on & {"apis", "code"})
        count = self.draw(st.integers(0, 3 if "parallel" in self.on else 1)) if kinds else 0
        calls = [self.call(self.draw(st.sampled_from(kinds))) for _ in range(count)]
        response = calls or [self.message()]
        head = response[0]
        if calls:
            choices = [st.none(), self.given] + ([st.just("")] if "empty" in self.on else [])
            if (description := self.draw(st.one_of(choices))) is not None:
                head["description"] = description
        if self.maybe("reasoning"):
            head["reasoning"] = self.draw(self.given)
        if self.maybe("timestamps"):
            head["timestamp"] = self.draw(times)
        if self.maybe("rewards"):
            head["reward"] = self.draw(_rewards)
        if calls and self.maybe("joined_text"):
            response = [*response, {"class_": "message_action", "content": self.draw(self.given)}]
        for later in response[1:]:
            later["joined"] = True
        if self.maybe("model_calls"):
            self.model_call(response)
        for feature, value in (("synthetic", True), ("loss", False)):
            if self.maybe(feature):
                for item in response:
                    item[feature] = value
        self.content += response
        if not calls:
            if not last and not self.maybe("consecutive"):
                self.user()
            return
        if not (last and self.maybe("unanswered")):
            self.results(calls)
            if self.draw(st.booleans()):
                self.user()
        elif not last:
            self.user()

    def message(self) -> dict[str, Any]:
        item: dict[str, Any] = {"class_": "message_action", "content": self.draw(self.text)}
        if self.maybe("message_descriptions"):
            item["description"] = self.draw(self.given)
        return item

    def call(self, kind: str) -> dict[str, Any]:
        draw = self.draw
        if kind == "code":
            item = {"class_": "code_action", "language": draw(languages), "content": draw(self.given)}
        else:
            values = json_values if "kwargs_nested" in self.on else self.text
            item = {"class_": "api_action", "function": draw(tool_names), "kwargs": {}}
            if self.maybe("malformed") and self.maybe("malformed"):
                item["malformed"] = draw(broken_arguments)
            else:
                item["kwargs"] = draw(st.dictionaries(parameter_names, values, max_size=3))
        if "call_ids" in self.on:
            self.calls += 1
            item["call_id"] = f"call_{self.calls}{draw(st.text('abcdef019', max_size=4))}"
        return item

    def results(self, calls: list[dict[str, Any]]) -> None:
        for call in self.draw(st.permutations(calls)) if "shuffled" in self.on else calls:
            item: dict[str, Any]
            if self.maybe("web"):
                item = self.draw(_pages).copy()
            else:
                item = {"class_": "text_observation", "content": self.draw(self.text), "source": "environment"}
                if "names" in self.on and "function" in call:
                    item["name"] = call["function"]
            if "call_id" in call:
                item["call_id"] = call["call_id"]
            if self.maybe("errors"):
                item["is_error"] = self.draw(st.booleans())
            if "result_timestamps" in self.on and self.maybe("timestamps"):
                item["timestamp"] = self.draw(times)
            self.content.append(item)
            if item["class_"] == "text_observation" and self.maybe("result_images"):
                beside = {"class_": "image_observation", "content": self.draw(_images), "source": "environment"}
                self.content.append(beside | {k: v for k, v in item.items() if k == "call_id"} | {"joined": True})

    def model_call(self, response: list[dict[str, Any]]) -> None:
        draw = self.draw
        call: dict[str, Any] = {"model": draw(st.sampled_from(["tiny-1", "vendor/large-2"]))}
        if "usage" in self.on:
            tokens = st.integers(1, 9999)
            call["usage"] = {"calls": 1, "input_tokens": draw(tokens), "output_tokens": draw(tokens)}
        if self.maybe("token_ids"):
            prompt = [*(self.sequences[-1] if self.sequences else []), *draw(st.lists(_ids, min_size=1, max_size=4))]
            completion = draw(st.lists(_ids, min_size=1, max_size=3))
            delta = token_delta(prompt, self.sequences).model_dump(mode="json", exclude_defaults=True)
            call |= {"prompt": delta, "completion_ids": completion}
            call["logprobs"] = draw(st.lists(st.floats(-9, 0), min_size=len(completion), max_size=len(completion)))
        self.sequences.append([*prompt, *completion] if "prompt" in call else [])
        for item in response:
            item["model_call"] = len(self.model_calls)
        self.model_calls.append(call)


_ids = st.integers(0, 50_000)
_rewards = st.floats(-10, 10, allow_nan=False, width=32)
_images = st.sampled_from(
    ["data:image/png;base64,iVBORw0KGgo=", "https://example.org/a.png", "data:image/jpeg;base64,/9j/"]
)
_pages = st.fixed_dictionaries(
    {"class_": st.just("web_observation"), "axtree": some_text},
    optional={
        "html": some_text,
        "url": st.just("https://example.org/"),
        "viewport_size": st.just([1280, 720]),
        "image_observation": _images.map(
            lambda path: {"class_": "image_observation", "content": path, "source": "environment"}
        ),
    },
)


def _tool(name: str, description: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


@st.composite
def damaged(draw: st.DrawFn, values: st.SearchStrategy[Any]) -> Any:
    """A JSON value of these with one to three of its parts replaced by, or robbed of, anything: files as they break."""
    value = [json.loads(json.dumps(draw(values)))]
    for _ in range(draw(st.integers(1, 3))):
        spots = list(_spots(value))
        holder, key = spots[draw(st.integers(0, len(spots) - 1))]
        if isinstance(holder, dict) and draw(st.booleans()):
            del holder[key]
        else:
            holder[key] = draw(json_values)
    return value[0]


def _spots(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in value.keys() if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from _spots(value[key])
