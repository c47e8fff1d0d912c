"""Skills as arms: what each shows, what was read, that texts are followed, and what a model writes for itself."""

import asyncio
import hashlib
import json
from pathlib import Path

import pytest

from fairtrial.agents.context.opening import open_policy
from fairtrial.agents.episode import EpisodeArm, EpisodeSuite, EpisodeWorker
from fairtrial.agents.planners.opening import open_planner
from fairtrial.agents.recording import load_log
from fairtrial.agents.skills.choosing import Shelf, choose
from fairtrial.agents.skills.disclosure import Kit, listed, skill_md
from fairtrial.agents.skills.episodes import Teacher, check_skills, leaked
from fairtrial.agents.skills.findings import skill_findings
from fairtrial.agents.skills.follower import FollowerModel, FollowerSettings
from fairtrial.agents.skills.settings import skill_settings
from fairtrial.agents.skills.writing import read_written
from fairtrial.core.clock import SystemClock
from fairtrial.core.config import parse
from fairtrial.core.errors import UserError
from fairtrial.core.ids import canonical_json, seed
from fairtrial.core.limits import Limits
from fairtrial.core.record import BlobRef, Outcome, TrialKey
from fairtrial.core.trial import Job
from fairtrial.engine.attempt import run_attempt
from fairtrial.models.scripted import Scripted
from fairtrial.tasks.worlds.recipes import Recipes, RecipesSettings
from fairtrial.tasks.worlds.wiki import Wiki, WikiSettings
from fairtrial.tasks.worlds.world import SkillText

ARMS = {
    "none": "none",
    "curated": "curated",
    "forced": "forced",
    "distractors": {"id": "distractors", "n": 5},
    "retrieved": {"id": "retrieved", "k": 2},
    "wrong": "wrong",
    "swapped": "swapped",
    "placebo": "placebo",
}
FOLLOWS = {"curated", "forced", "distractors", "retrieved"}


class Blobs(dict):
    """A blob store in memory."""

    def put(self, content):
        key = hashlib.sha256(content).hexdigest()
        self[key] = content
        return BlobRef(sha256=key, size=len(content))


class Lab:
    """Arms on the episodes of a world of recipes, with a model that is at hand."""

    def __init__(self, arms, model=None, **settings):
        self.world, self.blobs = Recipes(parse(RecipesSettings, settings, where="world"), Path()), Blobs()
        self.episodes = {episode.info.id: episode for episode in self.world.episodes()}
        spec = {"kind": "mine"}
        parsed = {name: parse(EpisodeArm, {"model": spec, **arm}, where="arm") for name, arm in arms.items()}
        for arm in parsed.values():
            check_skills(arm.skills, self.world, list(self.episodes.values()), "arm")
        suite = parse(EpisodeSuite, {"world": "recipes", "turns": 20}, where="suite")
        models = {canonical_json(spec): model or FollowerModel()}
        self.worker = EpisodeWorker(suite, parsed, self.world, self.episodes, models, Teacher(self.world))

    def run(self, limits=None):
        """Records by arm, one for each episode."""

        async def main():
            records = {}
            for arm in self.worker.arms:
                for task in self.episodes:
                    job = Job(
                        TrialKey(arm=arm, task=task, repeat=0), seed(1, task, 0, "sampling"), 1, limits or Limits()
                    )
                    attempt = await run_attempt(self.worker, job, SystemClock(), self.blobs, 1.0)
                    records.setdefault(arm, []).append(attempt.record)
            await self.worker.close()
            return records

        return asyncio.run(main())

    def blob(self, ref):
        return json.loads(self.blobs[ref.sha256])


@pytest.mark.parametrize("in_file", [False, True])
def test_answers_follow_the_text_that_the_arm_shows_whichever_it_is(in_file):
    lab = Lab({name: {"skills": spec} for name, spec in ARMS.items()}, n=12, skills=(1, 2), in_file=in_file)
    records = lab.run()
    for arm, own in records.items():
        if in_file and arm == "placebo":
            continue
        em, swapped = ([record.scores[score] for record in own] for score in ("em", "swapped"))
        assert em == [float(arm in FOLLOWS)] * 12, arm
        assert swapped == [float(arm == "swapped")] * 12, arm
        assert all(record.outcome is Outcome.SCORED for record in own)
    for arm, own in records.items():
        for record in own:
            said = record.details["skills"]
            names = lab.episodes[record.key.task].facts["recipes"]
            assert said["arm"] == arm and said["own"]["names"] == names
            steps = "references/steps.md" if in_file else "SKILL.md"
            assert [name for name, seen in said["own_texts_seen"].items() if steps in seen] == (
                names if arm in FOLLOWS else []
            )
            if arm in ("curated", "distractors", "retrieved"):
                files = ["SKILL.md", "references/steps.md"] if in_file else ["SKILL.md"]
                assert said["read"] == dict.fromkeys(names, files) and said["invoked_own"] is True
            if arm in ("none", "wrong"):
                assert not said["read"] and said["invoked"] is (None if arm == "none" else False)


