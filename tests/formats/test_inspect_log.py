"""Inspect logs, built here in the shape that Inspect 0.3.285 writes."""

import json
import zipfile
import zlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from fairtrial.core.errors import UserError
from fairtrial.formats.format import Notes, Numbered, RowError, decode
from fairtrial.formats.inspect_archive import samples
from fairtrial.formats.inspect_log import INSPECT

HEADER = {
    "version": 2,
    "status": "success",
    "eval": {"eval_id": "e", "run_id": "r", "task": "sums", "model": "mock/model", "config": {"epochs": 2}},
    "plan": {"name": "plan", "steps": []},
    "results": {"total_samples": 2},
}
SUM = {"name": "add", "description": "Add.", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}
LONG = "lorem ipsum " * 30
PNG = "data:image/png;base64,iVBORw0KGgo="


def sample(id="s1", epoch=1):
    ask = {
        "id": "m1",
        "role": "user",
        "source": "input",
        "content": [
            {"type": "text", "text": "Add 1 and 2"},
            {"type": "image", "image": "attachment://pic", "detail": "auto"},
        ],
    }
    call = {
        "id": "m2",
        "role": "assistant",
        "source": "generate",
        "model": "mock",
        "content": [
            {"type": "reasoning", "reasoning": "attachment://deep", "signature": "sig", "redacted": False},
            {"type": "text", "text": "Let me add."},
        ],
        "tool_calls": [
            {"id": "c1", "function": "add", "arguments": {"x": 1}, "type": "function"},
            {"id": "c2", "function": "add", "arguments": {}, "parse_error": "bad: {x", "type": "function"},
        ],
    }
    good = {"id": "m3", "role": "tool", "content": "3", "tool_call_id": "c1", "function": "add"}
    bad = {
        "id": "m4",
        "role": "tool",
        "content": "",
        "tool_call_id": "c2",
        "function": "add",
        "error": {"type": "parsing", "message": "bad: {x"},
    }
    done = {"id": "m5", "role": "assistant", "source": "generate", "content": "3", "model": "mock"}
    return {
        "id": id, "epoch": epoch, "input": "Add 1 and 2", "target": "3",
        "messages": [ask, call, good, bad, done],
        "output": {"model": "mock", "completion": "3", "choices": [{"message": done, "stop_reason": "stop"}]},
        "scores": {"includes": {"value": "C", "answer": "3"}},
        "metadata": {"level": 1}, "store": {"seen": 1}, "limit": {"type": "token", "limit": 5},
        "events": [
            {"event": "span_begin", "id": "sp", "name": "solvers", "timestamp": "T0"},
            {"event": "model", "model": "mock/model", "timestamp": "T1", "input": [], "input_refs": [[0, 1]],
             "tools": [SUM], "config": {"temperature": 0.5},
             "output": {"model": "mock", "choices": [{"message": {"id": "m2"}, "stop_reason": "tool_calls"}],
                        "usage": {"input_tokens": 10, "output_tokens": 5, "input_tokens_cache_read": 3}}},
            {"event": "tool", "id": "c1", "function": "add", "message_id": "m3", "completed": "T2", "result": "3"},
            {"event": "info", "source": "me", "data": "worth keeping", "timestamp": "T3"},
            {"event": "model", "model": "grader", "timestamp": "T4", "input": [{"id": "g1", "role": "user",
             "content": "Is 3 right?"}], "tools": [], "config": {}, "output": {"model": "grader",
             "choices": [{"message": {"id": "g2", "role": "assistant", "content": "Yes"}, "stop_reason": "stop"}]}},
        ],
        "attachments": {"deep": LONG, "pic": PNG},
        "events_data": {"messages": [ask], "calls": []},
    }  # fmt: skip


def packed(raw, method):
    if method == 8:
        pack = zlib.compressobj(9, zlib.DEFLATED, -15)
        return pack.compress(raw) + pack.flush()
    if method == 93:
        half = len(raw) // 2  # Inspect writes several frames for large entries
        return b"".join(zstandard.ZstdCompressor().compress(part) for part in (raw[:half], raw[half:]))
    return raw


def write_eval(path, entries, method=93, claim=None):
    """A zip archive, also with methods that Python's zipfile cannot write; `claim` is a false size."""
    directory, body = b"", b""
    for name, value in entries.items():
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        data, size = packed(raw, method), len(raw) if claim is None else claim
        shared = b"".join(
            (
                (20).to_bytes(2, "little"), (0).to_bytes(2, "little"), method.to_bytes(2, "little"), bytes(4),
                zlib.crc32(raw).to_bytes(4, "little"), len(data).to_bytes(4, "little"), size.to_bytes(4, "little"),
                len(name.encode()).to_bytes(2, "little"), bytes(2),
            )
        )  # fmt: skip
        directory += b"PK\x01\x02" + (20).to_bytes(2, "little") + shared + bytes(2 + 2 + 2 + 4)
        directory += len(body).to_bytes(4, "little") + name.encode()
        body += b"PK\x03\x04" + shared + name.encode() + data
    end = b"PK\x05\x06" + bytes(4) + len(entries).to_bytes(2, "little") * 2
    path.write_bytes(
        body + directory + end + len(directory).to_bytes(4, "little") + len(body).to_bytes(4, "little") + bytes(2)
    )
    return path


