import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairtrial.core.record import Outcome, Record, TrialKey
from fairtrial.core.redact import Redactor
from fairtrial.core.trajectory import CodeAction, TextObservation, Trajectory
from fairtrial.store import BlobStore, RunDir
from fairtrial.store.codec import decode, encode, references
from fairtrial.store.frames import Packer, unpack_frame

CLEAN = Redactor({})
texts = st.text(max_size=40) | st.sampled_from(
    ["$blob", "$$blob", "\u2028", "\x00\x1b[31m", "'\"\\", "é" * 40_000, "x" * 65_537]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(details=st.dictionaries(texts, values, max_size=5), message=texts, content=texts)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_record_comes_back_as_it_was(details, message, content, tmp_path):
    blobs = BlobStore(tmp_path / "blobs", CLEAN)
    record = Record(
        key=TrialKey(arm="a", task="t", repeat=0),
        seed=2**62,
        outcome="failed",
        scores={"reward": 0.1},
        cause="wall_limit",
        message=message,
        details=details,
        trajectory=Trajectory(
            id="x",
            content=(CodeAction(language="sh", content=content), TextObservation(content=content, source="user")),
        ),
    )
    line, _ = encode(record, CLEAN, blobs)
    assert b"\n" not in line
    assert decode(line, blobs) == record
    [again] = unpack_frame(Packer().pack([line]))
    assert again == line


def test_large_strings_leave_the_line(tmp_path):
    blobs = BlobStore(tmp_path / "blobs", CLEAN)
    record = Record(
        key=TrialKey(arm="a", task="t", repeat=0),
        seed=1,
        outcome="errored",
        cause="x",
        details={"log": "word " * 100_000},
    )
    line, _ = encode(record, CLEAN, blobs)
    assert len(line) < 300
    [ref] = references(line)
    assert (ref.size, blobs.get(ref)) == (500_000, b"word " * 100_000)
    assert decode(line, blobs) == record


def test_what_json_cannot_hold_is_kept_as_near_as_it_can_be(tmp_path):
    blobs = BlobStore(tmp_path / "blobs", CLEAN)
    details = {"bytes": "caf\udce9", "huge": 2**100, "nan": float("nan"), "steps": {3: "three"}}
    record = Record.model_construct(
        key=TrialKey(arm="a", task="t", repeat=0), seed=1, outcome=Outcome.ERRORED, cause="x", details=details
    )
    stored = decode(encode(record, CLEAN, blobs)[0], blobs)
    assert stored.details == {"bytes": "caf\\udce9", "huge": 2**100, "nan": None, "steps": {"3": "three"}}


def test_what_is_no_json_at_all_fails_alone(create, make_record):
    odd = make_record(1).model_copy(update={"details": {"object": object()}})
    with create() as writer:
        with pytest.raises(ValueError, match=r"record fold/task-0#0 cannot be stored"):
            writer.append_many([odd])
        writer.append_many([make_record(1)])
        assert len(writer.run) == 1


def test_lines_are_plain_sorted_json(create, make_record, tmp_path):
    with create() as writer:
        writer.append_many([make_record(1)])
        [line] = writer.run.lines()
    value = json.loads(line)
    assert line == json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert value["trajectory"]["content"][1]["class_"] == "api_action"
    assert "artifacts" not in value


def test_keys_with_secrets_do_not_confuse_the_index(tmp_path):
    redactor = Redactor({"THE_TOKEN": "hunter2-hunter2"})
    record = Record(key=TrialKey(arm="a", task="t", repeat=0), seed=1, outcome="errored", cause="hunter2-hunter2")
    with RunDir.create(tmp_path / "run", {}, "", redactor) as writer:
        writer.append_many([record])
        assert [row.cause for row in writer.run.rows()] == ["[redacted THE_TOKEN]"]
