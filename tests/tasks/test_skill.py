import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairtrial.core.errors import UserError
from fairtrial.tasks.skill import check_fields, load_strings, parse_skill, read_skill, split_front_matter

CASES = Path(__file__).parents[3] / "shared" / "cases" / "skillsbench"


def skill(folder, text, name="SKILL.md"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def kinds(front, folder):
    fields, _, problems = parse_skill(f"---\n{front}\n---\nbody\n")
    return {p.kind for p in problems or check_fields(fields, folder) if p.rejects}


@pytest.mark.skipif(not CASES.is_dir(), reason="the genuine SkillsBench cases are not beside this checkout")
def test_the_verdict_on_108_genuine_skills_is_the_reference_validators():
    rows = [json.loads(line) for line in (CASES / "skill_frontmatter.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == 108
    verdicts = {row["path"]: bool(kinds(row["frontmatter"], row["dir_name"])) for row in rows}
    assert verdicts == {row["path"]: bool(row["reference_errors"]) for row in rows}
    assert sum(verdicts.values()) == 15
    for row in rows:
        found = kinds(row["frontmatter"], row["dir_name"])
        errors = " ".join(row["reference_errors"])
        if "Directory name" in errors:
            assert "directory" in found, row["path"]
        if "lowercase" in errors or "invalid characters" in errors:
            assert "name" in found, row["path"]


@pytest.mark.skipif(not CASES.is_dir(), reason="the genuine SkillsBench cases are not beside this checkout")
def test_every_genuine_skill_folder_is_read_leniently():
    folders = [path.parent for path in CASES.glob("*/environment/skills/*/SKILL.md")]
    assert len(folders) >= 12
    for folder in folders:
        found = read_skill(folder, lenient=True)
        assert found.name and len(found.description) > 20 and found.body


def test_dashes_in_a_description_cut_nothing(tmp_path):
    folder = skill(tmp_path / "demo", '---\nname: demo\ndescription: "first --- second"\n---\n# Body\n\n---\nmore\n')
    found = read_skill(folder)
    assert found.description == "first --- second"
    assert found.body == "# Body\n\n---\nmore"


def test_windows_line_ends_bom_and_lower_case_file_name(tmp_path):
    text = "\ufeff---\r\nname: demo\r\ndescription: what it is for\r\n---\r\nBody\r\n"
    found = read_skill(skill(tmp_path / "demo", text, "skill.md"))
    assert (found.name, found.description, found.body) == ("demo", "what it is for", "Body")


@pytest.mark.parametrize("name", ["no", "2024-01-01", "null", "0x10", "1e3"])
def test_names_that_yaml_would_turn_into_something_else_stay_text(tmp_path, name):
    assert read_skill(skill(tmp_path / name, f"---\nname: {name}\ndescription: yes\n---\n")).name == name.lower()


def test_unicode_names_are_compared_after_nfkc(tmp_path):
    decomposed = unicodedata.normalize("NFD", "café")
    assert read_skill(skill(tmp_path / "café", f"---\nname: {decomposed}\ndescription: d\n---\n")).name == "café"
    assert read_skill(skill(tmp_path / "技能", "---\nname: 技能\ndescription: d\n---\n")).name == "技能"


def test_flow_lists_are_yaml_and_only_noted(tmp_path):
    text = "---\nname: demo\ndescription: d\nallowed-tools: [Read, Write]\nmetadata: {a: [1]}\n---\n"
    found = read_skill(skill(tmp_path / "demo", text))
    assert found.problems == ("allowed-tools must be a text", "metadata must be a mapping of texts to texts")


@pytest.mark.parametrize(
    ("front", "kind"),
    [
        ("description: d", "missing"),
        ("name: demo", "missing"),
        ("name: Demo\ndescription: d", "name"),
        ("name: demo_x\ndescription: d", "name"),
        ("name: demo--x\ndescription: d", "name"),
        ("name: -demo\ndescription: d", "name"),
        (f"name: {'a' * 65}\ndescription: d", "name"),
        ("name: other\ndescription: d", "directory"),
        ("name: demo\ndescription: ''", "description"),
        (f"name: demo\ndescription: {'d' * 1025}", "description"),
        (f"name: demo\ndescription: d\ncompatibility: {'c' * 501}", "compatibility"),
        ("name: demo\ndescription: d\nversion: 1", "unknown field"),
        ("name: demo\ndescription: use it: now", "yaml"),
        ("name: demo\nname: demo\ndescription: d", "yaml"),
        ("- a\n- b", "yaml"),
        ("name: &a demo\ndescription: *a", "yaml"),
        ("name: !!python/object:os.system demo\ndescription: d", "yaml"),
        (f"name: demo\ndescription: {'[' * 50}{']' * 50}", "yaml"),
    ],
)
def test_what_the_specification_forbids_is_rejected_by_kind(front, kind):
    assert kind in kinds(front, "demo")


def test_an_alias_bomb_is_refused_quickly():
    bomb = "a: &a [x, x, x]\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    with pytest.raises(UserError, match="aliases"):
        load_strings(bomb)


def test_a_slightly_invalid_skill_is_refused_strictly_and_read_leniently(tmp_path):
    folder = skill(tmp_path / "demo", "---\nname: Demo Skill\ndescription: use it: when needed\n---\nBody\n")
    with pytest.raises(UserError, match="invalid YAML"):
        read_skill(folder)
    found = read_skill(folder, lenient=True)
    assert (found.name, found.description, found.body) == ("Demo Skill", "use it: when needed", "Body")
    assert found.problems


def test_a_skill_without_front_matter_or_in_latin_1_is_still_readable_leniently(tmp_path):
    found = read_skill(skill(tmp_path / "demo", b"Just text \xe9\n"), lenient=True)
    assert found.name == "demo"
    assert found.body.startswith("Just text")
    assert len(found.problems) == 2


def test_a_folder_without_skill_md_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has no SKILL\.md"):
        read_skill(tmp_path)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text() | st.text("-\n:[]{}&*!|>'\" abc\t#%@`,?"))
def test_any_text_is_parsed_without_anything_but_problems(text):
    fields, body, problems = parse_skill(text)
    list(check_fields(fields, "demo"))
    assert isinstance(body, str)
    assert problems or fields is not None


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{1,8}", fullmatch=True),
        st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"])),
        max_size=4,
    )
)
def test_json_is_yaml_and_comes_back_as_the_same_strings(fields):
    front = json.dumps(fields, ensure_ascii=False)
    if "\n" not in front and fields:
        assert load_strings(split_front_matter(f"---\n{front}\n---\n")[0]) == fields


