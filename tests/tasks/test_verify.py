"""The verdict on what an agent left: read outside of every box, never the agent's word, never a zero for an error."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from fairtrial.core.errors import InfraError
from fairtrial.core.trial import TaskInfo
from fairtrial.tasks.harbor.image import VerifierTools
from fairtrial.tasks.reward import read_reward
from fairtrial.tasks.sandbox.api import Availability, Box, BoxLimits, BoxSpec, Sandbox
from fairtrial.tasks.sandbox.choose import choose
from fairtrial.tasks.task import Image, Step, Task, Verifier
from fairtrial.tasks.verify import Finished, Judgement, passed, scores_of, verify
from fairtrial.tasks.visible import Manifests

PASS = "echo 1 > /logs/verifier/reward.txt\n"


def judge(
    tmp_path: Path,
    test_sh: str,
    *,
    agent: dict[str, str] | None = None,
    tests: dict[str, str] | None = None,
    limits: BoxLimits = BoxLimits(memory_mb=512),  # noqa: B008
    timeout_s: float = 20,
    modes: dict[str, int] | None = None,
    before_verify=lambda files: None,
    sandbox: Sandbox | None = None,
) -> Judgement:
    """Verify a box folder that holds `agent`'s files with the script `test_sh`."""
    image, files, own = tmp_path / "image", tmp_path / "files", tmp_path / "tests"
    for root, contents in ((image, {"app/start.txt": "start"}), (files, {"app/start.txt": "start", **(agent or {})})):
        for name, text in contents.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
    for name, mode in (modes or {}).items():
        (files / name).chmod(mode)
    for name, text in {"test.sh": test_sh, **(tests or {})}.items():
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_text(text)
    step = Step("main", "do", Verifier(own, timeout_s=timeout_s), None)
    task = Task(TaskInfo("t", "0"), tmp_path, (step,), (), limits, 60, "none")
    finished = Finished(files, Manifests().of(image), ())
    before_verify(files)
    (tmp_path / "work").mkdir()
    return asyncio.run(
        verify(
            task,
            step,
            Image(image, "/app", {}),
            sandbox or choose(),
            finished,
            folder=tmp_path / "work",
            tools=VerifierTools((), (), {}),
        )
    )


def test_fractions_are_kept_and_a_failing_exit_code_does_not_matter(tmp_path):
    verdict = judge(tmp_path, "echo 0.667 > /logs/verifier/reward.txt; exit 3\n")
    assert verdict.reward.value == 0.667
    assert verdict.details["exit_code"] == 3
    assert verdict.flags == ()


def test_reward_json_wins_and_brings_its_other_numbers(tmp_path):
    script = 'echo 1 > /logs/verifier/reward.txt\necho \'{"reward": 0.25, "speed": 3}\' > /logs/verifier/reward.json\n'
    verdict = judge(tmp_path, script)
    assert verdict.reward.scores == {"reward": 0.25, "speed": 3.0}


def test_a_reward_json_that_the_verifier_does_not_know_is_ignored_and_flagged(tmp_path):
    forge = "open('/logs/verifier/reward' + '.json', 'w').write('{\"reward\": 1}')"
    verdict = judge(
        tmp_path, "python3 /app/tool.py\necho 0 > /logs/verifier/reward.txt\n", agent={"app/tool.py": forge}
    )
    assert verdict.reward.value == 0
    assert verdict.flags == ("unexpected_reward_json",)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("reward.txt", ""),
        ("reward.txt", "nan"),
        ("reward.txt", "inf"),
        ("reward.txt", "-infinity"),
        ("reward.txt", "passed"),
        ("reward.txt", "1 1"),
        ("reward.txt", "1e300"),
        ("reward.json", ""),
        ("reward.json", "{}"),
        ("reward.json", "[1]"),
        ("reward.json", '{"reward": NaN}'),
        ("reward.json", '{"reward": Infinity}'),
        ("reward.json", '{"reward": "1"}'),
        ("reward.json", '{"reward": true}'),
        ("reward.json", '{"reward": {"a": 1}}'),
        ("reward.json", '{"reward": 1' + "0" * 400 + "}"),
        ("reward.json", "[" * 100_000),
        ("reward.txt", "1" * 70_000),
    ],
)
def test_a_reward_that_is_no_finite_number_is_an_error_of_the_verifier_not_a_score(tmp_path, name, text):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test.sh").write_text("writes reward.json and reward.txt")
    (tmp_path / "logs" / "verifier").mkdir(parents=True)
    (tmp_path / "logs" / "verifier" / name).write_text(text)
    with pytest.raises(InfraError) as error:
        read_reward(tmp_path, tmp_path / "tests")
    assert error.value.cause == "verifier"


