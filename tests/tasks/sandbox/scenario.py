"""A driver as a program of its own: runs one command in one box and prints the Execution as JSON.

Used where a test needs another user or a driver to kill. The argument is a JSON object: sandbox, files, argv, and
optionally limits, timeout_s, groups (False: pretend that no control group can be made).
"""

import asyncio
import base64
import json
import sys
from pathlib import Path

from fairtrial.tasks.sandbox.api import BoxLimits, BoxSpec
from fairtrial.tasks.sandbox.bubblewrap import Bubblewrap
from fairtrial.tasks.sandbox.cgroups import POOL
from fairtrial.tasks.sandbox.none import NoSandbox
from fairtrial.tasks.sandbox.unshare import Unshare

SANDBOXES = {"bubblewrap": Bubblewrap, "unshare": Unshare, "none": NoSandbox}


def main() -> None:
    given = json.loads(sys.argv[1])
    if not given.get("groups", True):
        POOL.give_up("switched off for a test")
    spec = BoxSpec(Path(given["files"]), limits=BoxLimits(**given.get("limits", {})))
    box = SANDBOXES[given["sandbox"]]().box(spec)
    done = asyncio.run(box.exec(given["argv"], timeout_s=given.get("timeout_s")))
    print(
        json.dumps(
            {
                "exit_code": done.exit_code,
                "end": done.end,
                "stdout": done.stdout.decode(errors="replace"),
                "stderr": done.stderr.decode(errors="replace"),
                "cpu_s": done.cpu_s,
                "wall_s": done.wall_s,
                "peak_mb": done.peak_mb,
                "leftover": done.leftover,
                "grouped": POOL.version > 0 and not POOL.reason,
                "stdout_b64": base64.b64encode(done.stdout[:64]).decode(),
            }
        )
    )


if __name__ == "__main__":
    main()
