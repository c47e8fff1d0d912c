"""Search in a folder of text files: `search` finds files with BM25 and shows passages, `visit` reads one by pages."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from fairtrial.agents.tools.functions import function_tool
from fairtrial.agents.tools.tool import Tool, ToolError
from fairtrial.core.errors import UserError
from fairtrial.tasks.worlds.bm25 import Bm25, Page

_WORD = re.compile(r"\w+")
_SNIFFED = 8192


def folder_tools(
    folder: Path, *, results: int = 5, passage: int = 240, page: int = 8000, largest: int = 4 << 20
) -> tuple[Tool, Tool]:
    """The tools `search` and `visit` over the text files of a folder and its subfolders, as they are now.

    Hidden files, files that are no UTF-8 text and links are left out. The order of equals is that of the paths.

    Args:
        folder: The folder.
        results: Files that a search gives.
        passage: Characters shown of each.
        page: Characters of a page of `visit`, up to a line's end.
        largest: Bytes; larger files are left out.

    Raises:
        UserError: There is no such folder, or no text file in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of text files")
    texts = dict(_texts(folder, largest))
    if not texts:
        raise UserError(f"{folder}: holds no text files (UTF-8, at most {largest} bytes)")
    index = Bm25([Page(title, text) for title, text in texts.items()])

    async def search(query: str) -> list[dict[str, str]]:
        """Search the documents; gives the best ones' titles, each with a passage that fits.

        Args:
            query: Words to look for.
        """
        words = {word.casefold() for word in _WORD.findall(query)}
        if not words:
            raise ToolError("the query has no word; say what to look for")
        hits = index.search(query, results)
        return [{"title": hit.page.title, "passage": _passage(hit.page.text, words, passage)} for hit in hits]

    async def visit(title: str, page_number: int = 1) -> str:
        """Read a document.

        Args:
            title: As a search gives it.
            page_number: Of a long document, from 1.
        """
        if title not in texts:
            near = ", ".join(difflib.get_close_matches(title, texts, n=3))
            raise ToolError(f'no document "{title}"; ' + (f"there is {near}" if near else "search for one"))
        pages = _pages(texts[title], page)
        if not 1 <= page_number <= len(pages):
            raise ToolError(f'"{title}" has the pages 1 to {len(pages)}')
        note = f"[page {page_number} of {len(pages)}]\n" if len(pages) > 1 else ""
        return note + pages[page_number - 1]

    return function_tool(search), function_tool(visit)


def _texts(folder: Path, largest: int) -> Iterator[tuple[str, str]]:
    """(path inside the folder, content) of each text file, in the order of the paths."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(place) / name
            if name.startswith(".") or path.is_symlink() or not path.is_file():
                continue
            try:
                if path.stat().st_size > largest:
                    continue
                text = path.read_text("utf-8")
            except UnicodeDecodeError:
                continue
            except OSError as error:
                raise UserError(f"{path}: cannot be read: {error.strerror}") from None
            if "\0" not in text[:_SNIFFED] and text.strip():
                yield path.relative_to(folder).as_posix(), text


def _passage(text: str, words: set[str], size: int) -> str:
    """The stretch of about `size` characters with the most of the words, the first of equals."""
    flat = " ".join(text.split())
    best, most = 0, -1
    for start in range(0, max(1, len(flat)), max(1, size // 2)):
        found = {word.casefold() for word in _WORD.findall(flat[start : start + size])}
        if len(found & words) > most:
            best, most = start, len(found & words)
    start = flat.rfind(" ", 0, best) + 1 if best else 0
    end = flat.find(" ", start + size)
    return ("... " if start else "") + (flat[start:] if end < 0 else f"{flat[start:end]} ...")


def _pages(text: str, size: int) -> list[str]:
    """The text in pieces of at most `size` characters that end with a line where they can."""
    pages: list[str] = []
    start = 0
    while start < len(text):
        end = start + size
        if end < len(text):
            line = text.rfind("\n", start, end) + 1
            end = line if line > start else end
        pages.append(text[start:end])
        start = end
    return pages or [""]
