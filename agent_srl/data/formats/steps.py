"""Turns to steps: each call gets its own answer, and a reason where the step is no target."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from agent_srl.data.formats.messages import Call, Message, Turn
from agent_srl.data.formats.styles import Reply, Style
from env_server.schema import Action, Step

BROKEN_ARGUMENTS = "broken arguments"
EMPTY_ACTION = "empty action"

Clean = Callable[[str], str]
"""From what the harness showed to what the tool said."""

_HARNESS_TAG = re.compile(r"\A(?:OBSERVATION:|Observation:|EXECUTION RESULT of \[[^\]\n]*\]:)[ \t]*\n?")


def read_steps(turns: Iterable[Turn], style: Style, clean: Clean) -> list[Step]:
    """At least one step for each turn."""
    return [step for turn in turns for step in _steps(style(turn), _own(turn.answers), clean)]


def strip_tag(text: str) -> str:
    """An observation without the words that SWE-agent and OpenHands put before it."""
    return _HARNESS_TAG.sub("", text)


def make_step(
    call: Call,
    thought: str,
    observation: str,
    rejected: str = "",
    *,
    same_turn: bool = False,
    check_empty: bool = True,
) -> Step:
    """A step for one call; a call that says nothing or cannot be read is no target."""
    if call.arguments is None:
        return Step(
            thought=thought,
            action=None,
            observation=observation,
            rejected=rejected or BROKEN_ARGUMENTS,
            same_turn=same_turn,
        )
    action = Action(name=call.name, arguments=call.arguments)
    if not rejected and check_empty and is_empty(action):
        rejected = EMPTY_ACTION
    return Step(thought=thought, action=action, observation=observation, rejected=rejected, same_turn=same_turn)


def is_empty(action: Action) -> bool:
    """Names a command that says nothing."""
    return "command" in action.arguments and not str(action.arguments["command"]).strip()


def _steps(reply: Reply, answers: tuple[Message, ...], clean: Clean) -> Iterator[Step]:
    if not reply.calls:
        observation = "\n".join(clean(answer.text) for answer in answers)
        yield Step(thought=reply.thought, action=None, observation=observation, rejected=reply.rejected)
        return
    outputs = _pair(reply.calls, answers)
    for i, (call, texts) in enumerate(zip(reply.calls, outputs, strict=True)):
        observation = "\n".join(clean(text) for text in texts)
        yield make_step(call, "" if i else reply.thought, observation, reply.rejected, same_turn=i > 0)


def _own(answers: tuple[Message, ...]) -> tuple[Message, ...]:
    """Without complaints after the first answer: they are about replies that the source did not keep."""
    return tuple(answer for i, answer in enumerate(answers) if i == 0 or answer.interrupts or not answer.complains)


def _pair(calls: tuple[Call, ...], answers: tuple[Message, ...]) -> list[list[str]]:
    """The answers of each call: by id, else in order; what answers no call comes after the last one."""
    outputs: list[list[str]] = [[] for _ in calls]
    for answer in answers:
        named = [i for i, call in enumerate(calls) if call.id and call.id in answer.answers]
        open_ = [i for i in named or range(len(calls)) if not outputs[i]]
        if answer.role == "tool" and open_:
            outputs[open_[0]].append(answer.text)
        else:
            outputs[named[-1] if named else -1].append(answer.text)
    return outputs
