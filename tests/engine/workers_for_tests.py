"""Small real pieces that worker processes import: a blob sink on a folder, and factories that cannot build a worker."""

import hashlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from fairtrial.core.errors import InfraError, UserError
from fairtrial.core.record import BlobRef
from fairtrial.engine.scripted import open_worker


@dataclass(frozen=True)
class FolderBlobs:
    folder: Path

    def put(self, content: bytes) -> BlobRef:
        name = hashlib.sha256(content).hexdigest()
        (self.folder / name).write_bytes(content)
        return BlobRef(sha256=name, size=len(content))


def refuses(settings):
    raise UserError("no model named tinny")


def unreachable(settings):
    raise InfraError("the endpoint does not answer")


def has_a_bug(settings):
    return {}["missing"]


def dies_at_once(settings):
    os._exit(7)


def killed_at_every_start(settings):
    os.kill(os.getpid(), signal.SIGKILL)


def killed_once(settings):
    marker = Path(settings["journal"]).with_name("killed_once")
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return open_worker(settings)
