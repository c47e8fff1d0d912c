"""Judges the repaired parser: feeds cases to it in another process and compares what it returns with a reference kept here."""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from guard import check, short, verdict  # noqa: E402

# What the candidate's process runs. It learns the cases, never the expected results.
DRIVER = """
import json, sys
nonce, cases = json.loads(sys.stdin.read())
out = sys.stdout
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
out.write(nonce + json.dumps(answers) + nonce + chr(10))
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


def ask(cases):
    """What the candidate makes of the cases, or the reason why there is no answer."""
    nonce = secrets.token_hex(16)
    command = ["python3", "-B", "-c", DRIVER]
    box = os.environ.get("FAIRTRIAL_CANDIDATE")
    if box:
        command = [box, "--timeout", "20", "--", *command]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/", start_new_session=True)
    try:
        output, _ = process.communicate(json.dumps([nonce, cases]).encode(), timeout=25 if box else 5)
    except subprocess.TimeoutExpired:
        return None, "timed out"
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
    parts = output[-500_000:].decode("utf-8", "replace").split(nonce)
    if len(parts) != 3:
        return None, "no answer from the parser's process"
    answers = json.loads(parts[1])
    return (answers, "") if type(answers) is list and len(answers) == len(cases) else (None, "wrong number of answers")


def right(answer, case):
    kind, value = reference(**case)
    if kind == "rows":
        return answer == ["rows", value]
    return answer[0] == "error" and re.search(rf"\bline {value}\b", answer[1]) is not None


def judge(checks):
    reward, intact = 0.0, False
    for name, cases in {"what worked before": REGRESSION, **GROUPS}.items():
        answers, reason = ask(cases)
        wrong = [] if answers is None else [case["text"] for case, answer in zip(cases, answers) if not right(answer, case)]
        passed = answers is not None and not wrong
        if cases is REGRESSION:
            intact = passed
        gain = check(checks, name, passed, reason or f"{len(wrong)} of {len(cases)} wrong, first {short(wrong[:1])}", 0 if cases is REGRESSION else 1 / len(GROUPS))
        reward += gain
    return reward if intact else 0.0


if __name__ == "__main__":
    verdict(judge)
