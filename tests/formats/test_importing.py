"""An import: everything that was read is in the collection or in its list of problems, and the counts say so."""

import json

import pytest

from fairtrial.core.errors import UserError
from fairtrial.formats.exporting import export_trajectories, rows_of
from fairtrial.formats.format import named
from fairtrial.formats.importing import import_trajectories
from fairtrial.formats.reading import Options

CALL = {"id": "c1", "type": "function", "function": {"name": "bash", "arguments": '{"command": "ls"}'}}


def chat(*more, id=None):
    row = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}, *more]}
    return {"id": id, **row} if id else row


def lines(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def problems(collection):
    return [json.loads(line) for line in (collection.path / "problems.jsonl").read_text().splitlines()]


def run(path, out, **options):
    return import_trajectories(str(path), out, Options(**options))


def test_good_rows_become_a_collection(tmp_path):
    path = lines(tmp_path / "a.jsonl", chat(id="one"), chat(id="two"))
    collection, summary = run(path, tmp_path / "out")
    assert (len(collection), summary.rejected, summary.errors) == (2, 0, 0)
    assert [row["id"] for row in collection.rows()] == ["one", "two"]
    assert collection.get("two").content[1].content == "hello" and collection.get("three") is None
    manifest = collection.manifest
    assert manifest["files"][0]["format"] == "openai-chat" and len(manifest["files"][0]["sha256"]) == 64
    assert str(tmp_path) not in json.dumps(manifest), "a collection can be passed on"
    assert next(collection.rows())["extra"]["fairtrial"] == {"imported from": "a.jsonl:1", "as": "openai-chat"}
    assert (collection.path / "quality.json").exists() and (collection.path / "quality.html").exists()


def test_what_is_wrong_is_listed_with_file_line_and_text(tmp_path):
    broken = [
        chat(id="good"),
        '{"messages": [{"role": "user", "content": "cut o',
        {"messages": 7},
        chat(
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [CALL | {"function": {"name": "f", "arguments": "{x"}}],
            }
        ),
        chat({"role": "tool", "tool_call_id": "nobody", "content": "result of nothing"}),
        chat(id="good"),
    ]
    collection, summary = run(lines(tmp_path / "a.jsonl", *broken), tmp_path / "out", format="openai-chat")
    assert (summary.values, summary.trajectories, summary.rejected, summary.flawed) == (6, 4, 2, 3)
    listed = problems(collection)
    assert [(entry["line"], entry["kind"].split(":")[0]) for entry in listed] == [
        (2, "rejected"),
        (3, "rejected"),
        (4, "flaw"),
        (5, "flaw"),
        (6, "flaw"),
    ]
    assert listed[0]["text"].startswith('{"messages": [{"role"') and listed[1]["value"] == {"messages": 7}
    assert "malformed arguments" in listed[2]["kind"] and "duplicate id" in listed[4]["kind"]
    rows = list(collection.rows())
    assert [row["id"] for row in rows][-1] == "good~2"
    assert any(item.get("malformed") == "{x" for row in rows for item in row["content"]), "kept as it came"
    assert any(item.get("content") == "result of nothing" for row in rows for item in row["content"])
    assert summary.error_share == pytest.approx(5 / 6)


def test_a_value_that_is_no_text_is_kept_as_base64(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps(chat()).encode() + b"\n\xff\xfe\x00\n")
    collection, _ = run(path, tmp_path / "out")
    assert problems(collection)[0]["base64"] == "//4ACg=="


def test_secrets_are_marked_in_rows_and_in_problems(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "very-secret-value-123")
    path = lines(
        tmp_path / "a.jsonl",
        chat({"role": "user", "content": "key very-secret-value-123"}),
        {"messages": "very-secret-value-123"},
    )
    collection, summary = run(path, tmp_path / "out", format="openai-chat")
    written = "".join(file.read_text() for file in collection.path.iterdir())
    assert "very-secret-value-123" not in written and "[redacted SOME_API_KEY]" in written
    assert summary.redacted == 1


def test_strict_leaves_out_what_fails_a_gate_and_says_which(tmp_path):
    lost = chat({"role": "tool", "tool_call_id": "nobody", "content": "result of nothing"}, id="lost")
    path = lines(tmp_path / "a.jsonl", chat(id="good"), lost)
    kept, _ = import_trajectories(str(path), tmp_path / "all")
    assert len(kept) == 2 and json.loads((kept.path / "quality.json").read_text())["gates"]["call ids"]["failed"] == 1
    strict, summary = import_trajectories(str(path), tmp_path / "strict", strict=True)
    assert [row["id"] for row in strict.rows()] == ["good"] and summary.skipped == {"gate: call ids": 1}
    assert problems(strict)[0]["id"] == "lost" and "nobody" in problems(strict)[0]["message"]
    gates = json.loads((strict.path / "quality.json").read_text())["gates"]
    assert not any(gate["failed"] for gate in gates.values())


