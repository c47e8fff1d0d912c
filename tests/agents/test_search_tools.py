"""Search in a folder of text files: what is found, what a document reads like, and what is left out."""

import asyncio

import pytest

from fairtrial.agents.tools.search import folder_tools
from fairtrial.agents.tools.tool import ToolError
from fairtrial.core.errors import UserError

FILLER = "The quarterly report of the harbour office repeats what the earlier ones said. " * 30


def library(root):
    (root / "ports").mkdir()
    (root / "ports" / "ostend.md").write_text(FILLER + "The lighthouse keeper of Ostend was Marta Claes. " + FILLER)
    (root / "ports" / "dover.txt").write_text("Dover has chalk cliffs.\n" * 400)
    (root / ".hidden.md").write_text("lighthouse")
    (root / "picture.bin").write_bytes(b"\x89PNG\xff\xfe lighthouse")
    (root / "link.md").symlink_to(root / "ports" / "dover.txt")
    return root


def call(tool, **arguments):
    return asyncio.run(tool.call(arguments))


def test_a_search_gives_titles_and_the_passage_that_fits(tmp_path):
    search, visit = folder_tools(library(tmp_path), passage=120)
    assert (search.effect, visit.effect) == ("read", "read")
    (found,) = call(search, query="who was the LIGHTHOUSE keeper?")[:1]
    assert found["title"] == "ports/ostend.md"
    assert "Marta Claes" in found["passage"] and len(found["passage"]) < 200
    assert call(search, query="chalk")[0]["title"] == "ports/dover.txt"
    assert call(search, query="zeppelin") == []
    assert {hit["title"] for hit in call(search, query="lighthouse chalk")} == {"ports/ostend.md", "ports/dover.txt"}
    for query in ("", '"(*: -+'):
        with pytest.raises(ToolError, match="no word"):
            call(search, query=query)


def test_a_document_is_read_page_by_page_and_whole(tmp_path):
    _, visit = folder_tools(library(tmp_path), page=1000)
    pages, number = [], 1
    while True:
        head, _, body = call(visit, title="ports/dover.txt", page_number=number).partition("\n")
        pages.append(body)
        if head == f"[page {number} of {number}]":
            break
        number += 1
    assert number > 1 and "".join(pages) == (tmp_path / "ports" / "dover.txt").read_text()
    assert all(page.endswith("\n") and len(page) <= 1000 for page in pages)
    with pytest.raises(ToolError, match="pages 1 to"):
        call(visit, title="ports/dover.txt", page_number=99)
    with pytest.raises(ToolError, match=r"there is ports/dover\.txt"):
        call(visit, title="ports/dover")
    with pytest.raises(ToolError, match="search for one"):
        call(visit, title="/etc/passwd")


def test_a_folder_without_texts_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        folder_tools(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no text files"):
        folder_tools(tmp_path)
