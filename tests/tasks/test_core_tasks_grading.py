"""How the core tasks judge: wrong answers by what is wrong, forgeries by nothing."""

import gzip
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fairtrial.tasks.core_tasks import path

OUTPUT = {
    "config-migration": "gateway.toml",
    "csv-sales-rollup": "rollup.csv",
    "invoice-extraction": "invoices.json",
    "log-forensics": "incident.json",
    "polygon-area": "parcels.csv",
    "shift-schedule": "schedule.json",
    "sqlite-inventory": "queries/q1.sql",
}
GENERATED = sorted(set(OUTPUT) - {"sqlite-inventory"})
BOX = (
    *("bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev"),
    *("--tmpfs", "/tmp", "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib"),
    *("--symlink", "usr/lib64", "/lib64", "--clearenv", "--setenv", "PATH", "/usr/bin:/bin", "--chdir", "/app"),
)
Act = Callable[[Path], object]


def boxed(app: Path, argv: list[str], *mounts: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*BOX, "--bind", str(app), "/app", *mounts, *argv], capture_output=True, text=True, timeout=100, check=False
    )


def judged(name: str, root: Path, *acts: Act, oracle: bool = False) -> tuple[float, dict[str, float]]:
    """Reward and scores by check, after the oracle (if asked for) and then `acts` on the agent's folder."""
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed, and the tasks use absolute paths")
    task, app, logs = path() / name, root / "app", root / "logs"
    app.mkdir()
    logs.mkdir()
    for source, target in re.findall(r"^COPY (\S+) (/app\S*)", (task / "environment/Dockerfile").read_text(), re.M):
        shutil.copytree(task / "environment" / source, root / target.removeprefix("/"), dirs_exist_ok=True)
    if oracle:
        done = boxed(app, ["bash", "/solution/solve.sh"], "--ro-bind", str(task / "solution"), "/solution")
        assert done.returncode == 0, done.stderr
    for act in acts:
        act(app)
    mounts = ["--ro-bind", str(task / "tests"), "/tests", "--bind", str(logs), "/logs"]
    done = boxed(app, ["bash", "/tests/test.sh"], *mounts)
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    details = json.loads((logs / "verifier/details.json").read_text("utf-8"))
    assert json.loads((logs / "verifier/reward.json").read_text("utf-8")) == {"reward": details["reward"]}
    return details["reward"], {check["name"]: check["score"] for check in details["checks"]}


def edited(file: str, *pairs: tuple[str, str]) -> Act:
    """Replaces text in what the oracle left; each text must be there."""

    def act(app: Path) -> None:
        text = (app / file).read_text("utf-8")
        for old, new in pairs:
            assert old in text, old
            text = text.replace(old, new)
        (app / file).write_text(text, "utf-8")

    return act


def rewritten(file: str, change: Callable[[object], object]) -> Act:
    """Passes a JSON answer through `change`."""

    def act(app: Path) -> None:
        value = json.loads((app / file).read_text("utf-8"))
        changed = change(value)
        (app / file).write_text(json.dumps(value if changed is None else changed), "utf-8")

    return act


def test_copies_of_the_grading_module_are_the_same_file() -> None:
    tasks = [folder for folder in path().iterdir() if (folder / "task.toml").is_file()]
    assert len(tasks) == 18
    assert len({(folder / "tests/grading.py").read_bytes() for folder in tasks}) == 1


@pytest.mark.parametrize("name", GENERATED)
def test_generated_data_are_what_is_committed(name: str, tmp_path: Path) -> None:
    script = path() / name / "generate.py"
    subprocess.run([sys.executable, "-B", script, tmp_path], check=True, env={**os.environ, "LC_ALL": "C"})
    made = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert made
    for file in made:
        ours, theirs = file.read_bytes(), (path() / name / file.relative_to(tmp_path)).read_bytes()
        if file.suffix == ".gz":
            ours, theirs = gzip.decompress(ours), gzip.decompress(theirs)
        assert ours == theirs, file.relative_to(tmp_path)


