import pytest

from fairtrial.formats.adp import ADP_V1
from fairtrial.formats.datasets.synatra import SYNATRA
from fairtrial.formats.format import Notes, RowError, decode

PAGE = "Tab 0 (current): Shop\n\n[1] RootWebArea 'Shop'\n\t[23] button 'Add \"now\"'\n# objective"
PAST = 'def solve():\n\t# step 1: Open it\n\tclick(element_id="12")\n'


def row(response, page=PAGE, objective='Buy the "best" pen.'):
    prompt = (
        '"""You get a page."""\n# website\nwebsite = "http://shop.test"\n\n# observation of the current web page\n'
        f'observation = """{page}"""\n\n# objective\nobjective = "{objective}"\n\n# past actions\n{PAST}'
    )
    return {"prompt": prompt, "response": response}


LONG = """# sub-task 2: Put it in the cart
# step 2: The page shows the pen.

Now click (once) the button, which is there.
click(element_id="23")
# step summary: Click the button"""


def test_the_whole_reasoning_is_kept():
    value = decode(SYNATRA, row(LONG), Notes())
    told, ask, past, page, call = value["content"]
    assert (told["source"], told["content"]) == ("system", "You get a page.")
    assert ask["content"] == 'Buy the "best" pen.'
    assert (past["content"], page["axtree"], page["url"]) == (PAST, PAGE, "http://shop.test")
    assert (call["function"], call["kwargs"]) == ("click", {"bid": "23"})
    assert "Now click (once) the button" in call["description"]
    assert "click(element_id" not in call["description"]


@pytest.mark.parametrize(
    ("line", "function", "kwargs"),
    [
        ('type(element_id="5", string="a, b (c)")', "type", {"bid": "5", "text": "a, b (c)"}),
        ("type(element_id='5', string='it\\'s')", "type", {"bid": "5", "text": "it's"}),
        ('goto(url="http://a.test/?x=(1,2)")', "goto", {"url": "http://a.test/?x=(1,2)"}),
        ('key_press("Enter")', "press", {"key_comb": "Enter"}),
        ('scroll("down")', "scroll", {"delta_x": 0, "delta_y": 100}),
        ("switch_tab(2)", "tab_focus", {"page_number": 2}),
        ('hover(element_id="5")', "hover", {"bid": "5"}),
        ("go_back()", "go_back", {}),
    ],
)
def test_calls_are_read_as_calls(line, function, kwargs):
    call = decode(SYNATRA, row(f"# step 2: Go\n{line}"), Notes())["content"][-1]
    assert (call["function"], call["kwargs"]) == (function, kwargs)


def test_an_answer_is_a_message():
    answer = decode(SYNATRA, row('# step 2: Say it\nstop("42, (or so)")'), Notes())["content"][-1]
    assert (answer["class_"], answer["content"]) == ("message_action", "<finish> 42, (or so) </finish>")


@pytest.mark.parametrize("response", ["# step 2: nothing", "click(1)\nclick(2)", "scroll('left')", "jump(3)", ""])
def test_a_response_without_exactly_one_action_is_rejected(response):
    with pytest.raises(RowError):
        decode(SYNATRA, row(response), Notes())


def test_the_id_is_of_the_content_and_not_of_the_place():
    notes = Notes()
    ids = [decode(SYNATRA, value, notes)["id"] for value in (row(LONG), row("go_back()"), row(LONG))]
    assert ids[0] == decode(SYNATRA, row(LONG), Notes())["id"]
    assert len(set(ids)) == 3
    faithful = Notes(faithful=True)
    assert [decode(SYNATRA, row(LONG, page="x"), faithful)["id"] for _ in range(3)] == ["0", "1", "2"]


def test_the_published_form_cuts_the_reasoning_to_its_first_line():
    notes = Notes(faithful=True)
    decoded = decode(SYNATRA, row(LONG, page="[23] button"), notes)
    (written,) = ADP_V1.encode(decoded, Notes())
    ask, page, call = written["content"]
    assert call["kwargs"] == {"bid": '"23"'}
    assert call["description"] == (
        "# sub-task 2: Put it in the cart.\n\n# step 2: The page shows the pen.\n\n# step summary: Click the button\n\n"
    )
    assert page["axtree"].endswith('click(bid="12")\n')
    assert ask["content"].endswith('Objective: Buy the "best" pen.')
    assert ("lost by the published form", "Now click (once) the button, which is there.") in notes.dropped


def test_only_its_own_rows_are_liked():
    assert SYNATRA.likes(row(LONG)) > 90
    assert [
        SYNATRA.likes(value) for value in (None, [], {}, {"prompt": "a", "response": "b"}, {"prompt": 1, "response": 2})
    ] == [0] * 5
