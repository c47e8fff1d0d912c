"""Reads what an agent left behind without trusting it, and writes the verdict (the same file in several tasks)."""

import json
import math
import os
import stat
from pathlib import Path

LOGS = Path("/logs/verifier")


class Refused(Exception):
    """The agent's output cannot be judged; the text says why."""


def read_bytes(path, limit=2_000_000):
    """Content of a regular file; links, devices, pipes and files over `limit` bytes are refused."""
    path = Path(path)
    for part in (path, *path.parents):
        if part.is_symlink():
            raise Refused(f"{part} is a symbolic link")
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise Refused(f"{path} does not exist") from None
    except OSError as error:
        raise Refused(f"{path} cannot be opened: {error.strerror}") from None
    with os.fdopen(handle, "rb") as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise Refused(f"{path} is not a regular file")
        if status.st_size > limit:
            raise Refused(f"{path} has {status.st_size} bytes, more than {limit}")
        return stream.read(limit + 1)


def read_text(path, limit=2_000_000):
    """Text of a UTF-8 file; a byte order mark is dropped, line ends become newlines."""
    try:
        text = read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Refused(f"{path} is not UTF-8 text") from None
    return text.replace("\r\n", "\n")


def read_json(path, limit=2_000_000):
    """Strict JSON: no NaN, no infinity, no key given twice, no bottomless nesting."""

    def constant(word):
        raise Refused(f"{path} holds {word}, which is not JSON")

    def pairs(items):
        result = dict(items)
        if len(result) != len(items):
            raise Refused(f"{path} gives a key twice")
        return result

    try:
        return json.loads(read_text(path, limit), parse_constant=constant, object_pairs_hook=pairs)
    except RecursionError:
        raise Refused(f"{path} is nested too deeply") from None
    except ValueError as error:
        raise Refused(f"{path} is not valid JSON: {str(error)[:120]}") from None


def number(value, what):
    """A finite number that is not a boolean."""
    if type(value) not in (int, float) or (type(value) is float and not math.isfinite(value)) or abs(value) > 1e15:
        raise Refused(f"{what} is not a finite number")
    return value


def want(value, kind, what):
    """`value` when it has exactly the type asked for."""
    if type(value) is not kind:
        raise Refused(f"{what} should be {kind.__name__}, found {type(value).__name__}")
    return value


def short(value, width=100):
    """A value for a note, cut."""
    text = repr(value)
    return text if len(text) <= width else text[:width] + "..."


def verdict(judge):
    """Run `judge(checks)` -> reward; write reward.json and details.json. What cannot be judged earns 0 with its reason."""
    checks, reason = [], ""
    try:
        reward = float(judge(checks))
    except Refused as error:
        reward, reason = 0.0, str(error)
    except (ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RecursionError, TypeError, ValueError) as error:
        reward, reason = 0.0, f"the output could not be judged ({type(error).__name__}: {str(error)[:120]})"
    reward = min(1.0, max(0.0, round(reward, 6)))
    LOGS.mkdir(parents=True, exist_ok=True)
    details = {"reward": reward, "reason": reason, "checks": checks}
    (LOGS / "details.json").write_text(json.dumps(details, indent=1, ensure_ascii=True) + "\n", encoding="utf-8")
    (LOGS / "reward.json").write_text(json.dumps({"reward": reward}) + "\n", encoding="utf-8")


def check(checks, name, passed, note="", weight=1.0):
    """Note one check; gives its weight when passed, else 0."""
    checks.append({"name": name, "passed": bool(passed), "weight": weight, "note": "" if passed else str(note)[:300]})
    return weight if passed else 0.0
