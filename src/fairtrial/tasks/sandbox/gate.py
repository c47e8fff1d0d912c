"""The small shell program that runs inside every isolated box as the parent of the program that was asked for.

A box's own init reports "killed by signal 9" and "exit 137" as the same number. So the parent stops itself (SIGSTOP)
before the program starts: it can never collect the program's exit status, which therefore stays with the kernel, in a
zombie, where the driver reads the truth from outside. It also makes nothing run before the driver has set the limits:
the future program writes to a socket (the kernel tells the driver its real process id) and waits for the answer; if the
driver is dead by then, it kills its stopped parent and ends.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

FD = 3
"""Number of the gate's socket in the box."""
OPEN = b"g\n"
LAST_WORD = 's=$?; echo "$s" >&3; exit $s'
"""Said by a shell that a program woke up to collect its status after all; 128 is added to a signal's number."""
SCRIPT = (
    "( trap '' PIPE; kill -STOP $$; echo r >&3 && read -r _ <&3 || { kill -KILL $$; exit 125; }; trap - PIPE; "
    'cd "$1" || exit 126; shift; unset OLDPWD; exec "$@" 3>&- ); ' + LAST_WORD
)
_CREDENTIALS = struct.Struct("3i")


def command(argv: Sequence[str], workdir: str) -> list[str]:
    """What to run in the box so that `argv` starts in `workdir` when the gate opens."""
    return ["/bin/sh", "-c", SCRIPT, "sh", workdir, *argv]


def pair() -> tuple[socket.socket, socket.socket]:
    """(the driver's end, which learns who writes, and the box's end)."""
    outer, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    outer.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    outer.setblocking(False)
    return outer, inner


def sender(gate: socket.socket) -> int | None:
    """Process id of whoever wrote to the gate, as the driver sees it; None at its end. Raises BlockingIOError."""
    data, ancillary, _, _ = gate.recvmsg(16, socket.CMSG_SPACE(_CREDENTIALS.size))
    if not data:
        return None
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            return _CREDENTIALS.unpack(payload[: _CREDENTIALS.size])[0]
    return None


def last_word(gate: socket.socket) -> int | None:
    """The exit code that a shell reported on the gate, a signal as negative; None where none did."""
    try:
        said = gate.recv(64).split()
    except OSError:
        return None
    if not said or not said[0].isdigit():
        return None
    code = int(said[0])
    return 128 - code if code > 128 else code