def test_nothing_appears_where_the_import_fails_and_nothing_is_overwritten(tmp_path):
    path = lines(tmp_path / "a.jsonl", chat())
    with pytest.raises(UserError):
        run(path, tmp_path / "out", format="no-such-format")
    assert list(tmp_path.iterdir()) == [path]
    run(path, tmp_path / "out")
    with pytest.raises(UserError, match="exists; choose another place with --out, or --replace it"):
        run(path, tmp_path / "out")
    import_trajectories(str(path), tmp_path / "out", replace=True)
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="exists and is no collection"):
        import_trajectories(str(path), tmp_path / "mine", replace=True)


def test_one_unreadable_file_of_many_costs_only_itself(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    lines(folder / "a.jsonl", chat(id="one"))
    (folder / "b.eval").write_bytes(b"PK no zip")
    (folder / "c.jsonl").write_text("")
    collection, summary = run(folder, tmp_path / "out")
    assert (len(collection), summary.rejected) == (1, 2)
    assert {entry["file"]: entry["message"] for entry in problems(collection)}.keys() == {"b.eval", "c.jsonl"}
    with pytest.raises(UserError, match="zip"):
        run(folder / "b.eval", tmp_path / "alone")
    with pytest.raises(UserError, match="holds no readable value"):
        run(folder / "c.jsonl", tmp_path / "alone")
    assert not (tmp_path / "alone").exists()


def test_a_value_nested_too_deeply_is_rejected(tmp_path):
    deep = {}
    for _ in range(900):
        deep = {"a": deep}
    odd = chat()
    odd["messages"][0]["more"] = deep
    collection, summary = run(lines(tmp_path / "a.jsonl", odd, chat(id="x")), tmp_path / "out", format="openai-chat")
    assert (len(collection), summary.rejected) == (1, 1) and "nested too deeply" in summary.first_problems[0]


def test_a_collection_can_be_exported_and_read_again(tmp_path):
    talk = chat({"role": "assistant", "content": "look", "tool_calls": [CALL]}, id="t")
    talk["messages"].append({"role": "tool", "tool_call_id": "c1", "content": "a.txt"})
    collection, _ = run(lines(tmp_path / "a.jsonl", talk), tmp_path / "out")
    for name in ("b.jsonl", "b.json", "b.jsonl.zst"):
        written = export_trajectories(rows_of(collection.path), tmp_path / name, named("openai-chat"))
        assert (written.trajectories, written.values) == (1, 1)
        (row,) = rows_of(tmp_path / name)
        assert row["content"] == next(collection.rows())["content"]
    (back,) = json.loads((tmp_path / "b.json").read_text())
    assert [message["content"] for message in back["messages"]] == ["hi", "hello", "look", "a.txt"]


def test_sessions_are_written_one_file_each(tmp_path):
    collection, _ = run(lines(tmp_path / "a.jsonl", chat(id="a/b"), chat(id="a-b")), tmp_path / "out")
    written = export_trajectories(collection.rows(), tmp_path / "sessions", named("codex"))
    files = sorted((tmp_path / "sessions").iterdir())
    assert written.trajectories == len(files) == 2 and files[1].name == "a-b.jsonl"
    for file in files:
        (row,) = rows_of(file)
        assert [item["content"] for item in row["content"]] == ["hi", "hello"]


def test_export_says_what_it_cannot_do(tmp_path):
    collection, _ = run(lines(tmp_path / "a.jsonl", chat()), tmp_path / "out")
    with pytest.raises(UserError, match=r"name it \.jsonl or \.json"):
        export_trajectories(collection.rows(), tmp_path / "b.csv", named("openai-chat"))
    with pytest.raises(UserError, match="can be read only"):
        export_trajectories(collection.rows(), tmp_path / "b.jsonl", named("langfuse"))
    assert not (tmp_path / "b.csv").exists() and not (tmp_path / "b.jsonl").exists()
    with pytest.raises(UserError, match="import it first"):
        list(rows_of(lines(tmp_path / "bad.jsonl", chat(), "{")))
