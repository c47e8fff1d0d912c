"""Config: what a user reads when a file is wrong."""

from typing import Annotated, Literal

import pytest
from pydantic import Discriminator, Field

from fairtrial.core.config import Config, parse, read_toml
from fairtrial.core.errors import UserError, did_you_mean


class Fold(Config):
    kind: Literal["fold"] = "fold"
    tokens: int = Field(default=10, ge=1)


class Graph(Config):
    kind: Literal["graph"] = "graph"
    parallel: bool = True


class Arm(Config):
    control: bool = False
    context: Fold | None = None
    policy: Annotated[Fold | Graph, Discriminator("kind")] = Fold()
    limits: dict[str, Fold] = Field(default_factory=dict)


class Study(Config):
    name: str
    arms: dict[str, Arm] = Field(default_factory=dict)
    extra: list[Arm] = Field(default_factory=list)
    ratio: float = 1.0


def message(data):
    with pytest.raises(UserError) as caught:
        parse(Study, data, where="study.toml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("data", "path", "nearest"),
    [
        ({"name": "x", "amrs": {}}, "amrs", "arms"),
        ({"name": "x", "arms": {"a": {"contrl": True}}}, "arms.a.contrl", "control"),
        ({"name": "x", "arms": {"a": {"context": {"token": 3}}}}, "arms.a.context.token", "tokens"),
        ({"name": "x", "extra": [{}, {"contexts": {}}]}, "extra.1.contexts", "context"),
        ({"name": "x", "arms": {"a": {"limits": {"l": {"tokns": 1}}}}}, "arms.a.limits.l.tokns", "tokens"),
        ({"name": "x", "arms": {"a": {"policy": {"kind": "graph", "paralel": 1}}}}, "paralel", "parallel"),
        # an arm may be called like a key of an arm
        ({"name": "x", "arms": {"context": {"contrl": True}}}, "arms.context.contrl", "control"),
    ],
)
def test_an_unknown_key_is_named_with_its_path_and_the_nearest_known_one(data, path, nearest):
    text = message(data)
    assert text.startswith("study.toml: ")
    assert f'{path}"; did you mean "{nearest}"?' in text


def test_a_key_far_from_all_known_ones_lists_them():
    text = message({"name": "x", "arms": {"a": {"zzzz": 1}}})
    assert text.endswith('unknown key "arms.a.zzzz"; known: context, control, limits, policy')


def test_the_tag_of_a_union_narrows_what_is_known():
    text = message({"name": "x", "arms": {"a": {"policy": {"kind": "graph", "qqqq": 1}}}})
    assert "known: kind, parallel" in text and "tokens" not in text


def test_all_problems_are_told_at_once():
    text = message({"arms": {"a": {"context": {"tokens": 0}}}, "ratio": "much"})
    assert '"name" is required' in text
    assert '"arms.a.context.tokens": input should be greater than or equal to 1 (got 0)' in text
    assert '"ratio"' in text and "(got 'much')" in text


def test_a_huge_value_is_cut_in_the_message():
    assert len(message({"name": "x", "ratio": "y" * 10_000})) < 300


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(value):
    assert "finite" in message({"name": "x", "ratio": value})


def test_something_that_is_no_table_is_refused():
    assert message([1, 2]).startswith("study.toml: ")


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "no such file"), (b"a = ", "not valid TOML"), (b"a = '\xff'", "not UTF-8")],
)
def test_a_file_that_cannot_be_read_is_refused_in_one_line(tmp_path, content, says):
    path = tmp_path / "study.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=says) as caught:
        read_toml(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        read_toml(tmp_path)


def test_did_you_mean_with_nothing_known_says_nothing():
    assert did_you_mean("x", []) == ""
