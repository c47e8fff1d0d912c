"""Makes the input of this task: `python3 generate.py [FOLDER]` writes environment/data and tests/data below FOLDER.

The tests also get `faulty.csv`, the ids of the readings that were disturbed here. The files are committed; running this is not
needed to run the task.
"""

import math
import random
import shutil
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

RNG = random.Random(31415)
START = datetime(2026, 5, 4, 8, 0, tzinfo=timezone.utc)
SENSORS = {"T1": (0.42, 0.991, 0.0), "T2": (-1.35, 1.024, 0.14), "T3": (2.10, 0.957, 0.28), "T4": (-0.58, 1.061, 0.22)}


def bath(index):
    """A staircase that creeps: the temperature at row `index`, 30 s apart."""
    return round(12 + 22 * index / 120 + 9 * math.sin(index / 13) + 2.5 * math.sin(index / 4.1), 3)


def at(seconds):
    index, rest = divmod(seconds, 30)
    return bath(index) + (bath(index + 1) - bath(index)) * rest / 30


def comma(value, digits=3):
    return f"{value:.{digits}f}".replace(".", ",")


def main(root):
    data, tests = root / "environment" / "data", root / "tests" / "data"
    data.mkdir(parents=True, exist_ok=True)
    rows = [f"{(START + timedelta(seconds=30 * index)):%Y-%m-%dT%H:%M:%SZ},{bath(index):.3f}" for index in range(122)]
    (data / "reference.csv").write_text("time,bath_c\n" + "\n".join(rows) + "\n", encoding="utf-8")
    lines, faulty, number = [], [], 100
    for step in range(46):
        for sensor, (offset, gain, share) in SENSORS.items():
            number += 1
            seconds = 12 + step * 78 + RNG.randrange(0, 60)
            value = offset + gain * at(seconds) + max(-0.35, min(0.35, RNG.gauss(0, 0.09)))
            disturbed = RNG.random() < share
            if disturbed:
                faulty.append(number)
                if sensor == "T2":  # spikes, both ways
                    value += RNG.choice([-1, 1]) * RNG.uniform(2.5, 30)
                elif sensor == "T3":  # self-heating, more so when it is warm: always upwards, pulls the slope
                    value += 2.5 + 0.11 * max(0.0, at(seconds) - 10) + RNG.uniform(0, 1.5)
                else:  # stuck low while the bath is hot
                    value = min(value - 2.5, 14 + RNG.uniform(-1, 1))
            unit = "C" if RNG.random() < 0.8 or sensor == "T1" else RNG.choice("FK")
            shown = {"C": value, "F": value * 9 / 5 + 32, "K": value + 273.15}[unit]
            zone = timezone(timedelta(hours=2 if step < 30 else 3))  # somebody changed the zone of the logger
            stamp = (START + timedelta(seconds=seconds)).astimezone(zone).isoformat(timespec="seconds")
            line = f"{number};{stamp};{sensor};{comma(shown)};{unit}"
            lines.append(line)
            if RNG.random() < 0.06:
                lines.append(line)
            if RNG.random() < 0.06:
                number += 1
                lines.append(f"{number};{stamp};{sensor};{comma(RNG.choice([-999.0, -273.2, -9999.0]), 1)};{RNG.choice('CF')}")
    blocks = [lines[start:start + 7] for start in range(0, len(lines), 7)]
    for block in blocks:
        RNG.shuffle(block)
    text = "\n".join(line for block in blocks for line in block)
    (data / "readings.csv").write_text("id;time;sensor;value;unit\n" + text + "\n", encoding="utf-8")
    shutil.rmtree(tests, ignore_errors=True)
    shutil.copytree(data, tests)
    (tests / "faulty.csv").write_text("id\n" + "".join(f"{number}\n" for number in faulty), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
