from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairtrial.core.errors import UserError
from fairtrial.tasks.harbor.plan import DEFAULT_SKILL_DIRS, CopyAction, FolderAction, RunAction, plan_image
from fairtrial.tasks.harbor.requirements import merged, script_installs
from fairtrial.tasks.harbor.runline import plan_run

STARTS = ["FROM debian", "RUN ", "COPY a ", "ENV A=", "WORKDIR ", "ARG x", "ENTRYPOINT [", "ADD . ", "\n"]


def task(root: Path, dockerfile, toml="", **files):
    for path, text in {
        "task.toml": toml,
        "instruction.md": "x",
        "environment/Dockerfile": dockerfile,
        "environment/skills/one/SKILL.md": "---\nname: one\ndescription: d\n---\n",
        **files,
    }.items():
        if text is not None:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
    return root


def reasons(plan):
    return [str(problem) for problem in plan.problems]


def test_a_typical_dockerfile_is_planned_whole(tmp_path):
    dockerfile = """FROM ubuntu:24.04
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update && apt-get install -y --no-install-recommends \\
    python3 python3-pip ca-certificates=2024* \\
    && rm -rf /var/lib/apt/lists/*
ARG PLACE=/srv/app
WORKDIR $PLACE
RUN pip3 install --break-system-packages --no-cache-dir numpy==1.26.4 "pandas[excel]>=2,<3" && echo ok > done.txt
COPY --chown=app:app data/*.csv in/
COPY ["with space.txt", "/root/"]
COPY skills /root/.claude/skills
COPY skills/one /opt/agent/skills/one
ENV PATH="/srv/bin:$PATH" PYTHONPATH=/srv/lib
CMD ["/bin/bash"]
"""
    files = {"environment/data/a.csv": "1", "environment/data/b.txt": "2", "environment/with space.txt": "3"}
    plan = plan_image(task(tmp_path, dockerfile, **files))
    assert reasons(plan) == []
    assert plan.layer_requirements() == ("numpy==1.26.4", "pandas[excel]>=2,<3")
    assert plan.packages == ["python3", "python3-pip", "ca-certificates=2024*"]
    assert plan.workdir == "/srv/app"
    assert plan.path == ["/srv/bin"]
    assert plan.env == {"DEBIAN_FRONTEND": "noninteractive", "PYTHONPATH": "/srv/lib"}
    assert plan.skill_dirs == ["/root/.claude/skills", "/opt/agent/skills"]
    runs = [action for action in plan.actions if isinstance(action, RunAction)]
    assert len(runs) == 1
    assert "pip" not in runs[0].argv[-1] and "echo ok > done.txt" in runs[0].argv[-1]
    copies = [(action.sources, action.target) for action in plan.actions if isinstance(action, CopyAction)]
    assert copies == [(("data/a.csv",), "/srv/app/in/"), (("with space.txt",), "/root/")]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("RUN curl -L https://x.example | tar xz", "line 2 (RUN): curl needs the network"),
        ("RUN true && git clone https://x.example/y", "git clone needs the network"),
        ("RUN npm install", "npm needs the network"),
        ("RUN apt-get install -y surely-no-such-package", "surely-no-such-package is not on this machine; install it"),
        ("RUN apt-get install -y $DEPS", "shell variable ($DEPS)"),
        ("RUN pip install git+https://x.example/y", "is a path or an address"),
        ("RUN pip install -e .", "-e cannot be honoured"),
        ("RUN pip install -r requirements.txt", "requirements.txt is not copied from the environment folder"),
        ("RUN if true; then pip install numpy; fi", "inside if, for or a group"),
        ("RUN useradd -m app", "useradd changes the system"),
        ("RUN dnf install -y x", "dnf installs packages of another system"),
        ("RUN surely-no-such-program --x", "the program surely-no-such-program is not on this machine"),
        ("RUN python3 -c 'import nltk; nltk.download(\"punkt\")'", "runs python3 code that downloads"),
        ("RUN python3 - <<'PY'\nimport urllib.request as u\nu.urlopen('x')\nPY", "runs Python code that downloads"),
        ("ADD https://x.example/f /f", "line 2 (ADD): downloads"),
        ("ADD data.tar.gz /f", "unpacks an archive"),
        ("COPY missing /x", "line 2 (COPY): missing is not in the environment folder"),
        ("COPY ../solution /x", "lies outside of the environment folder"),
        ("COPY --from=build /a /b", "another build stage"),
        ("COPY skills/one/SKILL.md /app/help.md", "skills are never part of the image"),
        ("FROM debian AS second", "several build stages"),
        ("ENTRYPOINT [\"/start.sh\"]", "starts a program beside the agent"),
        ("SHELL [\"pwsh\"]", "only sh and bash"),
        ("ONBUILD RUN x", "ONBUILD cannot be honoured"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_with_line_and_reason(tmp_path, lines, expected):
    plan = plan_image(task(tmp_path, f"FROM debian:12\n{lines}\n"))
    assert any(expected in reason for reason in reasons(plan)), reasons(plan)


@pytest.mark.parametrize("image", ["jasonish/suricata:7", "gcr.io/x/y", "bugswarm/cached-images:a"])
def test_bases_with_software_of_their_own_are_refused(tmp_path, image):
    assert "brings software of its own" in reasons(plan_image(task(tmp_path, f"FROM {image}\n")))[0]


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ("[environment]\ngpus = 1", "GPU"),
        ('[environment]\nos = "windows"', "windows"),
        ('[environment]\nmcp_servers = [{name = "m"}]', "MCP"),
        ('[environment]\nhealthcheck = {command = "true"}', "healthcheck"),
        ('[verifier]\nenvironment_mode = "separate"', "another environment"),
        ('[agent]\nnetwork_mode = "allowlist"\nallowed_hosts = ["a.example"]', "allowlist"),
        ('[solution]\nenv = {K = "${API_KEY}"}', "${API_KEY}"),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused(tmp_path, toml, expected):
    assert expected in reasons(plan_image(task(tmp_path, "FROM debian\n", toml)))[0]


def test_compose_files_are_refused(tmp_path):
    folder = task(tmp_path, "FROM debian\n", **{"environment/docker-compose.yaml": "services: {}"})
    assert "compose file" in reasons(plan_image(folder))[0]


def test_the_skills_are_never_in_the_build_context(tmp_path):
    plan = plan_image(task(tmp_path, "FROM debian\nCOPY . /app\nCOPY s* /srv/\n", **{"environment/src.txt": "x"}))
    assert reasons(plan) == []
    copied = [source for action in plan.actions if isinstance(action, CopyAction) for source in action.sources]
    assert copied == ["", "src.txt"]
    assert plan.skill_dirs == list(DEFAULT_SKILL_DIRS)


def test_requirement_files_are_read_from_where_they_were_copied(tmp_path):
    dockerfile = "FROM debian\nWORKDIR /app\nCOPY req.txt ./\nRUN pip install -r req.txt\nRUN pip install numpy==2.0\n"
    plan = plan_image(
        task(tmp_path, dockerfile, **{"environment/req.txt": "# c\nnumpy==1.0 # old\nattrs>=20 ; python_version>'3'\n"})
    )
    assert reasons(plan) == []
    assert plan.layer_requirements() == ("attrs>=20 ; python_version>'3'", "numpy==2.0")


def test_programs_of_python_packages_may_be_run(tmp_path):
    plan = plan_image(task(tmp_path, "FROM debian\nRUN pip install sometool==1 && sometool --setup\nRUN sometool\n"))
    assert reasons(plan) == []
    assert [action.argv[-1].split()[-2:] for action in plan.actions if isinstance(action, RunAction)] == [
        ["sometool", "--setup"],
        ["sometool"],
    ]


def test_folders_are_made_without_a_box_and_system_python_lines_mean_nothing(tmp_path):
    dockerfile = "FROM debian\nRUN mkdir -p /output /etc/tool\nRUN ln -s /usr/bin/python3 /usr/bin/python\n"
    plan = plan_image(task(tmp_path, dockerfile))
    assert reasons(plan) == []
    assert [a.target for a in plan.actions if isinstance(a, FolderAction)] == ["/output", "/etc/tool"]
    assert not [a for a in plan.actions if isinstance(a, RunAction)]


def test_a_dockerignore_is_respected(tmp_path):
    files = {
        "environment/.dockerignore": "*.log\n!keep.log\nsecret\n",
        "environment/a.log": "",
        "environment/keep.log": "",
    }
    folder = task(tmp_path, "FROM debian\nCOPY *.log /l/\nCOPY secret /s\n", **files, **{"environment/secret/k": "x"})
    plan = plan_image(folder)
    assert [a.sources for a in plan.actions if isinstance(a, CopyAction)] == [("keep.log",)]
    assert "secret is not in the environment folder" in reasons(plan)[0]


def test_a_task_without_dockerfile_needs_an_image_name(tmp_path):
    with pytest.raises(UserError, match="needs an environment"):
        plan_image(task(tmp_path / "a", None))
    plan = plan_image(task(tmp_path / "b", None, '[environment]\ndocker_image = "python:3.12"\nworkdir = "/work"'))
    assert (reasons(plan), plan.workdir) == ([], "/work")


@pytest.mark.parametrize(
    ("script", "wanted", "isolated"),
    [
        ("uvx \\\n  --with pytest==8.4.1 \\\n  --with a,b \\\n  pytest --ctrf x", ("a", "b", "pytest==8.4.1"), True),
        ("pip3 install --break-system-packages pytest==8.4.1 'numpy<2'", ("numpy<2", "pytest==8.4.1"), False),
        ("python3 -m pip install -q x==1", ("x==1",), False),
        ("uv pip install --system x", ("x",), False),
        ("uv init\nuv add pytest==8\nuv run pytest -x", ("pytest==8",), False),
        ("uv run --with x -p 3.12 python t.py", ("x",), True),
        ("uvx --with x python -m pytest t.py", ("x",), True),
        ("uvx --from tool-pkg tool", ("tool-pkg",), True),
        ("if uvx -p 3.12 -w pytest pytest; then echo 1; fi", ("pytest",), True),
        ("echo pip install nothing", (), None),
    ],
)
def test_what_test_scripts_install_is_found(script, wanted, isolated):
    installs = list(script_installs(script))
    assert merged([text for install in installs for text in install.requirements]) == wanted
    assert not [reason for install in installs for reason in install.refused]
    if isolated is not None:
        assert all(i.isolated for i in installs if i.requirements) is isolated


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text() | st.text("aptge-install rm && pip; curl|\n\\\"'`$(){}<<EOF#=[]*?/.~"))
def test_any_run_line_is_planned_without_an_exception(script):
    plan = plan_run(script)
    assert not (plan.refused and plan.script)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(STARTS) | st.text(max_size=30), max_size=6))
def test_any_dockerfile_is_planned_or_a_user_error(tmp_path_factory, parts):
    folder = task(tmp_path_factory.mktemp("t"), "".join(parts).encode("utf-8", "replace").decode())
    try:
        plan_image(folder)
    except UserError as error:
        assert str(error)
