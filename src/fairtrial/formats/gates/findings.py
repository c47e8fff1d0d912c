"""What a gate finds in a trajectory, and what each finding means."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Finding(NamedTuple):
    """One thing that is wrong with a trajectory."""

    code: str
    """One of GATES."""
    item: int | None
    """The item, counted from 0; None where it is about the trajectory."""
    message: str


GATES: Mapping[str, str] = MappingProxyType(
    {
        "call ids": "Ids of calls are unique, every result answers a call, every call but the last ones is answered.",
        "grounded elements": "Every element that an action names is in the page that the agent saw last.",
        "call syntax in text": "Thoughts and messages hold no markup of calls.",
        "steps conserved": "No response of the source is missing.",
        "roles": "What directly follows a call comes from the environment.",
        "synthetic tagged": "Praise and closing words that a converter wrote are marked as synthetic.",
        "claims without action": "Nobody claims a result in a task for tools without having called one.",
        "one thought a response": "Parallel calls do not repeat one thought (it would count twice in training).",
        "arguments typed": "Arguments have the type that the tool declares: no digits in a text became a number.",
        "labels performed": "The action that stands in the trajectory is the one that led to the next page.",
        "unique ids": "No two trajectories have one id.",
        "text accounted": "All text of the source is kept, rewritten or dropped with a reason.",
    }
)
"""Gate -> what passes it (trap numbers of the published data: see the module of each check)."""
