# Runs beside the agent's package (never in the verifier): feeds it the cases, prints what it answered.
import json, sys, time

_in = json.loads(sys.stdin.read())
_nonce, _write, _dumps = _in["nonce"], sys.stdout.write, json.dumps
sys.path.insert(0, "/app")


def _given(value, kind):
    """An argument: a list of intervals, the name of a shared one, or a number."""
    if isinstance(value, str):
        value = _in["shared"][value]
    return [kind(pair) for pair in value] if isinstance(value, list) else value


def _one(spans, name, raw, lists):
    args = [_given(value, list if lists else tuple) for value in raw]
    before = repr(args)
    try:
        answer = getattr(spans, name)(*args)
    except ValueError:
        answer = "ValueError"
    if isinstance(answer, list) and not all(type(pair) is tuple for pair in answer):
        answer = "not a list of tuples"
    return [answer, repr(args) == before]


_answers = []
try:
    import spans

    for _index, (_name, _args) in enumerate(_in["cases"]):
        try:
            _answers.append(_one(spans, _name, _args, _index % 5 == 4))
        except BaseException as _error:
            _answers.append(["died: " + type(_error).__name__, True])
except BaseException as _error:
    _answers = "died: " + type(_error).__name__
_write("\n" + _nonce + " " + _dumps(_answers) + "\n")
sys.stdout.flush()
