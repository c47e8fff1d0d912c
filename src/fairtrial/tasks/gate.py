"""The gate: before any model runs, each task proves its verifier, or is refused with the reason.

The author's solution must score 1, doing nothing must score 0, and forging must not pay. What was proved is
remembered by task, sandbox and versions.
"""

from __future__ import annotations

import ast
import json
import platform
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import fairtrial
from fairtrial.core.errors import InfraError, one_line
from fairtrial.core.ids import canonical_json, digest
from fairtrial.core.trial import Refusal
from fairtrial.tasks.sandbox.api import Sandbox
from fairtrial.tasks.task import Image, Task

Rule = Literal["strict", "lenient", "off"]
"""strict: nop = 0 and forger = 0. lenient (for imported tasks): nop < 1, forger <= nop. off: no proof asked for."""
_EXACT = 1e-9
_TEXT_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Proof:
    """What the gate's agents scored on a task; None where one could not be run, with the reason in `error`."""

    task: str
    oracle: float | None = None
    oracle_again: float | None = None
    nop: float | None = None
    forger: float | None = None
    seconds: float = 0.0
    error: str | None = None
    leaks: tuple[str, ...] = ()


Try = Callable[[str], Awaitable[tuple[float, float]]]
"""Runs the gate agent of that name ("oracle", "nop", "forger") and returns (reward, seconds)."""


async def prove(task: Task, image: Image, sandbox: Sandbox, run: Try, *, twice_below_s: float = 3.0) -> Proof:
    """Run oracle, nop and forger on a task. The oracle runs twice where that is cheap: a flaky verifier shows."""
    if any(step.solution is None for step in task.steps):
        return Proof(task.id, error="it has no solution/solve.sh, so nothing proves that it can be solved")
    proof, name = Proof(task.id), "oracle"
    try:
        score, total = await run(name)
        proof = replace(proof, oracle=score)
        if total < twice_below_s:
            score, seconds = await run(name)
            proof, total = replace(proof, oracle_again=score), total + seconds
        name = "nop"
        score, seconds = await run(name)
        proof, total = replace(proof, nop=score), total + seconds
        if sandbox.isolated:
            name = "forger"
            score, seconds = await run(name)
            proof, total = replace(proof, forger=score), total + seconds
    except InfraError as error:
        return replace(proof, error=f"{name} could not be judged: {one_line(error)}")
    return replace(proof, seconds=round(total, 3), leaks=tuple(leaks(task, image)))


def refusal(proof: Proof, rule: Rule) -> Refusal | None:
    """Why a task with this proof must not be used, or None."""
    if rule == "off":
        return None
    reason = proof.error or _broken_rule(proof, rule)
    return Refusal(proof.task, reason) if reason else None


def _broken_rule(proof: Proof, rule: Rule) -> str | None:
    for score in (proof.oracle, proof.oracle_again):
        if score is not None and abs(score - 1.0) > _EXACT:
            again = proof.oracle_again is not None and proof.oracle_again != proof.oracle
            flaky = (
                f" (and {proof.oracle:g} at another time: its verifier is flaky)"
                if again and score is not proof.oracle
                else ""
            )
            return f"its own solution scores {score:g}, not 1{flaky}"
    nop, forger = proof.nop, proof.forger
    if nop is not None and (nop > _EXACT if rule == "strict" else nop >= 1.0 - _EXACT):
        wanted = "0" if rule == "strict" else "less than 1"
        return f"doing nothing scores {nop:g}, not {wanted}"
    if forger is not None and forger > (0.0 if rule == "strict" else nop or 0.0) + _EXACT:
        return f"an agent that only forges its verdict scores {forger:g}"
    return None


def warnings(proof: Proof, rule: Rule) -> list[str]:
    """What a reader should know of a task that was let through."""
    found: list[str] = []
    if proof.error is None and rule != "off" and proof.nop is not None and proof.nop > _EXACT:
        found.append(f"{proof.task}: doing nothing scores {proof.nop:g}")
    if proof.error is None and proof.forger is None:
        found.append(f"{proof.task}: not tried with the forger: the sandbox does not isolate")
    if proof.leaks:
        shown = ", ".join(proof.leaks[:5])
        found.append(f"{proof.task}: its skill holds constants of its tests that instruction and data do not: {shown}")
    return found


