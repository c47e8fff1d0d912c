"""The bound of a local engine's queue."""

from __future__ import annotations

from fairtrial.core.errors import InfraError


class QueueFullError(InfraError):
    """Too many requests wait for a slot of a local model; the settings that bound them are named."""

    def __init__(self, max_batch: int, max_waiting: int) -> None:
        super().__init__(
            f"{max_batch} requests are answered (max_batch) and {max_waiting} wait, which is the limit; "
            "ask for fewer at once or set max_waiting higher",
            cause="rate_limit",
            retry_after_s=1,
        )