def test_a_reward_that_is_a_link_or_a_pipe_is_refused(tmp_path):
    for name, make in (("link", lambda path: path.symlink_to("/etc/hostname")), ("pipe", lambda path: os.mkfifo(path))):
        folder = tmp_path / name / "logs" / "verifier"
        folder.mkdir(parents=True)
        (tmp_path / name / "tests").mkdir()
        make(folder / "reward.txt")
        with pytest.raises(InfraError, match=r"reward\.txt is unusable"):
            read_reward(tmp_path / name, tmp_path / name / "tests")


def test_several_numbers_without_a_reward_are_averaged_and_flagged(tmp_path):
    verdict = judge(tmp_path, 'echo \'{"a": 1, "b": 0}\' > /logs/verifier/reward.json\n')
    assert verdict.reward.value == 0.5
    assert verdict.flags == ("reward_is_mean_of_keys",)


HOG = "import sys\nblocks = []\nfor _ in range(600): blocks.append(b'x' * (1 << 20))\n"
SPIN = "while True: pass\n"


@pytest.mark.parametrize(
    ("script", "limits", "timeout_s", "cause"),
    [
        ("python3 /tests/work.py\n", BoxLimits(memory_mb=128), 30, "verifier_out_of_memory"),
        ("python3 /tests/spin.py\n", BoxLimits(memory_mb=512, cpu_s=1), 30, "verifier_cpu_limit"),
        ("sleep 60\n", BoxLimits(memory_mb=512), 1, "verifier_wall_limit"),
        ("kill -SEGV $$\n", BoxLimits(memory_mb=512), 30, "verifier_crash"),
    ],
)
def test_four_deaths_of_a_verifier_are_four_causes_and_no_score(tmp_path, script, limits, timeout_s, cause):
    with pytest.raises(InfraError) as error:
        judge(tmp_path, script, tests={"work.py": HOG, "spin.py": SPIN}, limits=limits, timeout_s=timeout_s)
    assert error.value.cause == cause


def test_a_child_killed_for_memory_is_not_a_failed_task(tmp_path):
    script = "python3 /tests/work.py && echo 1 > /logs/verifier/reward.txt || echo 0 > /logs/verifier/reward.txt\n"
    with pytest.raises(InfraError) as error:
        judge(tmp_path, script, tests={"work.py": HOG}, limits=BoxLimits(memory_mb=128))
    assert error.value.cause == "verifier_out_of_memory"


def test_a_verifier_that_dies_early_does_not_find_the_agents_reward(tmp_path):
    stale = {"logs/verifier/reward.txt": "1", "logs/verifier/reward.json": '{"reward": 1}'}
    with pytest.raises(InfraError, match=r"left no reward; exit code 1: .*broken") as error:
        judge(tmp_path, "echo broken >&2; exit 1\n# writes reward.json\n", agent=stale)
    assert error.value.cause == "verifier"


def test_tests_are_read_only_and_the_agents_own_tests_are_not_there(tmp_path):
    script = "touch /tests/new 2>/dev/null && exit 1\ntest -e /tests/mine && exit 1\n" + PASS
    assert judge(tmp_path, script, agent={"tests/mine": "x", "solution/s": "x"}).reward.value == 1


