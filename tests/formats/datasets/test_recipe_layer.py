"""What recipes are made of: tools from signatures, edits that say what they did, and a whole recipe in a few lines."""

import re

import pytest

from fairtrial.formats.datasets.recipe import Chat, Draft, Edit, Prefix, Recipe, append, numbered, opens_with
from fairtrial.formats.datasets.signatures import signatures
from fairtrial.formats.format import Notes, RowError, Skip, decode


def test_signatures_become_schemas():
    (tool,) = signatures(
        "press(bid: str, wait: float = 1.5, button: Literal['left', 'right'] = 'left', times: int = None,"
        " keys: str | list[str] = None, extra: Optional[dict] = None)"
    )
    assert tool == {
        "type": "function",
        "function": {
            "name": "press",
            "parameters": {
                "type": "object",
                "properties": {
                    "bid": {"type": "string"},
                    "wait": {"type": "number", "default": 1.5},
                    "button": {"type": "string", "enum": ["left", "right"], "default": "left"},
                    "times": {"type": "integer"},
                    "keys": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
                    "extra": {"type": "object"},
                },
                "required": ["bid"],
            },
        },
    }


@pytest.mark.parametrize("signature", ["f(x)", "f(x: Path)", "f(x: list[Path])"])
def test_a_parameter_without_a_known_type_is_refused(signature):
    with pytest.raises(ValueError):
        signatures(signature)


def test_an_edit_says_what_it_took_and_what_it_wrote():
    notes = Notes()
    text = Edit("Say A. ").apply("Say A. Say B.", notes)
    text = append(" Go.").apply(Edit(re.compile("[A-Z]\\."), "C.").apply(text, notes), notes)
    assert text == "Say C. Go."
    assert [gone for _, gone in notes.dropped] == ["Say A. "]
    assert [gone for _, gone in notes.rewritten] == ["B."]
    assert [made for _, made in notes.invented] == ["C.", " Go."]
    assert Edit("Say", "x", "faithful").apply(text, notes) == text == Edit("absent", "x").apply(text, notes)
    assert len(notes.invented) == 2


def test_the_first_edit_leaves_later_turns_alone():
    def answer(text: str, draft: Draft) -> None:
        draft.said(text)

    draft = Draft("a", Notes())
    turns = [{"role": role, "content": "Please."} for role in ("user", "assistant", "user")]
    Chat(answer, first=(Edit("Please", "Do"),))({"conversations": turns}, draft)
    assert [item["content"] for item in draft.content] == ["Do.", "Please.", "Please."]


def test_a_further_data_set_is_one_short_recipe():
    def answer(text: str, draft: Draft) -> None:
        command, _, thought = text.partition(" # ")
        draft.syntax(command)
        draft.called("press", {"key": command}, thought)

    recipe = Recipe(
        name="pianist",
        title="Pianist",
        likes=opens_with("Play "),
        build=Chat(answer, prefixes=(Prefix("HEARD: "),)),
        id=numbered("piece"),
        solved="in_tune",
        used=frozenset({"piece", "conversations"}),
        tools=signatures("press(key: str)"),
    ).format()
    turns = [("human", "Play a note."), ("gpt", "c # The first."), ("human", "HEARD: c"), ("human", "Bravo")]
    value = {
        "piece": "scale",
        "in_tune": True,
        "hall": 3,
        "conversations": [{"from": role, "value": text} for role, text in turns],
    }
    assert recipe.likes(value) > 90 and recipe.likes({"conversations": []}) == recipe.likes("x") == 0
    notes = Notes()
    row = decode(recipe, value, notes)
    assert row == {
        "id": "scale_0",
        "content": [
            {"class_": "text_observation", "content": "Play a note.", "source": "user"},
            {"class_": "api_action", "function": "press", "kwargs": {"key": "c"}, "description": "The first."},
            {"class_": "text_observation", "content": "c", "source": "environment"},
            {"class_": "text_observation", "content": "Bravo", "source": "user"},
        ],
        "tools": list(recipe.tools),
        "reward": 1.0,
        "details": {"in_tune": True, "hall": 3},
    }
    assert notes.dropped == [("markup", "HEARD: ")] and notes.rewritten == [("call syntax", "c")]
    assert decode(recipe, value, notes)["id"] == "scale_1"
    assert decode(recipe, {**value, "in_tune": False}, notes) == Skip("not in_tune")
    with pytest.raises(RowError, match="'choir'"):
        decode(recipe, {**value, "conversations": [{"from": "choir", "value": "la"}]}, notes)