OK = "name: demo\ndescription: d"
"""Front matter that is fine."""
D = "description: d"
DEEP = "".join("  " * at + "a:\n" for at in range(1, 26))
LAXER = (
    'name: demo\ndescription: "first --- second"',  # the reference cuts the front matter there
    f"{OK}\nallowed-tools: [Read, Write]",  # the reference reads a part of YAML only
    f"{OK}\nmetadata: {{a: b}}",
)
STRICTER = (f"---\n{OK}\n  ---\nBody\n", f"---\n{OK}\nmetadata:\n{DEEP}---\n")
REJECTED = (
    *(f"name: demo\nname: demo\n{D}", "name: &a demo\ndescription: *a", f"name: !!str demo\n{D}", "- a\n- b", "hello"),
    *("# a comment", "", "name: demo\ndescription:", f"name: 12\n{D}", "name: demo\ndescription: use it: now"),
    *("name: demo\ndescription:\td", "name: demo\ndescription: @d", "name: demo\ndescription: `d`", f"Name: demo\n{D}"),
    *(f"name: [demo]\n{D}", f"{OK}\ncompatibility: [a]", f"{OK}\n<<: {{a: b}}", f"{OK}\n? [a]\n: b", f"name: ''\n{D}"),
    f"{OK}\nmetadata:\n\ta: b",
)
ACCEPTED = (
    *("name: demo\ndescription: a---b", f"{OK}\nallowed-tools:\n  - Read", f"{OK}\nmetadata:\n  - a"),
    *(f"{OK}\nmetadata: x", f"{OK}\nmetadata:\n  a:\n    b: c", f"{OK}\nlicense:\n  - MIT"),
    *("name: demo\ndescription: >\n  a\n  b", "name: demo\ndescription: ~", '"name": demo\n"description": d'),
    *("# c\nname: demo # x\ndescription: d", f"{OK}\ncompatibility: ''"),
)


def accepted(tmp_path, text):
    try:
        read_skill(skill(tmp_path / "demo", text))
    except UserError:
        return False
    return True


def test_verdicts_that_skills_ref_0_1_1_gave_and_where_ours_are_others(tmp_path):
    """The reference was run on the same texts; the differences are these and each has its reason."""
    for front in (*REJECTED, *ACCEPTED, *LAXER):
        assert accepted(tmp_path, f"---\n{front}\n---\nBody\n") == (front not in REJECTED), front
    assert accepted(tmp_path, f"\ufeff---\n{OK}\n---\n"), (
        "a byte order mark: editors write it, the reference refuses it"
    )
    for text in STRICTER:
        assert not accepted(tmp_path, text), (
            "no reader of front matter takes it for one, or it is no skill but an attack"
        )
    assert not accepted(tmp_path, f"---\n{OK}\x00\n---\n"), "the reference crashes"
    assert read_skill(skill(tmp_path / "demo", "---\nname: demo\ndescription: a---b\n---\n")).description == "a---b"


@pytest.mark.skipif(not CASES.is_dir(), reason="the genuine SkillsBench cases are not beside this checkout")
def test_only_two_genuine_skills_are_rejected_for_other_reasons_than_the_references():
    rows = [json.loads(line) for line in (CASES / "skill_frontmatter.jsonl").read_text("utf-8").splitlines()]
    words = {"lowercase": "name", "invalid characters": "name", "must match": "directory", "Invalid YAML": "yaml"}
    other, noted = {}, []
    for row in rows:
        wanted = {kind for error in row["reference_errors"] for word, kind in words.items() if word in error}
        if wanted != kinds(row["frontmatter"], row["dir_name"]):
            other[row["dir_name"]] = kinds(row["frontmatter"], row["dir_name"])
        fields, _, problems = parse_skill(f"---\n{row['frontmatter']}\n---\n")
        noted += [row["dir_name"] for p in problems or check_fields(fields, row["dir_name"]) if not p.rejects]
    assert other == {name: {"unknown field", "compatibility"} for name in ("senior-java", "senior-data-engineer")}, (
        "flow lists stop the reference there; ours reads on and says what the specification has against the fields"
    )
    assert set(noted) == {"planning-with-files"}