def test_each_record_proves_what_the_arm_could_see():
    lab = Lab({name: {"skills": spec} for name, spec in ARMS.items()}, n=4)
    for arm, own in lab.run().items():
        for record in own:
            visible = lab.blob(record.visible)
            log = load_log(lab.blobs[record.artifacts["log.jsonl"].sha256])
            system = next(log.calls()).request.messages[0].content
            if arm == "none":
                assert visible["files"] == [] and visible["prompt"]["size"] == 0 and "read_skill" not in system
                assert "skills.json" not in record.artifacts
                continue
            texts = lab.blob(record.artifacts["skills.json"])
            listing = {f"{skill}/{path}": text for skill, files in texts.items() for path, text in files.items()}
            assert {row["path"]: row["sha256"] for row in visible["files"]} == {
                path: hashlib.sha256(text.encode()).hexdigest() for path, text in listing.items()
            }
            bodies = [text.split("---\n", 2)[2].strip() for text in listing.values()]
            assert all((body in system) == (arm == "forced") for body in bodies), "bodies are read, not shown"
            assert {row["how"] for row in visible["files"]} == {"in the prompt" if arm == "forced" else "readable"}
            prompt = system[-record.details["skills"]["prompt_characters"] :]
            assert visible["prompt"]["sha256"] == hashlib.sha256(prompt.encode()).hexdigest()


POLICIES = ["append", {"id": "last-n", "n": 20}, {"id": "clear-results", "keep": 20}, "rewrite", "fold", "fold-random",
            {"id": "summarise-at", "trigger": 400}, {"id": "fold-fixed", "period": 2}]  # fmt: skip
PLANNERS = ["react", "native", "graph", {"id": "graph", "dialect": "tasks"}, "compiler", "rewoo"]


def test_the_follower_plays_in_every_dialect():
    arms = {
        f"{a}.{b}": {"skills": "curated", "policy": policy, "planner": planner}
        for a, policy in enumerate(POLICIES)
        for b, planner in enumerate(PLANNERS)
    }
    assert open_policy(POLICIES[1], len) and open_planner(PLANNERS[3])
    records = Lab(arms, n=1, domains=["codes"], skills=2, steps=2, in_file=True).run()
    wrong = {arm: (own[0].cause, own[0].scores["em"]) for arm, own in records.items() if own[0].scores["em"] != 1}
    assert not wrong and len(records) == 48
    assert all(own[0].details["valid_turns"] == 1 for own in records.values())


def test_a_careless_follower_is_between():
    lab = Lab({"curated": {"skills": "curated"}}, FollowerModel(FollowerSettings(slip=0.2)), n=40, style="plain")
    right = sum(record.scores["em"] for record in lab.run()["curated"])
    assert 8 <= right <= 36


def world(**settings):
    return Recipes(parse(RecipesSettings, settings, where="world"), Path())


def test_a_placebo_has_every_length_and_says_nothing():
    made = world(n=24, length=["compact", "detailed", "comprehensive"], in_file=True)
    shelf = Shelf(made.library())
    for episode in made.episodes():
        (skill,) = episode.skills
        (empty,) = choose(skill_settings("placebo", "arm"), (skill,), shelf, episode.question, 1)
        assert (empty.name, empty.description) == (skill.name, skill.description)
        for told, said in zip(empty.texts, skill.texts, strict=True):
            assert [len(line) for line in told.split("\n")] == [len(line) for line in said.split("\n")]
        steps = [line.partition(". ")[2] for line in skill.files["references/steps.md"].splitlines()[1:]]
        assert not any(step in text for text in empty.texts[1:] for step in steps)


