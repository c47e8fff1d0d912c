"""Read what an agent left without trusting it, run its code elsewhere, and write the verdict.

Every task that uses this file carries its own identical copy, because a task folder must work alone.
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
OUTPUT_LIMIT = 900_000
MAX_DEPTH = 50


class Refused(Exception):
    """What the agent left cannot be graded; the message says why."""


def shown(value, width=160):
    """A short, printable form of anything an agent wrote."""
    text = ascii(value)
    return text if len(text) <= width else text[: width - 3] + "..."


def read_bytes(path, limit=1_000_000):
    """The bytes of a regular file reached through no symbolic link, or Refused."""
    path = Path(path)
    if os.path.realpath(path.parent) != str(path.parent):
        raise Refused(f"{path}: a folder on the way is a symbolic link or missing")
    try:
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


def read_text(path, limit=1_000_000):
    """The text of a UTF-8 file (a byte order mark is ignored), or Refused."""
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused(f"{path}: not UTF-8 (byte {error.start})") from None


def parse_json(text, name):
    """Strict JSON: no NaN or infinity, no repeated key, bounded depth; else Refused."""

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
    while level := [part for parent in level if isinstance(parent, dict | list) for part in children(parent)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise Refused(f"{name}: nested too deeply")
    return value


def children(parent):
    """What an object or list holds."""
    return parent.values() if isinstance(parent, dict) else parent


def load_json(path, limit=1_000_000):
    """The value in a JSON file, or Refused."""
    return parse_json(read_text(path, limit), str(path))


def is_number(value):
    """A finite int or float; True and False are not numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15


def run_candidate(code, payload, timeout_s=15):
    """Run `code` beside the agent's files, and give back what it reports.

    The code finds `payload` (JSON) on standard input with a nonce in it, and must print one line: the nonce, a space,
    JSON. Whatever else the agent's modules print is ignored. Nothing of the agent runs in this process. Refused when
    no such line comes.
    """
    nonce = secrets.token_hex(16)
    argv = ["python3", "-c", code]
    box = os.environ.get("FAIRTRIAL_CANDIDATE")
    environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": "/tmp", "LANG": "C.UTF-8"}
    if box:
        argv = [box, "--timeout", str(timeout_s), "--", *argv]
        environment = dict(os.environ)
    else:
        environment["PYTHONDONTWRITEBYTECODE"] = "1"

    def limits():
        if not box:
            resource.setrlimit(resource.RLIMIT_FSIZE, (8_000_000, 8_000_000))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        stdin.write(json.dumps({"nonce": nonce, **payload}).encode())
        stdin.seek(0)
        process = subprocess.Popen(
            argv,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=APP,
            env=environment,
            start_new_session=True,
            preexec_fn=limits,
        )
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
        out = stdout.read(OUTPUT_LIMIT * 2).decode("utf-8", "replace")
        err = stderr.read(OUTPUT_LIMIT).decode("utf-8", "replace")
    for line in out.splitlines():
        if line.startswith(nonce + " "):
            return parse_json(line[len(nonce) + 1 :], "answer of the code under test")
    last = err.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
    raise Refused(f"the code under test gave no answer ({shown(last[0])})")


def write_verdict(reward, checks):
    """Write reward.json and details.json; `checks` is a list of (name, earned 0..1, words)."""
    if not 0.0 <= reward <= 1.0:
        raise AssertionError(f"reward {reward} out of range")
    LOGS.mkdir(parents=True, exist_ok=True)
    details = {
        "reward": reward,
        "checks": [{"name": name, "score": float(score), "detail": detail} for name, score, detail in checks],
    }
    (LOGS / "details.json").write_text(json.dumps(details, indent=1) + "\n", encoding="utf-8")
    (LOGS / "reward.json").write_text(json.dumps({"reward": reward}) + "\n", encoding="utf-8")


def grade(checks_of, combine):
    """Run `checks_of()`, a list of (name, score, words), and write the verdict that `combine(scores)` gives.

    Refused gives 0 with its reason. Any other error is a bug of the verifier: it leaves no reward, so it cannot be
    taken for the agent's.
    """
    try:
        checks = checks_of()
    except Refused as error:
        write_verdict(0.0, [("readable", 0.0, str(error))])
        return
    write_verdict(combine([score for _, score, _ in checks]), checks)


def all_or_nothing(scores):
    """1 when there are checks and each is full, else 0."""
    return 1.0 if scores and all(score == 1.0 for score in scores) else 0.0


def mean(scores):
    """The share of checks that are met."""
    return round(sum(scores) / len(scores), 6) if scores else 0.0