def whole(*given):
    named = {f"samples/{one['id']}_epoch_{one['epoch']}.json": one for one in given}
    return {"_journal/start.json": {"version": 2}, **named, "summaries.json": [], "header.json": HEADER}


def read(path):
    notes = [(item, Notes()) for item in INSPECT.gather(INSPECT.open(path))]
    return [(item.problem or decode(INSPECT, item.value, note), note) for item, note in notes]


@pytest.mark.parametrize("method", [0, 8, 93])
def test_an_archive_gives_one_trajectory_per_sample_and_epoch(tmp_path, method):
    path = write_eval(tmp_path / "log.eval", whole(sample(), sample(epoch=2), sample(id="a/b")), method)
    assert INSPECT.claims(path)
    assert [row["id"] for row, _ in read(path)] == ["s1_epoch_1", "s1_epoch_2", "a/b_epoch_1"]


def test_what_the_agent_did_and_saw(tmp_path):
    ((row, notes),) = read(write_eval(tmp_path / "log.eval", whole(sample())))
    first, image, call, other, result, error, done = row["content"]
    assert (first["content"], first["source"]) == ("Add 1 and 2", "user")
    assert (image["class_"], image["content"], image["joined"]) == ("image_observation", PNG, True)
    assert (call["function"], call["kwargs"], call["call_id"]) == ("add", {"x": 1}, "c1")
    assert (call["description"], call["reasoning"]) == ("Let me add.", LONG)
    assert call["extra"]["inspect"]["parts"] == [{"type": "reasoning", "signature": "sig"}]
    assert other["joined"] and other["extra"]["inspect"]["call"]["parse_error"] == "bad: {x"
    assert (result["content"], result["name"], result["call_id"], result["timestamp"]) == ("3", "add", "c1", "T2")
    assert (error["content"], error["is_error"]) == ("bad: {x", True)
    assert (done["class_"], done["content"]) == ("message_action", "3")
    assert [code for code, _ in notes.flaws] == ["malformed arguments"]


def test_model_calls_tools_scores_and_the_rest(tmp_path):
    ((row, notes),) = read(write_eval(tmp_path / "log.eval", whole(sample())))
    first = row["model_calls"][row["content"][2]["model_call"]]
    assert first["usage"]["input_tokens"] == 13 and first["usage"]["cached_tokens"] == 3
    assert (first["sampling"], first["finish_reason"]) == ({"temperature": 0.5}, "tool_calls")
    assert row["tools"] == [{"type": "function", "function": SUM}]
    assert row["reward"] == 1.0
    assert row["details"]["target"] == "3" and row["details"]["limit"] == {"type": "token", "limit": 5}
    assert row["details"]["store"] == {"seen": 1} and row["details"]["task"] == "sums"
    own = row["extra"]["inspect"]
    assert own["log"] == HEADER
    assert [event["event"] for event in own["events"]] == ["info", "model"]
    assert own["events"][1]["input"][0]["content"] == "Is 3 right?"
    assert sorted(json.loads(text)["event"] for _, text in notes.dropped) == ["model", "span_begin", "tool"]


def test_a_json_log_says_the_same_as_an_archive(tmp_path):
    path = tmp_path / "log.json"
    path.write_text(json.dumps({**HEADER, "samples": [sample(), sample(epoch=2)]}, indent=2))
    assert INSPECT.claims(path)
    archive = write_eval(tmp_path / "log.eval", whole(sample(), sample(epoch=2)))
    assert [row for row, _ in read(path)] == [row for row, _ in read(archive)]


def test_a_chunked_sample_is_put_together(tmp_path):
    one = sample()
    pool, start = one["messages"], "samples/s1_epoch_1"
    shell = {k: v for k, v in one.items() if k not in ("messages", "events", "attachments", "events_data", "metadata")}
    named = json.dumps(pool).replace("://deep", "://0").replace("://pic", "://1")
    moved = json.loads(named)
    entries = {
        f"{start}/messages/3.json": moved[3:], f"{start}/messages/0.json": moved[:3],
        f"{start}/events/0.json": one["events"], f"{start}/events/stats.json": {}, f"{start}/events/uuids.json": [],
        f"{start}/attachments/0.json": [LONG, PNG], f"{start}/metadata.json": one["metadata"],
        f"{start}/skeleton.json": {}, f"{start}/sample.json": {**shell, "message_refs": [[0, 5]]},
        "header.json": HEADER,
    }  # fmt: skip
    ((row, _),) = read(write_eval(tmp_path / "chunked.eval", entries))
    ((plain, _),) = read(write_eval(tmp_path / "plain.eval", whole(one)))
    assert row["content"] == plain["content"]