def test_draws_are_the_same_for_a_seed_and_never_hold_the_own_skills_where_they_must_not():
    made = world(n=12)
    shelf = Shelf(made.library())
    for episode in made.episodes():
        own = {skill.name for skill in episode.skills}
        wrong = choose(skill_settings("wrong", "arm"), episode.skills, shelf, episode.question, 3)
        assert wrong == choose(skill_settings("wrong", "arm"), episode.skills, shelf, episode.question, 3)
        assert not own & {skill.name for skill in wrong} and len(wrong) == len(own)
        among = choose(skill_settings({"id": "distractors", "n": 7}, "arm"), episode.skills, shelf, "", 3)
        assert len(among) == 8 and own < {skill.name for skill in among}
        found = choose(skill_settings({"id": "retrieved", "k": 1}, "arm"), (), shelf, episode.question, 3)
        assert [skill.name for skill in found] == [*own], "BM25 finds the skill by its name in the question"


def scripted(*rules):
    """The first pair whose text stands in the last message answers."""
    script = {"rules": [{"contains": contains, "text": text} for contains, text in rules]}
    return Scripted.open(parse(Scripted.settings_type, script, where="model"), Path())


def written(steps, name="mine"):
    return f"```\n---\nname: {name}\ndescription: how to do it\n---\n{steps}\n```"


def test_a_written_skill_reaches_a_fresh_solver_and_nothing_else_does():
    replies = [
        ("A task of the kind", f"<think>the answer is surely 42</think>{written('The secret is to do it well.')}"),
        ("secret", "<answer>x y</answer>"),
        ("Do ", '<tool_call>{"name": "read_skill", "arguments": {"name": "mine"}}</tool_call>'),
    ]
    lab = Lab({"self": {"skills": "self"}}, scripted(*replies), n=1, domains=["items"])
    (record,) = lab.run()["self"]
    said = record.details["skills"]
    assert said["shown"] == ["mine"] and said["read"] == {"mine": ["SKILL.md"]} and said["own_texts_seen"] == {}
    assert record.usage.calls == 3 and said["creation"]["usage"]["calls"] == 1
    log = load_log(lab.blobs[record.artifacts["log.jsonl"].sha256])
    prompts = [message.content for call in log.calls() for message in call.request.messages]
    assert any("The secret is to do it well." in prompt for prompt in prompts)
    assert not any("surely 42" in prompt or "You write skills" in prompt for prompt in prompts)
    (version,) = lab.blob(record.artifacts["skill_creation.json"])
    (episode,) = lab.episodes.values()
    assert episode.question in version["prompt"][1] and "Do not solve the task" in version["prompt"][0]
    assert not any(skill.body in text for skill in episode.skills for text in version["prompt"])


def test_feedback_shows_attempts_at_other_tasks_and_ends_when_they_succeed():
    one = {"n": 1, "domains": ["items"], "steps": 2}
    (episode,) = world(**one).episodes()
    tries = world(**one).practice(episode, 4)
    answers = ["x", *(each.answers[0] for each in tries[1:])]
    rules = [("Your skill so far", written("v2")), ("A task of the kind", written("v1"))]
    rules += [(each.question, f"<answer>{answer}</answer>") for each, answer in zip(tries, answers, strict=True)]

    def run(**spec):
        lab = Lab(
            {"self": {"skills": {"id": "self-feedback", "attempts": 2, **spec}}}, scripted(*rules, ("", "?")), **one
        )
        (record,) = lab.run()["self"]
        return record.details["skills"], lab.blob(record.artifacts["skill_creation.json"])

    said, versions = run()
    assert [(each["task"], each["right"]) for each in said["creation"]["attempts"]] == [
        (each.info.id, at > 0) for at, each in enumerate(tries)
    ]
    assert len(versions) == 2
    asked = versions[1]["prompt"][1]
    assert "v1" in asked and tries[0].question in asked and tries[0].answers[0] in asked
    assert tries[1].question not in asked and episode.answers[0] not in asked
    _, hidden = run(reveal=False)
    assert tries[0].question in hidden[1]["prompt"][1] and tries[0].answers[0] not in hidden[1]["prompt"][1]


def test_a_written_skill_that_says_the_answer_is_flagged():
    (episode,) = world(n=1).episodes()
    lab = Lab(
        {"self": {"skills": "self"}},
        scripted(("A task of", written(f"It is {episode.answers[0]}.")), ("", "<answer>x</answer>")),
        n=1,
    )
    (record,) = lab.run()["self"]
    assert record.flags == ("skill_says_the_answer",)
    assert record.details["skills"]["creation"]["says_the_answer"] == ["mine"]


def test_what_a_creator_costs_counts_against_the_trials_limits():
    lab = Lab({"self": {"skills": "self"}}, scripted(("", written("v1"))), n=1)
    (record,) = lab.run(Limits(tokens=40))["self"]
    assert (record.outcome, record.cause) == (Outcome.FAILED, "tokens_limit") and record.scores["em"] == 0