# Files are read by the shared module alone: one reader of JSON and one of several files stand for all.
FILES: dict[str, Act] = {
    "a link to a device": lambda file: file.symlink_to("/dev/zero"),
    "a link to the tests": lambda file: file.symlink_to("/tests/verify.py"),
    "a pipe": os.mkfifo,
    "a folder": lambda file: file.mkdir(),
    "a huge file": lambda file: file.write_bytes(b"[" + b"0," * 4_000_000 + b"0]"),
    "no text": lambda file: file.write_bytes(bytes(range(256))),
}
JSON = ("invoice-extraction", "log-forensics", "shift-schedule")
TABLES = ("csv-sales-rollup", "polygon-area")
CONTENTS: list[tuple[tuple[str, ...], str, str]] = [
    (JSON, "nothing", ""),
    (JSON, "not a number", '{"MON-E": NaN, "exfil_bytes": 1e999}'),
    (JSON, "deep nesting", "[" * 100_000 + "]" * 100_000),
    (JSON, "depth that parses", '[{"file":' + "[" * 400 + "]" * 400 + "}]"),
    (JSON, "a list of anything", '[{"file": {"a": []}, "number": 7}, {"file": "doc-01.txt", "net": "x"}]'),
    (JSON, "an object of anything", '{"MON-E": [[]], "exfil_clients": 3, "entry_time": null}'),
    (JSON, "a number too long", '{"exfil_bytes": ' + "9" * 5000 + "}"),
    (TABLES, "nothing", ""),
    (TABLES, "odd figures", "month,category,units,revenue_eur\n2026-01,Outdoor,nan,inf\n"),
    (TABLES, "odd measures", "parcel,area_m2,boundary_m,wells\nA-07,nan,inf,W30\nA-08,1e999,0x10,\n"),
    (TABLES, "odd bytes", 'month,category,units,revenue_eur\n"\0,1\n' + "x," * 20_000),
    (("config-migration",), "nothing", ""),
    (("config-migration",), "deep arrays", "a = " + "[" * 9_000 + "]" * 9_000),
    (("config-migration",), "deep tables", "a" + ".a" * 9_900 + " = 1\n"),
    (("config-migration",), "odd values", "workers = nan\nserver = 1979-05-27\nbackends = [{}, 1]\n"),
    (
        ("sqlite-inventory",),
        "no end",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n",
    ),
    (("sqlite-inventory",), "memory", "SELECT zeroblob(900000000), hex(randomblob(400000000))"),
    (("sqlite-inventory",), "many rows", "SELECT a.id FROM movements a, movements b, movements c, movements d"),
]


def placed(name: str, put: Act) -> Act:
    def act(app: Path) -> None:
        file = app / OUTPUT[name]
        file.parent.mkdir(exist_ok=True)
        put(file)

    return act


@pytest.mark.parametrize("name", ["log-forensics", "sqlite-inventory"])
@pytest.mark.parametrize("kind", sorted(FILES))
def test_a_file_that_is_a_trap_earns_nothing(name: str, kind: str, tmp_path: Path) -> None:
    assert judged(name, tmp_path, placed(name, FILES[kind]))[0] == 0.0


@pytest.mark.parametrize(
    ("name", "text"),
    [pytest.param(name, text, id=f"{name}: {kind}") for names, kind, text in CONTENTS for name in names],
)
def test_hostile_contents_earn_nothing_and_leave_a_verdict(name: str, text: str, tmp_path: Path) -> None:
    assert judged(name, tmp_path, placed(name, lambda file: file.write_text(text, "utf-8")))[0] == 0.0


def test_a_folder_that_leads_elsewhere_is_not_followed(tmp_path: Path) -> None:
    def act(app: Path) -> None:
        (app / "queries").rename(app / "elsewhere")
        (app / "queries").symlink_to("/app/elsewhere")

    assert judged("sqlite-inventory", tmp_path, act, oracle=True)[0] == 0.0


def test_the_agents_copy_of_the_data_decides_nothing(tmp_path: Path) -> None:
    def act(app: Path) -> None:
        fx = app / "sales/fx.csv"
        fx.write_text(fx.read_text("utf-8").replace(",1.", ",9.").replace(",0.", ",7."), "utf-8")

    assert judged("csv-sales-rollup", tmp_path, act, oracle=True)[0] == 1.0


