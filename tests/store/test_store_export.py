import json
import sys

import pytest

from fairtrial.core.errors import CorruptError, UserError
from fairtrial.core.record import Record
from fairtrial.store import export_jsonl, export_parquet


@pytest.fixture
def records(create, make_record):
    found = [make_record(0, outcome="errored"), make_record(1), make_record(2, size=100_000), make_record(0, attempt=2)]
    with create() as writer:
        writer.append_many(found)
    return found


def test_json_lines_hold_every_record_whole(records, tmp_path):
    assert export_jsonl(tmp_path / "run", tmp_path / "out.jsonl") == 4
    lines = (tmp_path / "out.jsonl").read_bytes().splitlines()
    assert [Record.model_validate_json(line) for line in lines] == records
    assert export_jsonl(tmp_path / "run", tmp_path / "deep" / "out.jsonl.zst") == 4
    import zstandard

    packed = (tmp_path / "deep" / "out.jsonl.zst").read_bytes()
    assert zstandard.ZstdDecompressor().stream_reader(packed).read().splitlines() == lines


def test_parquet_holds_columns_and_the_whole_record(records, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert export_parquet(tmp_path / "run", tmp_path / "out.parquet") == 4
    rows = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["latest"] for row in rows] == [False, True, True, True]
    assert rows[0]["score.steps"] is None
    assert rows[1]["score.steps"] == 1.0
    assert rows[0]["cause"] == "provider"
    assert rows[2]["started"] == records[2].timings.started
    assert [Record.model_validate_json(row["record"]) for row in rows] == records
    assert json.loads(rows[3]["record"])["key"]["attempt"] == 2


def test_parquet_without_pyarrow_names_the_command(records, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r'pip install "fairtrial\[parquet\]"'):
        export_parquet(tmp_path / "run", tmp_path / "out.parquet")


def test_damage_leaves_no_half_export(records, tmp_path):
    segment = tmp_path / "run" / "segments" / "driver-000000.jsonl.zst"
    content = bytearray(segment.read_bytes())
    content[100] ^= 1
    segment.write_bytes(content)
    (tmp_path / "out.jsonl").write_text("the last good one")
    with pytest.raises(CorruptError, match="fairtrial verify"):
        export_jsonl(tmp_path / "run", tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == "the last good one"
    assert {path.name for path in tmp_path.iterdir()} == {"run", "out.jsonl"}
