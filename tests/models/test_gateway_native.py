"""Token honesty through the gateway: what a native model sampled is what its next prompt holds, id for id."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from fairtrial.core.clock import VirtualClock
from fairtrial.core.redact import Redactor
from fairtrial.core.trajectory import Trajectory
from fairtrial.models.gateway.recording import Recording, Route
from fairtrial.models.gateway.sessions import Sessions, trajectory_of
from fairtrial.models.model import Message, Reply, Request, Sampling
from fairtrial.models.opening import open_model


@pytest.mark.parametrize("restarted", [False, True])
def test_a_native_model_continues_its_own_ids_though_the_agent_sends_text(
    native_folder: Path, tmp_path: Path, restarted: bool
) -> None:
    async def main() -> list[Reply]:
        model = open_model(f"native:{native_folder}", tmp_path)
        replies: list[Reply] = []
        messages = [Message(role="system", content="be brief"), Message(role="user", content="What is 1 + 2?")]
        sessions = Sessions(tmp_path / "out", VirtualClock(), Redactor({}))
        for turn in range(4):
            if restarted:
                sessions.close()
                sessions = Sessions(tmp_path / "out", VirtualClock(), Redactor({}))
            asked = Request(messages=tuple(messages), sampling=Sampling(max_tokens=12, seed=turn))
            reply = await Recording(model, sessions, Route("s")).generate(asked)
            replies.append(reply)
            said = Message(role="assistant", content=reply.text.strip(), tool_calls=reply.message.tool_calls)
            messages += [said, Message(role="user", content=f"and {turn}?")]
        sessions.close()
        await model.close()
        return replies

    replies = asyncio.run(main())
    trajectory = Trajectory.model_validate(trajectory_of(tmp_path / "out" / "sessions" / "s.jsonl"))
    for call, reply in enumerate(replies):
        assert trajectory.prompt_ids(call) == reply.prompt_ids
        assert trajectory.model_calls[call].completion_ids == reply.completion_ids
        assert trajectory.model_calls[call].logprobs == pytest.approx(reply.logprobs)
        if call:
            earlier = replies[call - 1]
            before = (*(earlier.prompt_ids or ()), *(earlier.completion_ids or ()))
            assert (reply.prompt_ids or ())[: len(before)] == before
            assert (delta := trajectory.model_calls[call].prompt) is not None
            assert (delta.base, delta.keep) == (call - 1, len(before))