def carriage_returns(app: Path) -> None:
    file = app / "rollup.csv"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))


@pytest.mark.parametrize(
    ("name", "act"),
    [
        ("csv-sales-rollup", carriage_returns),
        ("log-forensics", rewritten("incident.json", lambda value: value["exfil_clients"].reverse())),
        ("invoice-extraction", rewritten("invoices.json", lambda value: value.reverse())),
        ("config-migration", edited("gateway.toml", ("= 8443", "= 8_443"), ("= 2097152", "= 0x20_0000"))),
        ("polygon-area", edited("parcels.csv", ("24599.5", "24599.51234"))),
    ],
)
def test_spellings_that_the_instructions_allow_are_accepted(name: str, act: Act, tmp_path: Path) -> None:
    assert judged(name, tmp_path, act, oracle=True)[0] == 1.0


@pytest.mark.parametrize(
    ("name", "act", "failed"),
    [
        ("csv-sales-rollup", edited("rollup.csv", ("13007.50", "13007.48")), {"revenue 2026-01 Kitchen & Table"}),
        ("csv-sales-rollup", edited("rollup.csv", ("2026-03,Paper,11", "2026-03,Paper,12")), {"units 2026-03 Paper"}),
        ("polygon-area", edited("parcels.csv", ("W07 W11 W20", "W07 W20")), {"A-11 wells"}),
        ("polygon-area", edited("parcels.csv", ("24836.4", "24836.7")), {"A-11 area"}),
        (
            "polygon-area",
            edited("parcels.csv", ("A-08,", "E-03,")),
            {"parcels", "A-08 area", "A-08 boundary", "A-08 wells"},
        ),
    ],
)
def test_one_wrong_figure_fails_a_task_that_is_all_or_nothing(
    name: str, act: Act, failed: set[str], tmp_path: Path
) -> None:
    reward, scores = judged(name, tmp_path, act, oracle=True)
    assert reward == 0.0
    assert {check for check, score in scores.items() if score < 1} == failed


def without(key: str) -> Act:
    return rewritten("incident.json", lambda value: value.pop(key) and None)


@pytest.mark.parametrize(
    ("name", "act", "reward"),
    [
        ("log-forensics", without("login_time"), 11 / 12),
        ("log-forensics", edited("incident.json", ("T01:31:09Z", "T00:31:09Z")), 11 / 12),
        ("log-forensics", edited("incident.json", ("2473986", "2473986.5")), 11 / 12),
        ("invoice-extraction", edited("invoices.json", ('"RE-2026-0415"', '"LS-5347"')), 15 / 16),
        ("invoice-extraction", edited("invoices.json", ('"doc-01.txt"', '"doc-02.txt"')), 14 / 16),
        ("invoice-extraction", rewritten("invoices.json", lambda value: value[3].update(net=-1)), 175 / 176),
        ("config-migration", edited("gateway.toml", ('"workers" = 12', '"workers" = "12"')), 50 / 51),
        ("config-migration", edited("gateway.toml", ("[cache]", "[cache]\nvary = []")), 51 / 52),
        ("sqlite-inventory", edited("queries/q3.sql", ("o.status <> 'cancelled'", "1")), 5 / 6),
        ("sqlite-inventory", edited("queries/q2.sql", ("SELECT sku", "SELECT sku, 1")), 5 / 6),
        ("sqlite-inventory", lambda app: (app / "queries/q6.sql").unlink(), 5 / 6),
        ("sqlite-inventory", lambda app: (app / "queries/q6.sql").write_text("SELECT 1; DROP TABLE products"), 5 / 6),
    ],
)  # fmt: skip
def test_a_graded_task_takes_off_what_is_wrong(name: str, act: Act, reward: float, tmp_path: Path) -> None:
    assert judged(name, tmp_path, act, oracle=True)[0] == pytest.approx(reward, abs=1e-5)


