"""Made-up names of three syllables, divided into two splits whatever seed draws them.

What is trained on names of one split has never seen a name of the other one.
"""

from __future__ import annotations

import random
from hashlib import blake2b
from typing import Literal

Split = Literal["train", "evaluation"]
SYLLABLES = tuple(consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou")


def split_of(key: str) -> Split:
    """Which split a name (in small letters) or a behaviour belongs to; a quarter of all is for evaluation."""
    return "evaluation" if blake2b(key.encode(), digest_size=4).digest()[0] % 4 == 0 else "train"


def draw_name(rng: random.Random, split: Split) -> str:
    """A name of three syllables, in small letters, that no draw of the other split can give."""
    while split_of(name := "".join(rng.choices(SYLLABLES, k=3))) != split:
        pass
    return name
