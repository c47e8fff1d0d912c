import math
import tomllib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairtrial.core.errors import UserError
from fairtrial.tasks.harbor.schema import megabytes, parse_task_toml, strays


def parsed(text):
    return parse_task_toml(tomllib.loads(text), where="task.toml")


def test_the_whole_of_schema_1_4_is_read():
    toml = parsed("""
schema_version = "1.4"
artifacts = ["/app/out.csv", {source = "/app/log", destination = "log", exclude = ["*.tmp"]}]
[task]
name = "org/demo"
authors = [{name = "A", email = "a@b.example"}]
keywords = ["x"]
[metadata]
anything = {goes = [1, 2]}
[agent]
timeout_sec = 12.5
network_mode = "allowlist"
allowed_hosts = ["*.example.org", "10.0.0.0/8", "::1", "host.example"]
[verifier]
timeout_sec = 60
environment_mode = "shared"
env = {KEY = "${KEY:-x}"}
[[verifier.collect]]
command = "dump"
[environment]
cpus = 0.5
memory_mb = 512
storage_mb = 1024
mcp_servers = [{name = "m", transport = "stdio", command = "serve"}]
healthcheck = {command = "true", retries = 5}
[solution]
env = {A = "b"}
""")
    assert toml.environment.cpus == 0.5
    assert toml.environment.memory_limit_mb == 512
    assert toml.agent.allowed_hosts[1] == "10.0.0.0/8"
    assert toml.verifier.collect[0].timeout_sec == 60
    assert toml.environment.healthcheck.interval_sec == 5
    assert list(strays(toml)) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4G", 4096), ("512M", 512), ("2048MiB", 2048), ("1.5g", 1536), ("1T", 1048576), ("4GB", 4096)],
)
def test_legacy_sizes_become_megabytes(text, expected):
    assert megabytes(text) == expected
    assert parsed(f'[environment]\nmemory = "{text}"').environment.memory_limit_mb == expected


def test_the_old_version_key_and_image_key_are_aliases():
    toml = parsed('version = "1.0"\n[environment]\nimage = "python:3.12-slim"')
    assert toml.schema_version == "1.0"
    assert toml.environment.docker_image == "python:3.12-slim"
    assert list(strays(toml)) == []


def test_stray_sections_and_keys_are_reported_and_metadata_is_free():
    toml = parsed("""
[reward]
kind = "x"
[metadata]
required_skills = ["a"]
[agent]
timeout_secs = 5
reasoning_effort = "high"
""")
    lines = list(strays(toml))
    assert 'unknown key "reward" is ignored' in lines
    assert 'unknown key "agent.reasoning_effort" is ignored' in lines
    assert 'unknown key "agent.timeout_secs" is ignored; did you mean "timeout_sec"?' in lines
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[agent]\ntimeout_sec = nan", "agent.timeout_sec"),
        ("[agent]\ntimeout_sec = inf", "agent.timeout_sec"),
        ("[agent]\ntimeout_sec = -1.0", "agent.timeout_sec"),
        ('[agent]\ntimeout_sec = "900"', "agent.timeout_sec"),
        ("[agent]\ntimeout_sec = true", "agent.timeout_sec"),
        ('[environment]\nmemory = "lots"', "environment.memory"),
        ("[environment]\nmemory_mb = 1.5", "environment.memory_mb"),
        ('[environment]\nos = "beos"', "environment.os"),
        ('[environment]\nnetwork_mode = "none"', "environment.network_mode"),
        ('[agent]\nallowed_hosts = ["https://example.org/x"]', "agent.allowed_hosts"),
        ('[agent]\nnetwork_mode = "public"\nallowed_hosts = ["a.example"]', "agent"),
        ('[verifier]\nenv = {"A B" = "x"}', "verifier.env"),
        ('version = "9.0"', '"version"'),
        ('multi_step_reward_strategy = "median"', "multi_step_reward_strategy"),
        ('[[steps]]\nname = "a"\n[[steps]]\nname = "a"', "same name: a"),
        ('[[steps]]\nname = "../x"', "steps.0.name"),
        ('[[steps]]\nname = "a"\nmin_reward = nan', "steps.0.min_reward"),
    ],
)
def test_wrong_values_are_refused_by_their_path(text, named):
    with pytest.raises(UserError) as error:
        parsed(text)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_KEYS = st.sampled_from(
    [
        "version",
        "schema_version",
        "agent",
        "verifier",
        "environment",
        "steps",
        "metadata",
        "artifacts",
        "solution",
        "task",
        "x",
    ]
)
_INNER = st.sampled_from(
    ["timeout_sec", "memory", "memory_mb", "cpus", "env", "collect", "name", "min_reward", "user", "y"]
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(_KEYS, _VALUES | st.dictionaries(_INNER, _VALUES, max_size=4), max_size=5))
def test_any_tables_are_read_or_refused_with_a_user_error(data):
    try:
        toml = parse_task_toml(data, where="task.toml")
    except UserError as error:
        assert str(error).startswith("task.toml: ")
    else:
        assert math.isfinite(toml.agent.timeout_sec)
        list(strays(toml))