def test_a_query_that_knows_only_the_shipped_rows_earns_nothing(tmp_path: Path) -> None:
    def act(app: Path) -> None:
        base = sqlite3.connect(app / "inventory.db")
        rows = base.execute((app / "queries/q1.sql").read_text("utf-8")).fetchall()
        text = " UNION ALL ".join(f"SELECT '{sku}', {stock}" for sku, stock in rows)
        (app / "queries/q1.sql").write_text(text, "utf-8")

    assert judged("sqlite-inventory", tmp_path, act, oracle=True)[1]["q1"] == 0.0


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        (lambda rota: rota["MON-N"].clear(), None),
        (lambda rota: rota["MON-E"].__setitem__(1, rota["MON-E"][0]), None),
        (lambda rota: rota.update({"XXX-E": []}), None),
        (lambda rota: rota["TUE-E"].__setitem__(0, "Nobody At All"), None),
        (lambda rota: rota.update({"WED-N": ["Goran Babić"]}), {"qualifications"}),
        (lambda rota: rota.update({"SAT-E": ["Fatou Diallo"]}), {"weekends"}),
    ],
)
def test_a_rota_is_graded_by_groups_and_only_with_full_coverage(
    change: Callable[[dict[str, list[str]]], object], broken: set[str] | None, tmp_path: Path
) -> None:
    act = rewritten("schedule.json", lambda rota: change(rota) and None)
    reward, scores = judged("shift-schedule", tmp_path, act, oracle=True)
    if broken is None:
        assert reward == 0.0
        return
    assert broken <= {group for group, score in scores.items() if score < 1}
    assert reward == pytest.approx(sum(scores.values()) / 9, abs=1e-5)


FORGERIES = [
    "import sys; sys.exit(0)",
    "import os; print('OK'); os._exit(0)",
    "import atexit; atexit.register(print, 'all tests passed')",
    "import sys\nfor m in list(sys.modules.values()):\n    if hasattr(m, 'dumps'): m.dumps = lambda *a, **k: '[]'",
    "import unittest\nunittest.TestResult.wasSuccessful = lambda self: 1\nunittest.TestCase.run = lambda *a, **k: None",
    "class Yes(list):\n    def __eq__(self, other): return True\n    __hash__ = None\n"
    "def __getattr__(name): return lambda *a, **k: Yes()",
    "def broken(",
]


@pytest.mark.parametrize("package", ["bugfix-lru-cache:minicache", "bugfix-interval-merge:spans"])
@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_package_earns_nothing(package: str, forgery: str, tmp_path: Path) -> None:
    name, module = package.split(":")
    assert judged(name, tmp_path, lambda app: (app / module / "__init__.py").write_text(forgery))[0] == 0.0


@pytest.mark.slow
def test_code_that_never_answers_earns_nothing(tmp_path: Path) -> None:
    def act(app: Path) -> None:
        (app / "minicache/__init__.py").write_text("while True: print('x' * 100000)")

    reward, scores = judged("bugfix-lru-cache", tmp_path, act)
    assert (reward, scores) == (0.0, {"readable": 0.0})


def test_shadowed_standard_modules_do_not_reach_the_verifier(tmp_path: Path) -> None:
    def act(app: Path) -> None:
        for module in ("json", "random", "sqlite3", "grading", "fill", "sitecustomize"):
            (app / f"{module}.py").write_text("raise SystemExit('shadowed')")

    assert judged("sqlite-inventory", tmp_path, act, oracle=True)[0] == 1.0


def quadratic(app: Path) -> None:
    file, head = app / "spans/algebra.py", "    merged = []\n"
    slow = "    for place in range(len(a)):\n        sum(pair[0] for pair in a[:place])\n"
    text = file.read_text("utf-8")
    assert head in text
    file.write_text(text.replace(head, head + slow, 1), "utf-8")


@pytest.mark.slow
def test_a_repair_that_is_too_slow_is_told_from_one_that_is_wrong(tmp_path: Path) -> None:
    reward, scores = judged("bugfix-interval-merge", tmp_path, quadratic, oracle=True)
    assert reward == 0.0
    assert scores["large inputs"] == 0.0
    assert scores["normalize"] == 1.0
