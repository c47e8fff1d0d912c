"""The registry against real installed distributions: collisions raise, a broken plugin is reported."""

import json
import os
import subprocess
import sys

import pytest

from fairtrial.core.errors import UserError
from fairtrial.core.registry import load, names


def install(site, dist, entry_points, **modules):
    """A distribution as pip leaves it: a .dist-info folder beside its modules."""
    info = site / f"{dist}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    for name, code in modules.items():
        (site / f"{name}.py").write_text(code)


def ask(site, code):
    """What a fresh interpreter with those distributions prints, as JSON."""
    prelude = (
        "import json\nfrom fairtrial.core.registry import broken, load, names\n"
        "from fairtrial.core.errors import UserError\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", prelude + code],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(out.stdout)


def test_a_plugin_of_another_package_is_found_and_loaded(tmp_path):
    install(tmp_path, "nice", "[fairtrial.agents]\nnice = nice_agent:Nice\n", nice_agent="class Nice:\n    x = 5\n")
    answer = ask(tmp_path, "print(json.dumps(['nice' in names('agents'), load('agents', 'nice').x]))")
    assert answer == [True, 5]


def test_two_packages_that_claim_one_name_are_refused_with_both_named(tmp_path):
    install(tmp_path / "one", "alpha", "[fairtrial.agents]\nsame = alpha_agent:A\n", alpha_agent="A = 1\n")
    install(tmp_path / "two", "beta", "[fairtrial.agents]\nsame = beta_agent:B\n", beta_agent="B = 2\n")
    code = """
texts = []
for call in (lambda: names("agents"), lambda: load("agents", "same")):
    try:
        call()
    except UserError as error:
        texts.append(str(error))
print(json.dumps([texts, broken().get("agents"), "local" in names("engines")]))
"""
    texts, reported, others_work = ask(f"{tmp_path / 'one'}{os.pathsep}{tmp_path / 'two'}", code)
    assert len(texts) == 2
    for text in [*texts, reported]:
        assert 'agent "same" is registered twice' in text and "alpha" in text and "beta" in text
    assert others_work, "other roles are not affected"


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import not_installed_anywhere\n", "not_installed_anywhere"),
        ("raise RuntimeError('half configured')\n", "half configured"),
        ("import sys\nsys.exit('bye')\n", "bye"),
        ("Other = 1\n", "Broken"),
        ("def (\n", "SyntaxError"),
    ],
)
def test_a_broken_plugin_is_reported_and_hurts_nobody_else(tmp_path, code, says):
    install(tmp_path, "cracked", "[fairtrial.agents]\nbroken = cracked:Broken\n", cracked=code)
    install(tmp_path, "sound", "[fairtrial.agents]\nsound = sound_agent:S\n", sound_agent="S = 3\n")
    script = """
try:
    load("agents", "broken")
except UserError as error:
    text = str(error)
print(json.dumps([text, broken()["agents/broken"], load("agents", "sound")]))
"""
    text, reported, sound = ask(tmp_path, script)
    assert says in text and "cracked" in text and "\n" not in text
    assert reported == text and sound == 3


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UserError, match='unknown engine "locall"; did you mean "local"\\?'):
        load("engines", "locall")


def test_the_local_engine_is_registered_and_needs_no_arguments():
    assert "local" in names("engines")
    assert callable(load("engines", "local")().run)
