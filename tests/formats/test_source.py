"""Reading values: every shape of file, and what is wrong is reported in its place while the rest is still read."""

import gzip
import json
import tracemalloc

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from fairtrial.core.errors import UserError
from fairtrial.formats import source
from fairtrial.formats.source import values

ROWS = [
    {"id": 1, "text": 'a "quoted" \\ [brace] {x}'},
    {"id": 2, "text": "zwei äöü 🎈"},
    {"id": 3, "nested": [[1, 2], {"a": []}]},
]


def read(path, **kwargs):
    return [(item.line, item.value, item.problem) for item in values(path, **kwargs)]


def good(rows):
    return [(line, row, None) for line, row in enumerate(rows, 1)]


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


@pytest.mark.parametrize(
    "content",
    [
        LINES,
        LINES.rstrip("\n"),
        LINES.replace("\n", "\r\n"),
        "\ufeff" + LINES,
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2, ensure_ascii=False),
        "\n\n  " + json.dumps(ROWS, indent=1),
    ],
    ids=["lines", "no last newline", "crlf", "byte order mark", "array", "pretty array", "leading blanks"],
)
@pytest.mark.parametrize("pack", ["", ".gz", ".zst"])
def test_rows_come_out_of_every_shape_of_file(tmp_path, content, pack):
    raw = content.encode()
    packed = {"": raw, ".gz": gzip.compress(raw), ".zst": zstandard.compress(raw)}[pack]
    assert read(write(tmp_path, f"rows.json{pack}", packed)) == good(ROWS)


def test_blank_lines_are_no_rows_but_count_as_lines(tmp_path):
    assert read(write(tmp_path, "a.jsonl", '{"a": 1}\n\n  \n{"a": 2}\n')) == [(1, {"a": 1}, None), (4, {"a": 2}, None)]


def test_an_empty_file_has_no_values(tmp_path):
    assert read(write(tmp_path, "a.jsonl", "")) == [] == read(write(tmp_path, "b.jsonl", "\n\n"))


@pytest.mark.parametrize("indent", [None, 2])
def test_one_document(tmp_path, indent):
    document = {"info": {"x": 1}, "messages": [{"role": "user", "content": "hi\nthere"}]}
    assert read(write(tmp_path, "a.json", json.dumps(document, indent=indent))) == good([document])


def test_documents_printed_one_after_the_other(tmp_path):
    text = "".join(json.dumps(row, indent=4) + "\n" for row in ROWS)
    assert read(write(tmp_path, "a.json", text)) == good(ROWS)
    cut = read(write(tmp_path, "b.json", text[:-30]))
    assert [value for _, value, problem in cut if not problem] == ROWS[:2] and "cut off" in cut[2][2]


def test_an_array_can_be_taken_whole(tmp_path):
    path = write(tmp_path, "a.json", json.dumps(ROWS))
    assert source.is_array(path) and read(path, document=True) == good([ROWS])
    assert not source.is_array(write(tmp_path, "a.jsonl", LINES))


def test_lines_that_are_lists_are_lines(tmp_path):
    assert read(write(tmp_path, "a.jsonl", "[1, 2]\n[3]\n")) == good([[1, 2], [3]])


def test_a_broken_line_is_a_problem_at_its_line_and_the_rest_is_read(tmp_path):
    path = write(tmp_path, "a.jsonl", b'{"a": 1}\n{"a": \n{"b": "\xff"}\n{"c": NaN}\n{"d": 4}')
    found = read(path)
    assert [line for line, _, _ in found] == [1, 2, 3, 4, 5]
    assert [value for _, value, problem in found if not problem] == [{"a": 1}, {"d": 4}]
    assert "not valid JSON" in found[1][2]
    assert found[2][2] == "not valid JSON: byte 8 is not UTF-8"
    assert found[3][2] == "not valid JSON: NaN is no JSON number; write null"
    assert [item.raw for item in values(path)][1] == b'{"a": \n', "what could not be read is handed on"


def test_a_broken_first_line_does_not_hide_the_others(tmp_path):
    found = read(write(tmp_path, "a.jsonl", '{"a": 1, "b": \n{"a": 2}\n{"a": 3}\n'))
    assert [value for _, value, _ in found] == [None, {"a": 2}, {"a": 3}]


def test_a_line_cut_off_at_the_end(tmp_path):
    found = read(write(tmp_path, "a.jsonl", LINES[:-20]))
    assert [value for _, value, _ in found] == [*ROWS[:2], None] and found[2][2]


