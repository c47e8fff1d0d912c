"""Progressive disclosure (Agent Skills): names and descriptions in the prompt, bodies and files through a tool.

A kit holds what one run gets to see, and says afterwards what of it was shown, what could be read, and what was read.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fairtrial.agents.accounting import text_of, tool_calls
from fairtrial.agents.log import Log
from fairtrial.agents.skills.settings import SkillSettings
from fairtrial.agents.tools.tool import Tool, ToolError
from fairtrial.core.errors import did_you_mean
from fairtrial.core.ids import canonical_json, digest
from fairtrial.tasks.worlds.world import SkillText

NAME = "read_skill"
MAIN = "SKILL.md"
_HOW = (
    "A skill tells how to do one kind of task. Where the description of one fits what is asked, read it with the tool "
    f"{NAME} before you work, and follow it."
)
_FORCED = "A skill tells how to do one kind of task. Follow those of the following that fit what is asked."


def skill_md(skill: SkillText) -> str:
    """The skill's SKILL.md."""
    front = f"name: {json.dumps(skill.name, ensure_ascii=False)}\ndescription: {json.dumps(skill.description)}"
    return f"---\n{front}\n---\n{skill.body}\n"


def listed(skills: Sequence[SkillText], locations: Mapping[str, str] | None = None) -> str:
    """The list of skills in the form of the reference (skills-ref), one line each."""
    lines: list[str] = []
    for skill in skills:
        said = f"<name>{html.escape(skill.name)}</name><description>{html.escape(skill.description)}</description>"
        if locations is not None:
            said += f"<location>{html.escape(locations[skill.name])}</location>"
        lines.append(f"<skill>{said}</skill>")
    return "\n".join(["<available_skills>", *lines, "</available_skills>"])


def forced(skills: Sequence[SkillText]) -> str:
    """The bodies, for a prompt."""
    texts = [f'<skill name="{html.escape(skill.name)}">\n{skill.body.strip()}\n</skill>' for skill in skills]
    return "\n\n".join([_FORCED, *texts])


@dataclass(frozen=True, slots=True)
class Kit:
    """The skills of one run."""

    arm: SkillSettings
    own: tuple[SkillText, ...] = ()
    """The task's own, shown or not."""
    skills: tuple[SkillText, ...] = ()
    """What this run gets to see."""
    creation: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """How a model came to write them."""
    said: Sequence[Mapping[str, Any]] = ()
    """Its prompts and replies."""

    @property
    def told(self) -> str:
        """What the system message says of them."""
        if not self.skills:
            return ""
        return forced(self.skills) if self.arm.forced else f"{_HOW}\n{listed(self.skills)}"

    @property
    def tools(self) -> tuple[Tool, ...]:
        """`read_skill`, where there is something to read that is not in the prompt."""
        if not any(skill.files or not self.arm.forced for skill in self.skills):
            return ()
        parameters = {
            "type": "object",
            "properties": {
                "name": {"type": "string", "description": "Name of the skill."},
                "file": {"type": "string", "description": "A file of the skill; without it the skill's own text."},
            },
            "required": ["name"],
            "additionalProperties": False,
        }
        return (Tool(NAME, "Read a skill.", parameters, self._read, effect="pure"),)

    async def _read(self, args: Mapping[str, Any]) -> str:
        texts = {skill.name: skill for skill in self.skills}
        name, file = str(args["name"]).strip(), str(args.get("file", MAIN)).strip()
        skill = texts.get(name)
        if skill is None:
            raise ToolError(f'there is no skill "{name}"{did_you_mean(name, texts)}')
        if file == MAIN:
            files = f"\n\nFiles of this skill: {', '.join(sorted(skill.files))}" if skill.files else ""
            return f"{skill.body.strip()}{files}"
        if file not in skill.files:
            raise ToolError(f'the skill "{name}" has no file "{file}"{did_you_mean(file, skill.files)}')
        return skill.files[file]

    def visible(self) -> bytes:
        """What the run could see of skills, as canonical JSON: every text with its hash, and how it was disclosed."""
        rows: list[dict[str, Any]] = []
        for skill in self.skills:
            for path, text in ((MAIN, skill_md(skill)), *sorted(skill.files.items())):
                how = "in the prompt" if self.arm.forced and path == MAIN else "readable"
                raw = text.encode()
                rows.append({"path": f"{skill.name}/{path}", "sha256": digest(raw), "size": len(raw), "how": how})
        return canonical_json(
            {
                "what": "every skill text that the run could see; names and descriptions of all of them in the prompt",
                "skills": self.arm.id,
                "prompt": {"sha256": digest(self.told.encode()), "size": len(self.told.encode())},
                "files": rows,
            }
        )

    def texts(self) -> bytes:
        """The skills' whole texts as canonical JSON: {skill: {path: text}}."""
        return canonical_json({skill.name: {MAIN: skill_md(skill), **skill.files} for skill in self.skills})

    def account(self, log: Log) -> dict[str, Any]:
        """What became of them in a run, from its log: read, invoked, and seen in any prompt."""
        reads: dict[str, list[str]] = {}
        first: int | None = None
        for step, result, tool, args in tool_calls(log):
            if tool == NAME and result.status == "ok":
                files = reads.setdefault(str(args["name"]).strip(), [])
                file = str(args.get("file", MAIN)).strip()
                files += [file] if file not in files else []
                first = step.number if first is None else first
        prompts = ["\n".join(text_of(m) for m in call.request.messages or ()) for call in log.calls()]
        seen = {skill.name: [*_seen(skill, prompts)] for skill in self.own}
        names = {skill.name for skill in self.own}
        readable = bool(self.tools)
        return {
            "shown": [skill.name for skill in self.skills],
            "own_shown": [skill.name for skill in self.skills if skill in self.own],
            "prompt_characters": len(self.told),
            "readable_characters": sum(len(text) for skill in self.skills for text in skill.texts[1:]),
            "read": reads,
            "invoked": bool(reads) if readable else None,
            "invoked_own": bool(names & set(reads)) if readable else None,
            "first_read": first,
            "own_texts_seen": {name: paths for name, paths in seen.items() if paths},
        }


def _seen(skill: SkillText, prompts: Sequence[str]) -> Iterator[str]:
    """Paths of the skill's texts that stand in a prompt as a whole, whatever brought them there."""
    for path, text in ((MAIN, skill.body.strip()), *sorted(skill.files.items())):
        if text and any(text in prompt for prompt in prompts):
            yield path
