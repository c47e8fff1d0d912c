"""Judges the repaired documents against marked ones: `(right<<wrong>>)` is a link to repair, TOC<<...>> a list to rewrite."""

import re
from pathlib import Path

import grading

DATA = Path(__file__).parent / "data"
MARK = re.compile(r"\(([^()<>\s]*)<<([^>\s]*)>>\)|TOC<<(.*?)>>\n", re.DOTALL)


def contents(right):
    """The items that belong into the list of a document; fences in the documents are known to be well formed."""
    seen, items, fence, after = {}, [], "", False
    for line in right.split("\n"):
        tick = re.match(r"(`{3,}|~{3,})", line)
        if tick and not fence:
            fence = tick[1]
        elif fence:
            fence = "" if tick and line.strip() == tick[1] and tick[1].startswith(fence) else fence
        elif re.match(r"#{1,6} ", line):
            marks, _, text = line.partition(" ")
            text = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", re.sub(r" +#+ *$", "", text).strip())
            anchor = re.sub(r"[^\w \-]", "", text.lower()).replace(" ", "-")
            count = seen[anchor] = seen.get(anchor, -1) + 1
            if after and 2 <= len(marks) <= 4:
                items.append("  " * (len(marks) - 2) + f"- [{text}](#{anchor}{f'-{count}' if count else ''})")
        after = after or line == "<!-- /toc -->"
    return "".join(item + "\n" for item in items)


def pieces(marked):
    """The document as a list: str for what must stay, (name, right, wrong) for what must be repaired."""
    right_links = re.sub(r"\(([^()<>\s]*)<<[^>\s]*>>\)", r"(\1)", marked)
    result, start = [], 0
    for match in MARK.finditer(marked):
        result.append(marked[start:match.start()])
        if match[3] is None:
            result.append((f"link to {match[2]}", f"({match[1]})", f"({match[2]})"))
        else:
            result.append(("table of contents", contents(right_links), match[3] + "\n" if match[3] else ""))
        start = match.end()
    return [*result, marked[start:]]


def checks():
    rows = []
    for path in sorted((DATA / "marked").rglob("*.md")):
        name = path.relative_to(DATA / "marked").as_posix()
        parts = pieces(path.read_bytes().decode("utf-8").replace("\r\n", "\n"))
        crlf = b"\r\n" in path.read_bytes()
        rows += judge_document(name, parts, crlf)
    return rows


def judge_document(name, parts, crlf):
    """One check for each repair of a document; none of them is done where the rest of the document has changed."""
    repairs = [part for part in parts if type(part) is tuple]
    try:
        found = grading.read_bytes(grading.APP / "docs" / name, 100_000).decode("utf-8")
        if crlf != ("\r\n" in found) or found.count("\r") != (found.count("\n") if crlf else 0):
            raise grading.Refused("line ends have changed")
        values = repaired(found.replace("\r\n", "\n"), parts)
    except (grading.Refused, UnicodeDecodeError) as error:
        return [(f"{name}: {what}", False, str(error)) for what, _, _ in repairs]
    rows = []
    for (what, right, _), value in zip(repairs, values):
        good = value == right or (what.startswith("table") and value.strip("\n") == right.strip("\n"))
        rows.append((f"{name}: {what}", good, grading.shown(value, 200)))
    return rows


def repaired(found, parts):
    """What stands in place of each repair; the rest of the text has to be as it was. A link may be anything without a
    bracket or blank, a list anything up to the closing mark, so that one failed repair does not hide the others."""
    pattern = ""
    for part in parts:
        if type(part) is str:
            pattern += re.escape(part)
        else:
            pattern += r"((?:(?!<!-- /toc -->).)*?)" if part[0].startswith("table") else r"(\([^()\s]*\))"
    match = re.fullmatch(pattern, found, re.DOTALL)
    if not match:
        raise grading.Refused("something has changed that needed no repair")
    return match.groups()


grading.grade(checks, grading.mean)