@pytest.mark.parametrize(
    ("reply", "name", "body", "problems"),
    [
        (written("Do it."), "mine", "Do it.", 0),
        ("---\nname: Mine Own\ndescription: d\n---\nDo it.", "Mine Own", "Do it.", 2),
        ("---\nname: mine\ndescription: use it: now\n---\nDo it.", "mine", "Do it.", 1),
        ("Just do it.", "written-skill", "Just do it.", 1),
    ],
)
def test_written_skills_are_read_as_well_as_they_can_be(reply, name, body, problems):
    skill, found = read_written(reply)
    assert (skill.name, skill.body, len(found)) == (name, body, problems) and skill.description


def test_a_reply_without_any_text_is_no_skill():
    assert read_written("---\nname: mine\ndescription: d\n---\n")[0] is None
    assert read_written("<think>hm</think>")[0] is None


def test_a_skill_in_which_the_answer_stands_is_refused_before_anything_runs():
    (episode,) = world(n=1).episodes()
    assert leaked(episode) is None
    planted = SkillText("x", "d", f"The result is: {', '.join(episode.facts['answer'])}!")
    bad = type(episode)(episode.info, episode.question, episode.answers, skills=(*episode.skills, planted))
    assert "x says the answer" in leaked(bad)


def test_reading_what_there_is_not_tells_the_model_what_there_is():
    skill = SkillText("alpha", "a & b", "Body", {"references/x.md": "X"})
    kit = Kit(skill_settings("curated", "arm"), (skill,), (skill,))
    (tool,) = kit.tools
    assert (
        "a &amp; b" in kit.told and "Body" not in kit.told and listed([skill], {"alpha": "/s"}).count("location") == 2
    )
    assert asyncio.run(tool.call({"name": "alpha"})) == "Body\n\nFiles of this skill: references/x.md"
    assert asyncio.run(tool.call({"name": "alpha", "file": "references/x.md"})) == "X"
    for args, message in (({"name": "alpa"}, 'mean "alpha"'), ({"name": "alpha", "file": "y.md"}, 'no file "y.md"')):
        with pytest.raises(Exception, match=message):
            asyncio.run(tool.call(args))
    assert skill_md(skill).startswith('---\nname: "alpha"\ndescription: "a & b"\n---\nBody')


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("curatd", "curated"),
        ({"id": "curated", "n": 3}, 'n belongs to id = "distractors"'),
        ({"id": "none", "show": "forced"}, "no meaning"),
        ({"id": "forced", "show": "listed"}, 'take id = "curated"'),
        ({"id": "distractors", "n": 999}, "the library has"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_one_line(spec, message):
    with pytest.raises(UserError, match=message) as error:
        check_skills(spec, world(n=2), world(n=2).episodes(), 'arm "a": skills')
    assert "\n" not in str(error.value)


def test_a_world_without_skills_is_refused():
    wiki = Wiki(WikiSettings(n=1, families=("chain",), pages=40), Path())
    check_skills("none", wiki, wiki.episodes(), "arm")
    with pytest.raises(UserError, match='such as "recipes"'):
        check_skills("curated", wiki, wiki.episodes(), "arm")


def test_the_report_tells_who_read_what_and_cuts_scores_as_the_paper_does():
    arms = {"none": "none", "curated": "curated", "swapped": "swapped", "forced": "forced"}
    lengths = ["compact", "comprehensive"]
    records = Lab({name: {"skills": spec} for name, spec in arms.items()}, n=16, skills=(1, 2), length=lengths).run()
    tables = skill_findings(list(arms), "em", [record for own in records.values() for record in own])
    read, domain, number, length = tables
    by_arm = {row[0]: dict(zip(read.columns, row, strict=True)) for row in read.rows}
    assert [by_arm[arm]["invoked"] for arm in arms] == [None, 1.0, 1.0, None]
    assert [by_arm[arm]["answers as swapped texts say"] for arm in arms] == [0.0, 0.0, 1.0, 0.0]
    assert domain.columns == ("arm", "codes", "items", "letters", "numbers")
    assert number.columns == ("arm", "1", "2-3") and length.columns == ("arm", *lengths)
    for table in (domain, number, length):
        assert [row[1:] for row in table.rows] == [
            (value,) * (len(table.columns) - 1) for value in (0.0, 1.0, 0.0, 1.0)
        ], table.title
    assert skill_findings(["none"], "em", records["none"]) == []
