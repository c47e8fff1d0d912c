"""Redacts by one pass per kind, the kinds with checksums first, each match checked before it is replaced."""

import re
from pathlib import Path

SOURCE, TARGET = Path("/app/transcripts"), Path("/app/redacted")
DATE = r"(?:\d{4}-\d{2}-\d{2}|\d{2}\.\d{2}\.\d{4}|\d{2}/\d{2}/\d{4})"
WORD = re.compile(r"\b(?:born|birthday|birth date|date of birth|dob)\b", re.IGNORECASE)
EMAIL = re.compile(r"(?<![\w.%+-])[A-Za-z0-9._%+-]+@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}(?![\w-]|\.\w)")
IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}(?![A-Za-z0-9])")
CARD = re.compile(r"(?<![A-Za-z0-9+])\d(?:[ -]?\d){12,18}(?![A-Za-z0-9])")
PHONE = re.compile(r"(?<![A-Za-z0-9+])(?:\+|00)(?=\d)\d+(?:[ .-]?\(\d+\)|[ .-]\d+)*(?:[ .-]?\d+)*(?![A-Za-z0-9])")
OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
IP = re.compile(rf"(?<![A-Za-z0-9])(?<!\d\.){OCTET}(?:\.{OCTET}){{3}}(?![A-Za-z0-9])(?!\.\d)")


def luhn(text):
    total = 0
    for index, digit in enumerate(reversed(re.sub(r"\D", "", text))):
        value = int(digit) << (index % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def mod97(text):
    text = text.replace(" ", "")
    return int("".join(str(int(char, 36)) for char in text[4:] + text[:4])) % 97 == 1


def phone(text):
    digits = re.sub(r"\D", "", text)
    return 8 <= len(digits[2:] if text.startswith("00") else digits) <= 15


def redact(line):
    line = EMAIL.sub("[EMAIL]", line)
    line = IBAN.sub(lambda m: "[IBAN]" if mod97(m[0]) else m[0], line)
    line = CARD.sub(lambda m: "[CARD]" if luhn(m[0]) else m[0], line)
    line = PHONE.sub(lambda m: "[PHONE]" if phone(m[0]) else m[0], line)
    line = IP.sub("[IP]", line)
    spans = []
    for match in re.finditer(rf"(?<![\w./-]){DATE}(?![\w/-]|\.\d)", line):
        if any(word.end() <= match.start() <= word.end() + 25 for word in WORD.finditer(line)):
            spans.append(match.span())
    for start, end in reversed(spans):
        line = line[:start] + "[DOB]" + line[end:]
    return line


TARGET.mkdir(exist_ok=True)
for path in sorted(SOURCE.glob("*.txt")):
    text = path.read_text(encoding="utf-8")
    (TARGET / path.name).write_text("\n".join(map(redact, text.split("\n"))), encoding="utf-8")
    print("redacted", path.name)
