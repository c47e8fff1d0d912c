import json

from casefiles import CASES, case

from fairtrial.formats.gates import published


def record(*turns):
    return {"conversations": [{"from": who, "value": text} for who, text in turns]}


def browse(code):
    return f"Thought.\n\n<function=browser>\n<parameter=code>\n{code}\n</parameter>\n</function>"


PAGE = "[Current URL: None]\n==== BEGIN accessibility tree ====\n[12] link 'a'\n==== END accessibility tree ===="


def test_elements_are_looked_for_in_the_page_shown_before():
    talk = [("human", "[5] is no page"), ("gpt", browse('click(bid="5")')), ("human", PAGE)]
    talk += [
        ("gpt", browse('click(bid="1")')),
        ("human", "no page"),
        ("function_call", browse('fill(bid="12", value="x")')),
    ]
    assert published.ungrounded_elements([record(*talk)]) == (1, 2)


def test_each_command_is_judged():
    def run(code):
        return f"<function=bash>\n<parameter=command>\npython -c $'{code}'\n</parameter>\n</function>"

    talk = [("gpt", run("print(1)")), ("gpt", run("x = 'a b'")), ("gpt", run("# it's")), ("human", run("print(2)"))]
    assert published.python_commands([record(*talk)]) == {"same": 1, "different": 1, "syntax error": 1}


def test_thoughts_that_hold_a_call():
    good, bad = {"thought": "Go.", "action": "x"}, {"thought": "<function=browser>\n", "action": "x"}
    told = [record(("assistant", json.dumps(each))) for each in (good, bad, bad)]
    assert published.leaked_thoughts(told) == (2, 3)


def test_the_stored_samples_give_the_counts_that_were_made_by_hand():
    assert published.ungrounded_elements(case("adp/mind2web/sample_sft_openhands_1.json")) == (11, 11)
    assert published.ungrounded_elements(case("adp/nnetnav-live/sample_sft_openhands.json")) == (1, 20)
    assert published.ungrounded_elements(case("adp/go-browse-wa/sample_sft_openhands.json")) == (0, 22)
    code_feedback = published.python_commands(case("adp/code_feedback/sample_sft_sweagent.json"))
    code_act = published.python_commands(case("adp/codeactinstruct/sample_sft_sweagent.json"))
    assert (code_feedback + code_act) == {"same": 18, "different": 12, "syntax error": 3}
    for data, count in (("alfworld", 84), ("webshop", 17)):
        values = case(f"adp/agentinstruct_{data}/sample_std.json")
        assert published.mislabelled(values) == (count, count)
        assert published.failing(values, "synthetic tagged") == (5, 5)
    assert published.mislabelled(case("adp/codeactinstruct/sample_std.json")) == (11, 11)
    assert published.mislabelled(case("adp/nebius_swe_agent/sample_std.json")) == (49, 49)
    assert published.failing(case("adp/agentinstruct_db/sample_std.json"), "claims without action") == (5, 5)


def test_every_stored_step_of_the_agentlab_form_leaks():
    case("adp/mind2web/sample_sft_agentlab.json")
    files = sorted(CASES.glob("adp/*/sample_sft_agentlab.json"))
    leaks = [published.leaked_thoughts(json.loads(path.read_text("utf-8"))) for path in files]
    assert leaks == [(5, 5)] * 5
