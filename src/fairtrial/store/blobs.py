"""Blobs: large content under its sha256. Any process may write; a blob that has its name is complete and durable."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from fairtrial.core.errors import CorruptError, UserError
from fairtrial.core.record import BlobRef
from fairtrial.core.redact import Redactor
from fairtrial.store.disk import Disk, storing

_DIGEST = re.compile(r"[0-9a-f]{64}")
MAX_BLOB = 1 << 30


class BlobStore:
    """Content by hash under `root`/sha256/ab/abcd... Implements `core.trial.BlobSink`; pickles as its settings.

    `root` is the run directory's `blobs` folder. Without a redactor, the secrets of this process's environment are
    the ones that are redacted. `max_bytes` caps one blob.
    """

    def __init__(
        self, root: Path, redactor: Redactor | None = None, *, max_bytes: int = MAX_BLOB, disk: Disk | None = None
    ) -> None:
        self.root, self.max_bytes = Path(root), max_bytes
        self._redactor, self._disk = redactor or Redactor(), disk or Disk()
        self._known: set[str] = set()

    def path(self, sha256: str) -> Path:
        """Where the blob with this digest lies, present or not. Raises ValueError for anything but a digest."""
        if not _DIGEST.fullmatch(sha256):
            raise ValueError(f"not a sha256 digest: {sha256[:80]!r}")
        return self.root / "sha256" / sha256[:2] / sha256

    def put(self, content: bytes) -> BlobRef:
        """Store `content`, redacted and durably, once per hash, and return the reference to what was stored.

        Raises UserError above `max_bytes` and StorageError where the disk refuses.
        """
        if len(content) > self.max_bytes:
            raise UserError(f"content of {len(content)} bytes is above the limit for one blob ({self.max_bytes})")
        content = self._redactor.content(content)
        ref = BlobRef(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
        if ref.sha256 in self._known:
            return ref
        path = self.path(ref.sha256)
        with storing(path):
            if path.is_file() and path.stat().st_size == ref.size:
                # another process may have renamed it and not yet synced the folder
                self._disk.sync_folder(path.parent)
            else:
                self._disk.make_folder(path.parent)
                self._disk.write_whole(path, content)
        self._known.add(ref.sha256)
        return ref

    def get(self, ref: BlobRef) -> bytes:
        """The content. Raises CorruptError where it is missing or is not what the reference says."""
        path = self.path(ref.sha256)
        try:
            if path.stat().st_size != ref.size:
                raise CorruptError(f"{path}: damaged: {path.stat().st_size} bytes where {ref.size} were stored")
            content = path.read_bytes()
        except OSError as error:
            raise CorruptError(f"{path}: a blob that a record names cannot be read ({error.strerror})") from None
        if hashlib.sha256(content).hexdigest() != ref.sha256:
            raise CorruptError(f"{path}: damaged: the content does not have the digest that is its name")
        return content

    def __contains__(self, ref: BlobRef) -> bool:
        return self.path(ref.sha256).is_file()

    def files(self) -> Iterator[Path]:
        """Every file in the blob folder, sorted; unfinished writes of killed processes among them."""
        return iter(sorted(path for path in self.root.rglob("*") if not path.is_dir()))