@pytest.mark.parametrize(
    ("scores", "reward"),
    [
        ({"a": {"value": "I"}}, 0.0), ({"a": {"value": "P"}}, 0.5), ({"a": {"value": "N"}}, 0.0),
        ({"a": {"value": "yes"}}, 1.0), ({"a": {"value": 0.25}}, 0.25), ({"a": {"value": "0.75"}}, 0.75),
        ({"a": {"value": True}}, 1.0), ({"a": {"value": {"x": 1}}}, None), ({"a": {"value": "NaN"}}, None),
        ({"a": {"value": [1]}, "b": {"value": "C"}}, 1.0), (None, None),
    ],
)  # fmt: skip
def test_scores_are_read_as_inspect_reads_them(scores, reward):
    row = decode(INSPECT, {**sample(), "scores": scores}, Notes())
    assert row.get("reward") == reward


def test_nan_in_an_entry_does_not_lose_the_sample(tmp_path):
    one = json.dumps(sample()).replace('"level": 1', '"level": NaN').encode()
    ((row, _),) = read(write_eval(tmp_path / "log.eval", {"samples/s1_epoch_1.json": one}))
    assert row["details"]["metadata"] == {"level": "NaN"}


def test_an_interrupted_run_has_its_samples(tmp_path):
    entries = {"_journal/start.json": {"version": 2, "eval": {"task": "sums"}}, "samples/s1_epoch_1.json": sample()}
    ((row, _),) = read(write_eval(tmp_path / "log.eval", entries))
    assert row["details"]["task"] == "sums"


def test_a_missing_attachment_is_a_flaw_and_stays_in_its_place():
    one = sample()
    del one["attachments"]["deep"]
    notes = Notes()
    row = decode(INSPECT, one, notes)
    assert row["content"][2]["reasoning"] == "attachment://deep"
    assert "missing attachment" in [code for code, _ in notes.flaws]


def test_an_entry_that_holds_more_than_it_says_is_refused(tmp_path):
    path = write_eval(tmp_path / "log.eval", {"samples/s1_epoch_1.json": b" " * 5_000_000}, claim=10)
    (item,) = samples(path)
    assert "damaged" in item.problem


def test_an_entry_over_the_limit_is_not_unpacked(tmp_path):
    path = write_eval(tmp_path / "log.eval", whole(sample()))
    assert "over the limit" in [item.problem for item in samples(path, limit=500) if item.problem][-1]


def test_an_unknown_compression_is_named(tmp_path):
    path = write_eval(tmp_path / "log.eval", {"samples/s1_epoch_1.json": sample()}, method=14)
    (item,) = samples(path)
    assert "method 14" in item.problem


def test_names_that_climb_out_of_the_archive_touch_nothing(tmp_path):
    path = write_eval(tmp_path / "log.eval", {"samples/../../../evil_epoch_1.json": sample(), "../header.json": HEADER})
    ((row, _),) = read(path)
    assert row["id"] == "s1_epoch_1"
    assert [file.name for file in tmp_path.iterdir()] == ["log.eval"]


def test_a_file_that_is_no_archive_is_the_users_to_mend(tmp_path):
    path = write_eval(tmp_path / "log.eval", whole(sample()))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match="no readable zip archive"):
        list(samples(path))


def test_python_reads_the_archives_that_this_file_writes(tmp_path):
    with zipfile.ZipFile(write_eval(tmp_path / "log.eval", whole(sample()), method=8)) as archive:
        assert archive.testzip() is None and json.loads(archive.read("header.json")) == HEADER


def test_a_log_without_samples_is_a_row_error():
    (item,) = INSPECT.gather(iter([Numbered(1, {**HEADER, "status": "error"})]))
    with pytest.raises(RowError, match="no samples"):
        decode(INSPECT, item.value, Notes())


def paths_of(value, path=()):
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from paths_of(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(len(value)):
            yield from paths_of(value[index], (*path, index))


PATHS = [path for path in paths_of(sample()) if path]


@given(st.lists(st.sampled_from(PATHS), max_size=3), st.sampled_from(["gone", None, 7, "x", [], {}, [3], {"a": None}]))
def test_a_sample_with_anything_wrong_in_it_is_a_row_or_a_row_error(paths, put):
    one = sample()
    for path in paths:
        place = one
        try:
            for step in path[:-1]:
                place = place[step]
            if put == "gone":
                del place[path[-1]]
            else:
                place[path[-1]] = put
        except (KeyError, IndexError, TypeError):
            continue
    INSPECT.likes(one)
    try:
        row = decode(INSPECT, one, Notes())
    except RowError:
        return
    assert row["content"] or one.get("messages") in ([], None, {})
