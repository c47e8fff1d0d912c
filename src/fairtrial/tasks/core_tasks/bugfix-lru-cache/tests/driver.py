# Runs beside the agent's package (never in the verifier): feeds it the cases, prints what it answered.
import json, sys

_in = json.loads(sys.stdin.read())
_nonce, _cases = _in["nonce"], _in["cases"]
_write, _dumps = sys.stdout.write, json.dumps
sys.path.insert(0, "/app")


def run_cache(case):
    from minicache import LRUCache

    now = [0.0]
    try:
        cache = LRUCache(case["maxsize"], ttl=case["ttl"], clock=lambda: now[0])
    except ValueError:
        return ["ValueError"]
    seen = []
    for name, *args in case["ops"]:
        try:
            if name == "tick":
                now[0] += args[0]
                continue
            if name == "len":
                answer = len(cache)
            elif name == "in":
                answer = args[0] in cache
            else:
                answer = getattr(cache, name)(*args)
            seen.append(answer)
        except Exception as error:
            seen.append(type(error).__name__)
    return seen


def run_memo(case):
    from minicache import memoize

    now, calls, seen = [0.0], [], []

    @memoize(case["maxsize"], case["ttl"], clock=lambda: now[0])
    def function(*args, **kwargs):
        """Doc."""
        calls.append(1)
        if kwargs.get("fail"):
            raise KeyError("asked for")
        return None if not args else [len(calls), type(args[0]).__name__]

    for tick, args, pairs in case["calls"]:
        now[0] += tick
        try:
            answer = function(*args, **dict(pairs))
        except Exception as error:
            answer = type(error).__name__
        seen.append([answer, len(calls)])
    seen.append([function.__name__, len(function.cache)])
    return seen


_answers = []
for _case in _cases:
    try:
        _answers.append((run_cache if _case["kind"] == "cache" else run_memo)(_case))
    except BaseException as error:
        _answers.append("died: " + type(error).__name__)
_write("\n" + _nonce + " " + _dumps(_answers) + "\n")
sys.stdout.flush()