def test_a_line_over_the_limit_is_skipped_without_being_held(tmp_path):
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(b'{"a": 1}\n{"text": "')
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n{"a": 3}\n')
    tracemalloc.start()
    found = read(path, limit=4 << 20)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    assert [(line, value) for line, value, _ in found] == [(1, {"a": 1}), (2, None), (3, {"a": 3})]
    assert found[1][2] == "a line of 100 MB, over the limit of 4 MB (--max-mb raises it)"


def test_deep_nesting_is_a_problem_not_a_crash(tmp_path):
    found = read(write(tmp_path, "a.jsonl", '{"a": 1}\n' + "[" * 100_000 + "\n" + '{"a": 3}\n'))
    assert [value for _, value, _ in found] == [{"a": 1}, None, {"a": 3}]
    assert "not valid JSON" in found[1][2]
    alone = read(write(tmp_path, "b.json", "[" * 100_000 + "]" * 100_000))
    assert len(alone) == 1 and "not valid JSON" in alone[0][2]


@pytest.mark.parametrize("cut", [5, 40, 120])
def test_a_cut_off_array_gives_its_whole_elements_and_says_so(tmp_path, cut):
    text = json.dumps(ROWS)
    found = read(write(tmp_path, "a.json", text[:-cut]))
    whole = [row for row in ROWS if json.dumps(row) in text[:-cut]]
    assert [value for _, value, problem in found if not problem] == whole
    assert "cut off" in found[-1][2]


def test_a_broken_element_of_an_array_costs_only_itself(tmp_path):
    found = read(write(tmp_path, "a.json", '[{"a": 1}, {"b": nope}, "x", 7, null, {"c": 3}]'))
    assert [value for _, value, problem in found if not problem] == [{"a": 1}, "x", 7, None, {"c": 3}]
    assert found[1][0] == 2 and "not valid JSON" in found[1][2]


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.recursive(
            st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=30),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=8,
        ),
        max_size=6,
    ),
    chunk=st.sampled_from([3, 17, 64]),
    indent=st.sampled_from([None, 1]),
)
def test_an_array_split_as_it_is_read_gives_the_same_values(rows, chunk, indent):
    import io

    raw = json.dumps(rows, indent=indent, ensure_ascii=False).encode()
    saved, source._CHUNK = source._CHUNK, chunk
    try:
        parts = list(source._split(io.BytesIO(raw[chunk:]), raw[:chunk], 10_000))
    finally:
        source._CHUNK = saved
    assert [json.loads(part) for part in parts] == rows


def test_a_large_array_is_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "_WHOLE", 1 << 20)
    row = {"text": "x" * 1000}
    path = tmp_path / "a.json"
    with path.open("w") as file:
        file.write("[" + ",\n".join(json.dumps(row) for _ in range(20_000)) + "]")
    tracemalloc.start()
    count = sum(item.value == row for item in values(path))
    assert tracemalloc.get_traced_memory()[1] < 12e6 and count == 20_000
    tracemalloc.stop()


def test_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.Table.from_pylist([{"id": "a", "n": [1, 2]}, {"id": "b", "n": None}]), path)
    assert read(path) == good([{"id": "a", "n": [1, 2]}, {"id": "b", "n": None}])
    with pytest.raises(UserError, match="is no Parquet file"):
        read(write(tmp_path, "b.parquet", "nope"))


def test_files_that_cannot_be_read_say_so(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "missing.jsonl")
    with pytest.raises(UserError, match="is a folder"):
        read(tmp_path)
    with pytest.raises(UserError, match="cannot be unpacked"):
        read(write(tmp_path, "a.jsonl.gz", "not gzip"))
    with pytest.raises(UserError, match="UTF-16"):
        read(write(tmp_path, "a.jsonl", '{"a": 1}'.encode("utf-16")))


def test_a_compressed_file_that_breaks_off_gives_what_came_before(tmp_path):
    raw = gzip.compress(b"".join(b'{"a": %d, "t": "%d"}\n' % (n, n * 7919) for n in range(200_000)))
    found = read(write(tmp_path, "a.jsonl.gz", raw[: len(raw) // 2]))
    assert len(found) > 10_000 and "cannot be unpacked further" in found[-1][2]
    assert all(problem is None for _, _, problem in found[:-2])
