"""Reads what an agent left without trusting it, runs its code elsewhere, and writes the verdict.

This is the same file in the tests/ of every task of this suite, because a task folder must work alone; a test of the
suite checks that all copies are identical, so a change is made to one and copied to the others. Standard library only.
A verifier ends with `grade(checks, combine)`.
"""

import json
import math
import os
import resource
import secrets
import signal
import stat
import subprocess
import tempfile
from pathlib import Path

APP = Path("/app")
LOGS = Path("/logs/verifier")
FILE_LIMIT = 2_000_000
OUTPUT_LIMIT = 1_800_000
MAX_DEPTH = 50


class Refused(Exception):
    """What the agent left cannot be graded; the message says why."""


def shown(value, width=160):
    """A short, printable form of anything an agent wrote."""
    text = ascii(value)
    return text if len(text) <= width else text[: width - 3] + "..."


def read_bytes(path, limit=FILE_LIMIT):
    """The bytes of a regular file reached through no symbolic link, or Refused (nothing there, a trap, too long)."""
    path = Path(path)
    if os.path.realpath(path.parent) != str(path.parent):
        raise Refused(f"{path}: a folder on the way is a symbolic link")
    try:
        # A pipe that nobody writes to must not hold the verifier up.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise Refused(f"{path}: no such file") from None
    except OSError as error:
        raise Refused(f"{path}: cannot be opened ({error.strerror}; links are not followed)") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise Refused(f"{path}: not a regular file")
    with os.fdopen(handle, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise Refused(f"{path}: longer than {limit} bytes")
    return data


def read_text(path, limit=FILE_LIMIT):
    """The text of a UTF-8 file, or Refused; a byte order mark is dropped, line ends stay as they are."""
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused(f"{path}: not UTF-8 (byte {error.start})") from None


def parse_json(text, name):
    """Strict JSON: no NaN or infinity, no repeated key, at most MAX_DEPTH levels; else Refused."""

    def finite(literal):
        number = float(literal)
        if not math.isfinite(number):
            raise ValueError(f"number {literal[:20]} is not finite")
        return number

    def constant(literal):
        raise ValueError(f"{literal} is not a JSON number")

    def unique(pairs):
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key occurs twice in one object")
        return found

    try:
        value = json.loads(text, parse_float=finite, parse_constant=constant, object_pairs_hook=unique)
    except RecursionError:
        raise Refused(f"{name}: nested too deeply") from None
    except ValueError as error:
        raise Refused(f"{name}: not valid JSON ({shown(str(error))})") from None
    level, depth = [value], 0
    while level:
        inner = [part.values() if isinstance(part, dict) else part for part in level if isinstance(part, dict | list)]
        level, depth = [part for parts in inner for part in parts], depth + bool(inner)
        if depth > MAX_DEPTH:
            raise Refused(f"{name}: nested too deeply")
    return value


def load_json(path, limit=FILE_LIMIT):
    """The value in a JSON file, or Refused."""
    return parse_json(read_text(path, limit), str(path))


def want(value, kind, what):
    """`value` when it has exactly the type asked for (True is no int), or Refused."""
    if type(value) is not kind:
        raise Refused(f"{what} should be {kind.__name__}, found {type(value).__name__}")
    return value


def is_number(value):
    """Whether this is a finite int or float below 1e15; True and False are not numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15


def run_candidate(code, payload, timeout_s=15):
    """Run Python `code` beside the agent's files, and give back what it reports.

    The code finds `payload` (a JSON object) on standard input with a nonce in it, and must print one line: the nonce,
    a space, JSON. Whatever else the agent's modules print is ignored. Nothing of the agent runs in this process; where
    FAIRTRIAL_CANDIDATE names a program, that runs the code in a box without the verifier. Refused when no such line
    comes: the agent's code can exit with any code and print any words, so no way of failing is told from another.
    """
    nonce = secrets.token_hex(16)
    argv = ["python3", "-c", code]
    box = os.environ.get("FAIRTRIAL_CANDIDATE")
    if box:
        argv = [box, "--timeout", str(timeout_s), "--", *argv]
        environment = dict(os.environ)
    else:
        environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": "/tmp", "LANG": "C.UTF-8"}
        environment["PYTHONDONTWRITEBYTECODE"] = "1"

    def limits():
        if not box:
            resource.setrlimit(resource.RLIMIT_FSIZE, (8_000_000, 8_000_000))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        stdin.write(json.dumps({"nonce": nonce, **payload}).encode())
        stdin.seek(0)
        streams = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        process = subprocess.Popen(argv, **streams, cwd=APP, env=environment, start_new_session=True, preexec_fn=limits)
        try:
            process.wait(timeout_s + (10 if box else 0))
        except subprocess.TimeoutExpired:
            pass
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
        stdout.seek(0)
        stderr.seek(0)
        out = stdout.read(OUTPUT_LIMIT).decode("utf-8", "replace")
        err = stderr.read(OUTPUT_LIMIT).decode("utf-8", "replace")
    for line in out.splitlines():
        if line.startswith(nonce + " "):
            return parse_json(line[len(nonce) + 1 :], "answer of the code under test")
    last = err.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
    raise Refused(f"the code under test gave no answer ({shown(last[0])})")


def grade(checks_of, combine):
    """Run `checks_of()` and write reward.json and details.json; the last call of every verifier.

    `checks_of()` gives a list of (name, score 0..1, words); the words say what is wrong, and are kept for a check that
    is not full (the first of them is the verdict's reason). `combine(scores)` gives the reward. Refused gives 0. Any
    other error is a bug of the verifier: it leaves no reward, so that it cannot be taken for the agent's failure.
    """
    try:
        checks = checks_of()
        reward = round(combine([float(score) for _, score, _ in checks]), 6)
    except Refused as error:
        checks, reward = [("readable", 0.0, str(error))], 0.0
    if not 0.0 <= reward <= 1.0:
        raise AssertionError(f"reward {reward} out of range")
    rows = [
        {"name": name, "score": float(score), "detail": "" if score == 1 else str(words)[:300]}
        for name, score, words in checks
    ]
    first = next((f"{row['name']}: {row['detail']}" for row in rows if row["score"] < 1), "")
    details = {"reward": reward, "reason": first, "checks": rows}
    LOGS.mkdir(parents=True, exist_ok=True)
    (LOGS / "details.json").write_text(json.dumps(details, indent=1) + "\n", encoding="utf-8")
    (LOGS / "reward.json").write_text(json.dumps({"reward": reward}) + "\n", encoding="utf-8")


def all_or_nothing(scores):
    """1 when there are checks and each is full, else 0."""
    return 1.0 if scores and all(score == 1.0 for score in scores) else 0.0


def mean(scores):
    """The share of checks that are met."""
    return sum(scores) / len(scores) if scores else 0.0
