"""Judges the repaired parser: feeds cases to it in another process and compares what it returns with a reference kept here."""

import re

import grading

# What the candidate's process runs. It learns the cases, never the expected results.
DRIVER = """
import sys
sys.path[:] = [folder for folder in sys.path if folder not in ("", "/app")]
import json
given, out = json.loads(sys.stdin.read()), sys.stdout
nonce, cases = given["nonce"], given["cases"]
sys.path.insert(0, "/app")
answers = []
try:
    from csvstate import parse
except Exception as error:
    parse = None
for arguments in cases:
    try:
        rows = parse(**arguments)
        answers.append(["rows", [[str(field) for field in row] if type(row) is list and all(type(f) is str for f in row) else None for row in rows]])
    except ValueError as error:
        answers.append(["error", str(error)])
    except Exception as error:
        answers.append(["crash", type(error).__name__])
out.write(chr(10) + nonce + " " + json.dumps(answers) + chr(10))
out.flush()
"""

Q = '"'
REGRESSION = [
    {"text": "a,b\nc,d\n"}, {"text": "\n\na\n\n"}, {"text": ",a,\n"}, {"text": '"a,b",c\n'}, {"text": "a b , c\n"}, {"text": "x\r\ny\r\n"}, {"text": ""},
    {"text": 'it"s,5" disk\n'}, {"text": "a;b,c\n", "delimiter": ";"}, {"text": "'a,b',\"c\n", "quote": "'"}, {"text": "# x,y\nz\n", "comment": "#"},
    {"text": 'a, "b"\n'}, {"text": '"a\nb",c\n'},
]
GROUPS = {
    "last row without a line end": [{"text": "a,b"}, {"text": "a\nb"}, {"text": "a,"}, {"text": 'a,"b"'}, {"text": ","}, {"text": '""'}, {"text": "a\n\n,"}],
    "doubled quotes": [{"text": '"a""b"\n'}, {"text": '"""a""",b\n'}, {"text": '"""",x\n'}, {"text": 'x,""""""\n'}, {"text": "'it''s','a\"\"b'\n", "quote": "'"},
                       {"text": '"a"",""b",c\n'}, {"text": '"a""\n""b"\n'}],
    "line ends in quoted fields": [{"text": '"a\r\nb",c\r\n'}, {"text": '"a\rb",c\n'}, {"text": '"\r\n\n\r",x\n'}, {"text": 'a,"\r\n"\r\nb\r\n'}],
    "quoted empty fields": [{"text": 'a,""\n'}, {"text": '""\n'}, {"text": '"",""\n'}, {"text": '"",\n'}, {"text": 'a\n""\n\nb\n'}, {"text": ',""\r\n'}],
    "other delimiters and quotes": [{"text": "'a;b';'c'\nd;'e,f'\n", "delimiter": ";", "quote": "'"}, {"text": '"a"\tb\t"c"\n', "delimiter": "\t"},
                                    {"text": '"a"|"b"|\n', "delimiter": "|"}, {"text": '"a,b";"c"\n', "delimiter": ";"}, {"text": '"a" "b" c\n', "delimiter": " "}],
    "lone carriage returns": [{"text": "a\rb\r"}, {"text": "a,b\rc,d\n"}, {"text": "a\r\r\nb\r\n\rc\n"}, {"text": '"x","y"\r"z",w\r'}, {"text": "\r\ra\r"}],
    "comments and the byte order mark": [{"text": '"a\n#b",c\n#d\n', "comment": "#"}, {"text": "a,b\r#c\rd\r", "comment": "#"}, {"text": '#x "\na,#b\n # c\n', "comment": "#"},
                                         {"text": "\ufeffa,b\n"}, {"text": '\ufeff"a,b",c\n'}, {"text": "a,\ufeffb\n\ufeffc\n"}, {"text": "\ufeff#x\ny\n", "comment": "#"},
                                         {"text": '"#a",b\n"#c"\n', "comment": "#"}, {"text": ";x\ny;z\n;\n", "comment": ";"}, {"text": "#only", "comment": "#"}],
    "errors and their lines": [{"text": '"abc'}, {"text": 'a\n"b\n'}, {"text": 'a\n\n"b\nc\n'}, {"text": '"a"b,c\n'}, {"text": 'a\r\nb,"c" \r\n'}, {"text": '"x\ny"z\n'},
                               {"text": '"p\r\nq",r\ns,"t\n\n'}, {"text": '#1\n#2\n"a"#\n', "comment": "#"}, {"text": 'a\rb\r"c"d'}, {"text": '""" x\n'},
                               {"text": '"a\nb","c\nd"e\n'}],
}


def reference(text, delimiter=",", quote=Q, comment=None):
    """The specification once more, by regular expressions instead of states: ("rows", ...) or ("error", line)."""
    text = text[1:] if text.startswith("\ufeff") else text
    d, q = re.escape(delimiter), re.escape(quote)
    end = re.compile(r"\r\n|\r|\n")
    quoted = re.compile(rf"{q}((?:[^{q}]|{q}{q})*){q}(?!{q})")
    plain = re.compile(rf"[^{d}\r\n]*")
    rows, position = [], 0
    while position < len(text):
        stop = end.match(text, position)
        if stop:
            position = stop.end()
            continue
        if comment and text[position] == comment:
            stop = end.search(text, position)
            position = stop.end() if stop else len(text)
            continue
        row = []
        while True:
            begun = len(end.findall(text[:position])) + 1
            if text[position:position + 1] == quote:
                match = quoted.match(text, position)
                if not match:
                    return "error", begun
                row.append(match[1].replace(quote * 2, quote))
                position = match.end()
                if position < len(text) and text[position] != delimiter and not end.match(text, position):
                    return "error", begun
            else:
                match = plain.match(text, position)
                row.append(match[0])
                position = match.end()
            if text[position:position + 1] != delimiter:
                break
            position += 1
        stop = end.match(text, position)
        position = stop.end() if stop else position
        rows.append(row)
    return "rows", rows


def right(answer, case):
    kind, value = reference(**case)
    if kind == "rows":
        return answer == ["rows", value]
    if type(answer) is not list or len(answer) != 2 or answer[0] != "error" or type(answer[1]) is not str:
        return False
    return re.search(rf"\bline {value}\b", answer[1]) is not None


def mark(name, cases):
    """One check: every case of a group, in a process of its own, so that one endless loop spoils only its group."""
    try:
        # Nine groups have to fit into the verifier's minute even when none of them ends.
        answers = grading.want(grading.run_candidate(DRIVER, {"cases": cases}, timeout_s=5), list, "the answer")
    except grading.Refused as error:
        return name, 0.0, str(error)
    if len(answers) != len(cases):
        return name, 0.0, "wrong number of answers"
    wrong = [case["text"] for case, answer in zip(cases, answers) if not right(answer, case)]
    return name, not wrong, f"{len(wrong)} of {len(cases)} wrong, first {grading.shown(wrong[:1])}"


def checks():
    return [mark(name, cases) for name, cases in {"what worked before": REGRESSION, **GROUPS}.items()]


def combine(scores):
    before, *groups = scores
    return grading.mean(groups) if before == 1.0 else 0.0


grading.grade(checks, combine)
