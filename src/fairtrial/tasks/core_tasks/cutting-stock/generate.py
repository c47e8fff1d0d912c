"""Makes the input of this task: `python3 generate.py [FOLDER]` writes environment/data and tests/data below FOLDER.

Bars are cut up into pieces here with hardly any rest, so that the number of new bars used is known to be the smallest (the
tests prove it by adding up lengths). The files are committed; running this is not needed to run the task.
"""

import json
import random
import shutil
import sys
from pathlib import Path

RNG = random.Random(606)
BAR, KERF, TRIM = 6000, 4, 15
OFFCUTS = {"R1": 2315, "R2": 1890, "R3": 3120, "R4": 905}
NEW = 9


def split(length, parts, rest):
    """Piece lengths that fill a bar up to `rest` mm."""
    room = length - KERF * (parts - 1) - rest
    while True:
        marks = sorted(RNG.sample(range(0, room // 5), parts - 1))
        pieces = [5 * (b - a) for a, b in zip([0, *marks], marks)]
        pieces.append(room - sum(pieces))
        if min(pieces) >= 430 and max(pieces) <= 2900:
            return pieces


def written(length):
    unit = RNG.choice(["mm", "mm", "mm", "cm", "m"])
    if unit == "mm":
        return (f"{length // 1000} {length % 1000:03d}" if length >= 1000 and RNG.random() < 0.3 else str(length)), unit
    digits, scale = (1, 10) if unit == "cm" else (3, 1000)
    return f"{length / scale:.{digits}f}".replace(".", ","), unit


def main(root):
    data = root / "environment" / "data"
    data.mkdir(parents=True, exist_ok=True)
    pieces = []
    for _ in range(NEW):
        pieces += split(BAR, RNG.choice([3, 4, 4, 5]), RNG.choice([0, 1, 3, 5]))
    for length in OFFCUTS.values():
        pieces += split(length - TRIM, 1 if length < 1000 else 2, RNG.choice([0, 2])) if length > 1000 else [length - TRIM - 5]
    counts = {}
    for length in pieces:
        counts[length] = counts.get(length, 0) + 1
    rows = [(length, count, "") for length, count in counts.items()] + [(1750, 2, "cancelled"), (2600, 1, "cancelled")]
    RNG.shuffle(rows)
    lines = ["position;quantity;length;unit;note"]
    for index, (length, count, note) in enumerate(rows, 1):
        text, unit = written(length)
        lines.append(f"P{index};{count};{text};{unit};{note}")
    (data / "order.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    stock = {"new_bar_mm": BAR, "kerf_mm": KERF, "trim_mm": TRIM, "offcuts": [{"id": key, "length_mm": length} for key, length in OFFCUTS.items()]}
    (data / "stock.json").write_text(json.dumps(stock, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(root / "tests" / "data", ignore_errors=True)
    shutil.copytree(data, root / "tests" / "data")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
