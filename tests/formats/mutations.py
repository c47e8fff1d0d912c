"""Broken variants of a genuine-looking value, and what a reader lost of one."""

import copy
import json

from hypothesis import strategies as st

from fairtrial.formats.format import Notes, RowError, Skip, decode

JUNK = [None, True, 7, -1, 1.5, "", "odd \u2028 text", [], {}, [1, "two"], {"odd": None}, [[]], [{}]]


def paths(value, path=()):
    """Every place below a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from paths(inner, (*path, key))


@st.composite
def mutated(draw, value, most=3):
    """A copy with up to `most` places deleted, replaced by junk, doubled or (in lists) moved."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, most))):
        places = list(paths(value))
        if not places:
            break
        *above, key = draw(st.sampled_from(places))
        holder = value
        for step in above:
            holder = holder[step]
        what = draw(st.sampled_from(["delete", "junk", "double", "move"]))
        if what == "junk":
            holder[key] = copy.deepcopy(draw(st.sampled_from(JUNK)))
        elif what == "delete" or isinstance(holder, dict):
            del holder[key]
        elif what == "double":
            holder.insert(key, copy.deepcopy(holder[key]))
        else:
            holder.insert(draw(st.integers(0, len(holder) - 1)), holder.pop(key))
    return value


def texts(value):
    """Every text in a value that is not blank."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts(inner)
    elif isinstance(value, str) and value.strip():
        yield value


CHAT = ("system", "user", "assistant", "tool", "function")
"""Words of a chat message that its items' classes say."""


def lost(format, value, structural=()):
    """Texts of a value that neither its row nor the notes have; None where it is refused as a whole.

    JSON text counts as kept where the texts in it are. `structural` are words that the row says in its own way.
    """
    notes = Notes()
    before = copy.deepcopy(value)
    try:
        row = decode(format, value, notes)
    except RowError as error:
        assert str(error)
        return None
    assert value == before, "the reader changed what it read"
    if isinstance(row, Skip):
        return []
    kept = {*texts(row), *(text for _, text in [*notes.dropped, *notes.rewritten]), *structural}

    def has(text):
        return text in kept or any(text in other for other in kept) or (text[0] in "{[" and all(map(has, inside(text))))

    return [text for text in texts(value) if not has(text)]


def inside(text):
    """The texts in a JSON text; the text itself where it is none."""
    try:
        return list(texts(json.loads(text)))
    except ValueError:
        return [text + "\0"]
