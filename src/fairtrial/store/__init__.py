"""The run directory: append-only segments (the truth), an index (a cache), blobs by hash, and what checks them.

    runs/<name>/  study.toml  manifest.json  SHA256SUMS  segments/driver-000000.jsonl.zst  index.db
                  blobs/sha256/ab/..  report/  lock

Writing (one driver per directory; a second one gets LockedError, exit code 4):

    RunDir.create(path, manifest: dict, study_text: str, redactor: Redactor) -> RunWriter
    RunDir.open_writer(path, redactor: Redactor | None = None) -> RunWriter   # recovers first: writer.recovery
    with writer:                                 # or writer.close(); closing seals the segment and frees the lock
        await writer.append(record)              # returns once the record is durable; await several at once
        writer.append_many(records)              # the same, blocking
        writer.flush()                           # blocks until everything submitted so far is durable
        writer.run                               # a RunDir over the same directory, always up to date
        writer.blobs                             # BlobStore, also writer.run.blobs

A key (arm, task, repeat, attempt) is stored once: appending it again raises ValueError. A refused write raises
StorageError; nothing acknowledged is lost, and the writer then refuses everything else until the directory is reopened.

Reading (works while a driver writes, never modifies the directory; reopen to see newer records):

    RunDir.exists(path) -> bool                  # is there a finished creation at `path`?
    RunDir.open(path) -> RunDir                  # context manager
    run.path, run.manifest (dict), run.study_text, run.blobs
    len(run)                                     # attempts stored
    run.get(key: TrialKey) -> Record             # KeyError where absent; reads one frame
    run.latest(arm, task, repeat) -> Record | None
    run.records(latest=False, arm=None) -> Iterator[Record]           # streams the segments, oldest first
    run.rows(latest=True) -> Iterator[Row]                            # everything below is from the index alone
    run.done() -> dict[(arm, task, repeat), Done(attempt, outcome)]   # latest attempt of each trial
    run.arms() -> list[ArmSummary]               # outcomes, means of scores (latest attempts), spending (all)
    run.score_rows(score) -> Iterator[ScoreRow(arm, task, repeat, value | None, outcome)]   # latest attempts
    run.score_names() -> list[str]
    run.marks() -> Iterator[Marked(arm, flags, provenance, trials)]         # latest attempts
    run.totals() -> Totals(attempts, usage, wall_s, working_s, waiting_s)                   # over ALL attempts

The manifest and the study text are redacted like everything else, so compare a new manifest with the stored one
as `redactor.value(new) == run.manifest`.

Checking and leaving:

    verify(path) -> list[Problem]                # empty: every byte is as it was written
    reindex(path) -> Reindexed(records, problems)
    export_jsonl(path, out) -> int;  export_parquet(path, out) -> int     # records written
    unpack(archive, target, limits=UnpackLimits()) -> str                 # sha256 of the archive
    whole_file(path) -> context manager          # a binary file that gets its name once it is complete and durable
    packed_file(path), whole_folder(path)        # the same for a file that `.zst` compresses, and for a folder
    storing(path) -> context manager             # OSError inside becomes a StorageError that says what to do
    BlobStore(root, redactor=None, max_bytes=...)          # picklable; put(bytes) -> BlobRef, get(ref) -> bytes
"""

from __future__ import annotations

from fairtrial.store.blobs import BlobStore
from fairtrial.store.disk import packed_file, storing, whole_file, whole_folder
from fairtrial.store.export import export_jsonl, export_parquet
from fairtrial.store.queries import ArmSummary, Done, Marked, Mean, Row, ScoreRow, Totals
from fairtrial.store.recovery import Recovery
from fairtrial.store.rundir import RunDir
from fairtrial.store.unpack import UnpackLimits, unpack
from fairtrial.store.verify import Problem, Reindexed, reindex, verify
from fairtrial.store.writer import RunWriter

__all__ = [
    "ArmSummary",
    "BlobStore",
    "Done",
    "Marked",
    "Mean",
    "Problem",
    "Recovery",
    "Reindexed",
    "Row",
    "RunDir",
    "RunWriter",
    "ScoreRow",
    "Totals",
    "UnpackLimits",
    "export_jsonl",
    "export_parquet",
    "packed_file",
    "reindex",
    "storing",
    "unpack",
    "verify",
    "whole_file",
    "whole_folder",
]