def test_nothing_that_a_program_loads_by_itself_reaches_the_verifier(tmp_path):
    bad = "import os; open('/logs/verifier/forged', 'w'); os._exit(0)\n"
    version = f"python3.{__import__('sys').version_info.minor}"
    agent = {
        "app/sitecustomize.py": bad,
        "app/usercustomize.py": bad,
        "app/json.py": bad,
        "app/deep/er/sitecustomize.py": bad,
        f"root/.local/lib/{version}/site-packages/usercustomize.py": bad,
        f"root/.local/lib/{version}/site-packages/x.pth": "import os; os._exit(0)\n",
        "root/.bashrc": "exit 0\n",
        "root/.profile": "exit 0\n",
        "root/.bash_profile": "exit 0\n",
        "root/.local/bin/env": "exit 0\n",
        "root/.local/bin/python3": "#!/bin/sh\nexit 0\n",
        "app/python3": "#!/bin/sh\nexit 0\n",
        "conftest.py": bad,
    }
    script = (
        "set -e\n. $HOME/.local/bin/env 2>/dev/null || true\n"
        "export PATH=$HOME/.local/bin:$PATH\n"
        "python3 -c 'import json; print(json.__file__)'\n"
        "bash -lc 'python3 -m json.tool /dev/null || true'\n"
        "test ! -e /logs/verifier/forged\n"
        'test -z "$PYTHONSTARTUP$BASH_ENV"\n' + PASS
    )
    modes = {"root/.local/bin/python3": 0o755, "app/python3": 0o755}
    assert judge(tmp_path, script, agent=agent, modes=modes).reward.value == 1


def test_a_script_finds_the_modules_beside_it_but_a_snippet_does_not_find_the_agents(tmp_path):
    agent = {"app/main.py": "import beside\n", "app/beside.py": "", "app/json.py": "raise SystemExit(9)\n"}
    script = (
        "cd /app; set -e\npython3 /app/main.py\npython3 -X utf8 -B main.py\npython3 /tests/check.py\n"
        "python3 -c 'import json; json.dumps'\necho '{}' | python3 -m json.tool\n"
        "echo 'import json; json.dumps' | python3\n"
        "python3 -Bc 'import json; json.dumps'\n! python3 -c 'import beside'\n" + PASS
    )
    verdict = judge(tmp_path, script, agent=agent, tests={"check.py": "import more\n", "more.py": ""})
    assert verdict.reward.value == 1, verdict.blobs


def test_a_pipe_that_the_agent_left_for_the_verifier_to_wait_on_is_gone(tmp_path):
    def plant(files):
        os.mkfifo(files / "app" / "answer.txt")

    script = "if [ -e /app/answer.txt ]; then cat /app/answer.txt; fi\necho 0 > /logs/verifier/reward.txt\n"
    assert judge(tmp_path, script, before_verify=plant, timeout_s=5).reward.value == 0


def test_links_in_the_way_of_mounts_do_not_break_the_verifier(tmp_path):
    def plant(files):
        (files / "logs").symlink_to("/etc")
        (files / "tests").symlink_to("/app")

    assert judge(tmp_path, PASS, before_verify=plant).reward.value == 1


def test_per_test_results_are_kept(tmp_path):
    report = {"results": {"tests": [{"name": "a", "status": "passed"}, {"name": "b", "status": "failed"}]}}
    verdict = judge(tmp_path, f"echo '{json.dumps(report)}' > /logs/verifier/ctrf.json\n" + PASS)
    assert verdict.details["tests"] == report["results"]["tests"]
    assert json.loads(verdict.blobs["ctrf.json"]) == report


def candidate(program: str, options: str = "--timeout 5") -> str:
    return f'"$FAIRTRIAL_CANDIDATE" {options} -- {program}'


