"""The three kinds of error: the user's, the infrastructure's, and bugs (everything else, with its traceback)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FairtrialError(Exception):
    """Base of the errors that fairtrial raises on purpose."""

    exit_code = 2


class UserError(FairtrialError):
    """Bad input. The message is one line that says what is wrong and what to do; shown without a traceback."""


class LockedError(UserError):
    """Another driver owns the run directory."""

    exit_code = 4


class CorruptError(UserError):
    """What is on disk is not what was written."""

    exit_code = 4


class StorageError(UserError):
    """The disk refused a write (full, read-only ...). What was acknowledged is safe and the run can be resumed."""

    exit_code = 4


class InfraError(FairtrialError):
    """The infrastructure failed, not the agent: the trial is retried and, if that does not help, recorded as errored.

    `cause` is a short machine-readable word ("provider", "sandbox", "verifier" ...); `retryable` is False where
    another attempt cannot help; `retry_after_s` is the wait that the other side asked for, in seconds.
    """

    exit_code = 3

    def __init__(
        self, message: str, *, cause: str = "infrastructure", retryable: bool = True, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.cause = cause
        self.retryable = retryable
        self.retry_after_s = retry_after_s


class LimitExceeded(FairtrialError):  # noqa: N818 - the agent's end, not a mistake
    """The agent used up one of its limits. A failed trial, scored by the task's rule; `limit` names the limit."""

    def __init__(self, limit: str, message: str) -> None:
        super().__init__(message)
        self.limit = limit

    def __reduce__(self) -> tuple[type[LimitExceeded], tuple[str, str]]:
        return (LimitExceeded, (self.limit, str(self)))


def one_line(error: BaseException) -> str:
    """The error's message on one line, with the class name where the message alone says nothing."""
    text = " ".join(str(error).split())
    return text if isinstance(error, FairtrialError) and text else f"{type(error).__name__}: {text}".rstrip(": ")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean "x"?` for the nearest known word, or the list of what is known where none is near."""
    choices = sorted(set(known))
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    if near:
        return f'; did you mean "{near[0]}"?'
    return f"; known: {', '.join(choices)}" if choices else ""
