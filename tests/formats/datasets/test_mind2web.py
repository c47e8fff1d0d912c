import time

import pytest
from casefiles import case

from fairtrial.formats.adp import ADP_V1
from fairtrial.formats.datasets.mind2web import MIND2WEB, framed
from fairtrial.formats.format import Notes, RowError, decode

UID = "5a1f-77"
PAGE = (
    '<html backend_node_id="1"><body><a title="a > b <c" data_pw_testid_buckeye="5a1f-77" backend_node_id="136">Go</a>'
    '<iframe backend_node_id="9" name="ad"><p class="x" backend_node_id="10">Ad "1"</p></iframe></body></html>'
)


def action(op="CLICK", value="", page=PAGE, **fields):
    return {
        "action_uid": UID,
        "raw_html": page,
        "cleaned_html": "<a>Go</a>",
        "operation": {"op": op, "original_op": op, "value": value},
        "pos_candidates": [],
        "neg_candidates": [{"tag": "p", "backend_node_id": "10", "attributes": "{}"}],
        **fields,
    }


def row(*actions):
    return {
        "annotation_id": "ab-1",
        "website": "shop",
        "domain": "Shopping",
        "subdomain": "Pens",
        "confirmed_task": "Buy a pen.",
        "action_reprs": [f"[a] Go -> {entry['operation']['op']}" for entry in actions],
        "actions": list(actions),
    }


def test_each_action_names_the_element_of_its_page():
    decoded = decode(MIND2WEB, row(action(), action("SELECT", "Blue"), action("TYPE", "2")), Notes())
    ask, page, click, _, select, _, typed = decoded["content"]
    assert (ask["content"], ask["source"]) == ("Buy a pen.", "user")
    assert click["kwargs"] == {"xpath": "//*[@backend_node_id='136']"}
    assert (select["function"], select["kwargs"]["value"], typed["kwargs"]["value"]) == ("select", "Blue", "2")
    assert 'backend_node_id="136"' in page["html"]
    assert decoded["details"] == {
        "website": "shop", "domain": "Shopping", "subdomain": "Pens", "task_description": "Buy a pen."
    }  # fmt: skip


def test_nothing_is_made_up_unless_asked_for():
    assert not any(item.get("synthetic") for item in decode(MIND2WEB, row(action()), Notes())["content"])
    ended = decode(MIND2WEB, row(action()), Notes(endings=True))["content"]
    assert [item.get("synthetic") for item in ended[-2:]] == [True, True]


def test_the_published_form():
    decoded = decode(MIND2WEB, row(action("TYPE", "red")), Notes(faithful=True))
    (written,) = ADP_V1.encode(decoded, Notes())
    ask, goto, page, typed, praise, thanks = written["content"]
    assert ask["content"] == "Go to the website https://www.shop.com and Buy a pen."
    assert (goto["function"], goto["kwargs"]) == ("goto", {"url": '"https://www.shop.com"'})
    assert typed["kwargs"] == {"xpath": "\"//*[@backend_node_id='136']\"", "value": '"red"'}
    assert (page["url"], page["axtree"], praise["source"]) == (None, None, "user")
    assert thanks["content"].startswith("<finish> ")


def test_what_stands_in_a_frame_is_moved_to_its_source_document():
    page = framed(PAGE)
    assert '<iframe backend_node_id="9" name="ad" srcdoc="&lt;p class=&quot;x&quot;' in page
    assert page.endswith('"></iframe></body></html>')
    for kept in (
        '<iframe src="/a">x</iframe>',
        "<iframe srcdoc='a'>x</iframe>",
        "<iframe></iframe>",
        "<iframe>open",
        "</iframe>",
        "no frame",
    ):
        assert framed(kept) == kept
    nested = framed("<iframe><iframe><b>1</b></iframe></iframe><iframe>2</iframe>")
    assert nested.count("</iframe>") == 2
    assert "&amp;lt;b&amp;gt;1" in nested


def test_an_element_that_is_not_in_the_page_rejects_the_row():
    lost = action(page="<html></html>")
    with pytest.raises(RowError, match="action 1: its element 5a1f-77 is not in the page"):
        decode(MIND2WEB, row(action(), lost), Notes())
    told = {**lost, "pos_candidates": [{"backend_node_id": "5", "is_original_target": True, "tag": "a"}]}
    decoded = decode(MIND2WEB, row(told), Notes())
    assert decoded["content"][2]["kwargs"] == {"xpath": "//*[@backend_node_id='5']"}


def test_an_unknown_operation_rejects_the_row():
    with pytest.raises(RowError, match="'DRAG'"):
        decode(MIND2WEB, row(action("DRAG")), Notes())


def test_hostile_pages_take_no_long():
    began = time.process_time()
    for page in (
        "<iframe>" * 30_000,
        "<iframe>" * 200 + "x" + "</iframe>" * 200,
        "<" * 200_000,
        '<a "' * 50_000,
        "<iframe></iframe>" * 20_000,
    ):
        framed(page)
        with pytest.raises(RowError):
            decode(MIND2WEB, row(action(page=page)), Notes())
    assert time.process_time() - began < 20


def test_only_its_own_rows_are_liked():
    assert MIND2WEB.likes(row(action())) > 90
    assert [MIND2WEB.likes(value) for value in (None, [], {}, row(), {"actions": 3})] == [0] * 5


def test_the_published_task_sentence_is_ours():
    (published,) = case("adp/mind2web/sample_sft_openhands_1.json")
    first = published["conversations"][0]["value"]
    site = first[first.index("Go to the website ") :].split(" and ")[0]
    decoded = decode(MIND2WEB, {**row(action()), "website": site.split("www.")[1][:-4]}, Notes(faithful=True))
    assert decoded["content"][0]["content"].startswith(site)
