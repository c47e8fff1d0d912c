"""Judges the redacted transcripts against the marked originals: {KIND:text} is to be replaced, {~KIND:text} is to be kept."""

import re
from pathlib import Path

import grading

DATA = Path(__file__).parent / "data"
PIECE = re.compile(r"\{(~?)([A-Z]+):([^}]*)\}")
KINDS = ("EMAIL", "CARD", "IBAN", "PHONE", "IP", "DOB")


def checks():
    wrong = {kind: [] for kind in KINDS}
    for path in sorted(DATA.glob("*.txt")):
        marked = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        text = grading.read_text(grading.APP / "redacted" / path.name, 200_000).replace("\r\n", "\n")
        found = text.removesuffix("\n").split("\n")
        if len(found) != len(marked):
            raise grading.Refused(f"{path.name}: {len(found)} lines, expected {len(marked)}")
        for index, (source, line) in enumerate(zip(marked, found), 1):
            truth = PIECE.sub(lambda match: match[3] if match[1] else f"[{match[2]}]", source)
            kinds = {match[2] for match in PIECE.finditer(source)}
            if line != truth and not kinds:
                raise grading.Refused(f"{path.name}, line {index}: changed although nothing in it is personal data")
            for kind in kinds if line != truth else ():
                wrong[kind].append(f"{path.name}:{index}")
    return [(kind, not wrong[kind], f"wrong lines: {grading.shown(wrong[kind])}") for kind in KINDS]


grading.grade(checks, grading.mean)
