"""From a path to trajectories: formats are detected or named, and every value is answered for in its place."""

import json

import pytest

from fairtrial.core.errors import UserError
from fairtrial.formats.format import named
from fairtrial.formats.reading import Options, Reading, SourceFile, detect, find, read

CHAT = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}
ANTHROPIC = {
    "model": "claude-x",
    "system": "be brief",
    "messages": [
        {"role": "user", "content": "list files"},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "t1", "name": "bash", "input": {"command": "ls"}}],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "a.txt"}]},
    ],
}
SHAREGPT = {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}


def lines(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("rows", "name"),
    [([CHAT], "openai-chat"), ([ANTHROPIC], "anthropic"), ([SHAREGPT], "sharegpt")],
)
def test_the_format_is_detected_and_said(tmp_path, rows, name):
    (file,) = find(str(lines(tmp_path / "a.jsonl", *rows)), Options())
    assert isinstance(file, SourceFile) and (file.format.name, file.how) == (name, "detected")
    (reading,) = read(str(tmp_path / "a.jsonl"))
    assert reading.row is not None and (reading.file, reading.line) == ("a.jsonl", 1)


def test_a_file_of_no_known_format_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"no known format; name one with --as \(fairtrial import --formats"):
        find(str(lines(tmp_path / "a.jsonl", {"x": 1})), Options())


def test_unknown_and_unreadable_formats(tmp_path):
    path = str(lines(tmp_path / "a.jsonl", CHAT))
    with pytest.raises(UserError, match='unknown format "openai-chad"; did you mean "openai-chat"'):
        find(path, Options(format="openai-chad"))
    with pytest.raises(UserError, match="can be written only"):
        find(path, Options(format="sft-agentlab"))


def test_no_format_is_recognised_in_values_that_are_no_rows():
    for value in (None, 1, "x", [], {}, [[]], {"messages": 3}, {"messages": []}, {"content": {}}, {"id": None}, True):
        assert detect([value]) is None or isinstance(value, list | dict), value


def test_every_format_survives_any_json_value_when_asked_whether_it_likes_it():
    from fairtrial.core.registry import names

    odd = [
        None,
        1,
        "x",
        True,
        1.5,
        [],
        {},
        [1],
        [None],
        ["x"],
        [[]],
        {"messages": 3},
        {"messages": [1]},
        {"events": {}},
    ]
    odd += [
        {"type": 3},
        {"role": []},
        {"steps": "x"},
        {"trajectory": [None]},
        {"conversations": [[]]},
        {"id": {}, "kind": 1},
    ]
    deep: list = []
    row: dict = {"role": "user", "content": "x"}
    for _ in range(1000):
        deep, row = [deep], {"messages": [row], "content": [row], "steps": [row], "type": "user"}
    odd += [deep, {"messages": deep}, {"content": deep}, row]
    for name in names("formats"):
        for value in odd:
            assert 0 <= named(name).likes(value) <= 100, (name, value)
            assert 0 <= named(name).likes([value, value]) <= 100, (name, value)


def test_a_folder_is_walked_and_what_is_unreadable_there_is_a_problem_in_its_place(tmp_path):
    lines(tmp_path / "b" / "two.jsonl", ANTHROPIC)
    lines(tmp_path / "a.jsonl", CHAT, CHAT)
    lines(tmp_path / "c.json", {"x": 1})
    lines(tmp_path / ".hidden.jsonl", CHAT)
    (tmp_path / "notes.txt").write_text("no data")
    readings = list(read(str(tmp_path)))
    assert [(r.file, r.line, bool(r.row)) for r in readings] == [
        ("a.jsonl", 1, True),
        ("a.jsonl", 2, True),
        ("b/two.jsonl", 1, True),
        ("c.json", 0, False),
    ]
    assert "no known format" in readings[-1].problem


def test_a_folder_without_data_says_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="holds no file that can be read"):
        find(str(tmp_path), Options())
    with pytest.raises(UserError, match="no such file or folder"):
        find(str(tmp_path / "none"), Options())


def test_a_row_of_another_shape_is_a_problem_with_its_line(tmp_path):
    path = lines(tmp_path / "a.jsonl", CHAT, {"messages": "no"}, {"nothing": 1}, "{broken", CHAT)
    readings = list(read(str(path), Options(format="openai-chat")))
    assert [bool(r.row) for r in readings] == [True, False, False, False, True]
    assert all(r.problem and "\n" not in r.problem for r in readings[1:4])
    assert [r.line for r in readings] == [1, 2, 3, 4, 5]
    assert readings[3].value == b"{broken\n"


def test_values_of_an_array_and_of_parquet(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([CHAT, CHAT]))
    assert [r.line for r in read(str(tmp_path / "a.json"))] == [1, 2]
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist([CHAT, CHAT]), tmp_path / "b.parquet")
    assert sum(r.row is not None for r in read(str(tmp_path / "b.parquet"))) == 2


def test_a_data_set_is_loaded_through_the_hub_library(tmp_path):
    pytest.importorskip("datasets")
    lines(tmp_path / "data" / "train.jsonl", CHAT, CHAT, CHAT)
    readings = list(read(f"hf:{tmp_path / 'data'}:train"))
    assert len(readings) == 3 and all(isinstance(r, Reading) and r.row is not None for r in readings)
    with pytest.raises(UserError, match="cannot be loaded from the hub"):
        list(read(f"hf:{tmp_path / 'nothing'}", Options(format="openai-chat")))