class Proofs:
    """Proofs on disk, by all that they depend on; `prover` stands for the agents that proved."""

    def __init__(self, folder: Path, prover: str = "") -> None:
        self.folder, self.prover = folder, prover

    def _path(self, task: Task, sandbox: str) -> Path:
        versions = [fairtrial.__version__, platform.python_version(), _own_digest(), self.prover]
        return self.folder / f"{digest([task.id, task.info.digest, sandbox, *versions])}.json"

    def get(self, task: Task, sandbox: str) -> Proof | None:
        """The proof, if this task was proved before. A proof that failed to be made is never remembered."""
        try:
            data = json.loads(self._path(task, sandbox).read_bytes())
            return Proof(**{**data, "leaks": tuple(data["leaks"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def put(self, task: Task, sandbox: str, proof: Proof) -> None:
        """Remember a proof."""
        if proof.error is not None:
            return
        path = self._path(task, sandbox)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        names = ("task", "oracle", "oracle_again", "nop", "forger", "seconds", "error", "leaks")
        fresh.write_bytes(canonical_json({name: getattr(proof, name) for name in names}))
        fresh.replace(path)


def _own_digest() -> str:
    """Of the code that judges: a proof does not outlive a change to it."""
    here = Path(__file__).parent
    files = [here / name for name in ("verify.py", "tamper.py", "reward.py", "candidate.py", "gate.py")]
    return digest([file.read_text("utf-8") for file in files])


def leaks(task: Task, image: Image) -> list[str]:
    """Constants of the tests that occur in a skill but in neither instruction nor data: the skill may be the answer.

    Long strings, and numbers of at least four digits, of the verifiers' files.
    """
    if not task.skills:
        return []
    skill = "\n".join(_texts(task.skills[0].path.parent).values())
    known = "\n".join([*(step.instruction for step in task.steps), *_texts(image.files).values()])
    constants = {word for step in task.steps for word in test_constants(step.verifier.tests)}
    return sorted(word for word in constants if _occurs(word, skill) and not _occurs(word, known))


def _occurs(word: str, text: str) -> bool:
    return re.search(rf"(?<![\w.]){re.escape(word)}(?![\w])", text) is not None


def test_constants(tests: Path) -> set[str]:
    """Numbers and long words that the files of a verifier compare with."""
    found: set[str] = set()
    for name, text in _texts(tests).items():
        if name.endswith(".py"):
            found |= _python_constants(text)
        elif name.endswith((".json", ".csv", ".txt")):
            found |= _words(text)
    return found


test_constants.__test__ = False  # type: ignore[attr-defined]


def _python_constants(text: str) -> set[str]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return set()
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or id(node) in docs:
            continue
        if isinstance(node.value, int | float) and not isinstance(node.value, bool):
            found |= _numbers(repr(node.value))
        elif isinstance(node.value, str) and len(node.value.split()) == 1:
            found |= _words(node.value)
    return found


def _words(text: str) -> set[str]:
    long = {word for word in re.findall(r"[A-Za-z0-9_][A-Za-z0-9_.:/-]{13,80}", text) if re.search(r"\d", word)}
    return long | _numbers(text)


def _numbers(text: str) -> set[str]:
    found = re.findall(r"(?<![\w.])-?\d[\d_]*(?:\.\d+)?(?![\w.])", text)
    return {word for word in found if len(digits := re.sub(r"\D", "", word).strip("0")) >= 4 and len(set(digits)) > 1}


def _texts(folder: Path) -> Mapping[str, str]:
    """The text files below a folder (binary and very long ones are left out)."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file() or path.stat().st_size > _TEXT_LIMIT:
            continue
        try:
            found[str(path.relative_to(folder))] = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
    return found