def test_a_candidate_runs_with_the_agents_files_and_nothing_of_the_verifier(tmp_path):
    spy = (
        "import os, sys\n"
        "seen = [p for p in ('/tests', '/logs/verifier/secret', '/solution', '/runtime') if os.path.exists(p)]\n"
        "print(sys.stdin.read().strip(), seen, os.environ.get('FAIRTRIAL_CANDIDATE'), os.getcwd())\n"
        "sys.exit(7)\n"
    )
    script = (
        "touch /logs/verifier/secret; cd /app\n"
        f"out=$(echo question | {candidate('python3 tool.py')}); code=$?\n"
        '[ "$out" = "question [] None /app" ] && [ $code = 7 ] && ' + PASS
    )
    verdict = judge(tmp_path, script, agent={"app/tool.py": spy})
    assert verdict.reward.value == 1
    assert verdict.details["candidate"]["runs"] == 1


def test_a_candidate_cannot_write_the_verdict(tmp_path):
    bad = (
        "import os\nos.makedirs('/logs/verifier', exist_ok=True)\nopen('/logs/verifier/reward.json', 'w').write('1')\n"
    )
    script = f"{candidate('python3 /app/tool.py')}\necho 0.5 > /logs/verifier/reward.txt\n# not reward.json\n"
    assert judge(tmp_path, script, agent={"app/tool.py": bad}).reward.value == 0.5


def test_a_candidate_that_hangs_or_eats_memory_says_so_and_does_not_break_the_verifier(tmp_path):
    script = (
        f"{candidate('sleep 60', '--timeout 0.5')}; [ $? = 124 ] || exit 1\n"
        f"{candidate('python3 /app/hog.py')}; [ $? = 137 ] || exit 1\n" + PASS
    )
    verdict = judge(tmp_path, script, agent={"app/hog.py": HOG}, limits=BoxLimits(memory_mb=128))
    assert verdict.reward.value == 1
    assert verdict.details["candidate"]["ends"] == ["wall_limit", "out_of_memory"]


class ThirdBoxFails:
    """A real sandbox whose boxes for candidates cannot be started."""

    isolated = True

    def __init__(self) -> None:
        self.real = choose()
        self.name = self.real.name

    def available(self) -> Availability:
        return self.real.available()

    def box(self, spec: BoxSpec) -> Box:
        if spec.files.name == "candidate":
            raise InfraError("no more boxes", cause="sandbox")
        return self.real.box(spec)


def test_code_that_could_not_be_run_is_an_error_and_never_a_zero(tmp_path):
    script = f"{candidate('true')} || echo 0 > /logs/verifier/reward.txt\n"
    with pytest.raises(InfraError, match="no more boxes") as caught:
        judge(tmp_path, script, sandbox=ThirdBoxFails())
    assert caught.value.cause == "candidate"


def test_candidates_share_the_verifiers_time(tmp_path):
    script = f"for i in 1 2 3 4 5 6; do {candidate('sleep 1')}; echo $? >> /logs/verifier/codes; done\n" + PASS
    with pytest.raises(InfraError) as error:
        judge(tmp_path, script, timeout_s=2.5)
    assert error.value.cause == "verifier_wall_limit"


def test_steps_are_averaged_over_all_that_were_planned_and_min_reward_stops():
    from fairtrial.tasks.reward import Reward

    def step(minimum=None):
        return Step("a", "i", Verifier(Path()), None, minimum)

    task = Task(TaskInfo("t", "0"), Path(), (step(), step()), (), BoxLimits(), 60, "none")
    half, full = Reward(0.5, {"reward": 0.5, "x": 2}, "reward.json"), Reward(1.0, {"reward": 1.0}, "reward.txt")
    assert scores_of(task, [half])["reward"] == 0.25
    assert scores_of(task, [full, full]) == {"reward": 1.0, "strict": 1.0}
    final = Task(TaskInfo("t", "0"), Path(), (step(), step()), (), BoxLimits(), 60, "none", step_reward="final")
    assert scores_of(final, [full]) == {"reward": 0.0, "strict": 0.0}
    assert not passed(step(0.6), half)
    assert passed(step({"x": 2, "reward": 0.5}), half)
    assert not passed(step({"missing": 0.1}), half)
