"""The canonical format: ATIF 1.8 (Harbor's Agent Trajectory Interchange Format), with what it lacks under `extra`.

A turn is a step of ATIF, its parallel calls are the step's `tool_calls`. Token ids and log-probabilities have a place
of their own (`metrics`). Ours under `extra`: of the trajectory `instance_id`, `repo`, `source`, `resolved`, `patch`,
`reward`, `failure`; of a step (for a further call: of the call) `rejected`, `reward`. Reading back what was written
gives the same trajectory. Other tools' files are read too: copied context and dispatches without a model are never
targets; what Harbor converted from mini-swe-agent is cleaned as that run's own file would be.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agent_srl import __version__
from agent_srl.data.formats import mini
from agent_srl.data.formats.identity import (
    Origin,
    instance_of,
    problem_in,
    read_tools,
    repo_in,
    resolved_in,
    reward_in,
)
from agent_srl.data.formats.messages import Call, Message, Turn, plain_text, read_arguments
from agent_srl.data.formats.steps import make_step
from agent_srl.data.formats.styles import STYLES, Style, choose_style
from env_server.schema import NO_ACTION, Failure, Step, Trajectory

NAME = "atif"
SCHEMA = "ATIF-v1.8"
MINI = "mini-swe-agent"
COPIED = "copied context"
NO_MODEL = "no model call"

_TOKENS = {"prompt_ids": "prompt_token_ids", "completion_ids": "completion_token_ids", "logprobs": "logprobs"}
_ROOT = {"steps", "problem_statement", "tools"}
"""What of a trajectory has a place of its own."""
_CALL = {"action", "observation", "same_turn"}
"""The same of a further call of a turn."""
_STEP = {"rejected", "reward", "same_turn"}
"""What of a turn goes under `extra`."""


def is_atif(record: dict[str, Any]) -> bool:
    """Says so, or has an agent and steps."""
    named = str(record.get("schema_version", "")).startswith("ATIF")
    return isinstance(record.get("steps"), list) and (named or isinstance(record.get("agent"), dict))


def write_atif(trajectory: Trajectory) -> dict[str, Any]:
    """The JSON object of a trajectory; valid by Harbor's models."""
    steps: list[dict[str, Any]] = [{"source": "user", "message": trajectory.problem_statement}]
    for i, step in enumerate(trajectory.steps):
        further = step.same_turn and step.action is not None and "tool_calls" in steps[-1]
        if not further:
            steps.append(_write_turn(step))
        if step.action is not None:
            own = step.model_dump(mode="json", exclude=_CALL, exclude_defaults=True) if further else {}
            _write_call(steps[-1], step, f"call_{i}", own)
    agent: dict[str, Any] = {"name": trajectory.source or "unknown", "version": __version__}
    if trajectory.tools:
        agent["tool_definitions"] = trajectory.tools
    return {
        "schema_version": SCHEMA,
        "session_id": trajectory.instance_id,
        "agent": agent,
        "steps": [{"step_id": n, **step} for n, step in enumerate(steps, start=1)],
        "extra": trajectory.model_dump(mode="json", exclude=_ROOT, exclude_defaults=True),
    }


def read_atif(record: dict[str, Any], origin: Origin) -> Trajectory:
    """A trajectory from ATIF of any 1.x version. Raises ValueError where it has no task."""
    extra, agent = _dict(record.get("extra")), _dict(record.get("agent"))
    raw = [step for step in record["steps"] if isinstance(step, dict)]
    ours = _is_ours(record)
    named = [str(part) for part in (agent.get("name"), agent.get("model_name")) if part]
    instance_id = _instance(record, origin)
    failure = extra.get("failure")
    return Trajectory(
        instance_id=instance_id,
        repo=str(extra["repo"]) if ours else repo_in(extra, instance_id),
        problem_statement=_text(raw[0]) if ours else problem_in(extra, _asked(raw)),
        steps=list(_read_steps(raw, ours)) if ours or agent.get("name") != MINI else _read_mini(raw),
        source=str(extra["source"]) if ours else "/".join([NAME, *named]),
        resolved=resolved_in(extra),
        patch=plain_text(extra.get("patch")),
        reward=reward_in(extra),
        failure=None if failure is None else Failure.model_validate(failure),
        tools=read_tools(agent.get("tool_definitions")),
    )


def _write_turn(step: Step) -> dict[str, Any]:
    written: dict[str, Any] = {"source": "agent", "message": step.thought}
    metrics = {theirs: value for ours, theirs in _TOKENS.items() if (value := getattr(step, ours)) is not None}
    extra = step.model_dump(mode="json", include=_STEP, exclude_defaults=True)
    written |= {"metrics": metrics} if metrics else {}
    written |= {"extra": extra} if extra else {}
    if step.action is None:
        return written | {"observation": {"results": [{"content": step.observation}]}}
    return written | {"tool_calls": [], "observation": {"results": []}}


def _write_call(turn: dict[str, Any], step: Step, call_id: str, own: dict[str, Any]) -> None:
    assert step.action is not None
    call = {"tool_call_id": call_id, "function_name": step.action.name, "arguments": step.action.arguments}
    turn["tool_calls"].append(call | ({"extra": own} if own else {}))
    turn["observation"]["results"].append({"source_call_id": call_id, "content": step.observation})


def _is_ours(record: dict[str, Any]) -> bool:
    """Written by `write_atif`: nothing is derived then, all is taken as it stands."""
    return {"instance_id", "repo", "source"} <= _dict(record.get("extra")).keys() and bool(record["steps"])


def _instance(record: dict[str, Any], origin: Origin) -> str:
    session = record.get("session_id")
    if "instance_id" not in _dict(record.get("extra")) and isinstance(session, str) and "__" in session:
        return session
    return instance_of(record, origin)


def _read_steps(raw: list[dict[str, Any]], ours: bool) -> Iterator[Step]:
    """A user's or the system's words after a turn are part of what came back."""
    last: Step | None = None
    for step in raw:
        if step.get("source") != "agent":
            if last is not None and (said := "\n".join(filter(None, [_text(step), *_contents(step)]))):
                last.observation = f"{last.observation}\n{said}".lstrip("\n")
            continue
        for read in _read_turn(step, ours):
            if last is not None:
                yield last
            last = read
    if last is not None:
        yield last


def _read_mini(raw: list[dict[str, Any]]) -> list[Step]:
    style = choose_style([message for message in _asked(raw) if message.role == "assistant"])
    read = STYLES[style if style in mini.NAMES else "chat"]
    own = [_as_mini_meant(step, read) if step.get("source") == "agent" else step for step in raw]
    return mini.end_by_submit(_read_steps(own, ours=False))


def _as_mini_meant(raw: dict[str, Any], read: Style) -> dict[str, Any]:
    """A step with clean answers and its command as a call. Harbor drops refused replies, so their complaints go too."""
    answers = [Message("tool", plain_text(result.get("content"))) for result in _results(raw)]
    results = [
        result | {"content": mini.clean(answer.text)}
        for result, answer in zip(_results(raw), answers, strict=True)
        if not answer.complains
    ]
    step = raw | {"observation": {"results": results}}
    reply = read(Turn(Message("assistant", _text(raw)), ()))
    if raw.get("tool_calls") or not reply.calls:
        return step
    calls = [{"function_name": call.name, "arguments": call.arguments} for call in reply.calls]
    reasoning = "" if _repeats(raw) else raw.get("reasoning_content")
    extra = {"rejected": reply.rejected} | _dict(raw.get("extra"))
    return step | {"message": reply.thought, "reasoning_content": reasoning, "tool_calls": calls, "extra": extra}


def _read_turn(raw: dict[str, Any], ours: bool) -> Iterator[Step]:
    extra, metrics = _dict(raw.get("extra")), _dict(raw.get("metrics"))
    recorded = {mine: metrics.get(theirs) for mine, theirs in _TOKENS.items()} | {"reward": reward_in(extra)}
    rejected = COPIED if raw.get("is_copied_context") else NO_MODEL if raw.get("llm_call_count") == 0 else ""
    rejected = rejected or plain_text(extra.get("rejected"))
    calls = [call for call in raw.get("tool_calls") or [] if isinstance(call, dict)]
    if not calls:
        same = {"same_turn": bool(extra.get("same_turn")), "rejected": rejected or NO_ACTION}
        yield _step(
            {"thought": _thought(raw), "action": None, "observation": "\n".join(_contents(raw))} | same, recorded
        )
        return
    for i, (call, observation) in enumerate(zip(calls, _answers(raw, calls), strict=True)):
        own = {"thought": _thought(raw), "rejected": rejected, "same_turn": bool(extra.get("same_turn"))}
        if i:
            further = _dict(call.get("extra"))
            own, recorded = {"rejected": "" if ours else rejected, "same_turn": True}, {}
            own |= {key: value for key, value in further.items() if ours and key in Step.model_fields}
        arguments = read_arguments(call.get("arguments"), drop_null=not ours)
        read = Call(plain_text(call.get("function_name")) or "unnamed", arguments)
        made = make_step(read, "", observation, str(own["rejected"]), check_empty=not ours)
        yield _step(own | {"action": made.action, "observation": observation, "rejected": made.rejected}, recorded)


def _step(values: dict[str, Any], recorded: dict[str, Any]) -> Step:
    return Step.model_validate({**values, **{key: value for key, value in recorded.items() if value is not None}})


def _answers(raw: dict[str, Any], calls: list[dict[str, Any]]) -> list[str]:
    """What came back for each call: by id, in order if none has one and each call has a result. What is left belongs to
    the last call."""
    texts: list[list[str]] = [[] for _ in calls]
    results = _results(raw)
    if len(results) >= len(calls) and all(result.get("source_call_id") is None for result in results):
        contents = _contents(raw)
        last = len(calls) - 1
        return [*contents[:last], "\n".join(contents[last:])]
    for result in results:
        named = [i for i, call in enumerate(calls) if call.get("tool_call_id") == result.get("source_call_id")]
        at = next((i for i in named if not texts[i]), named[-1] if named else -1)
        texts[at].append(plain_text(result.get("content")))
    return ["\n".join(text) for text in texts]


def _results(raw: dict[str, Any]) -> list[dict[str, Any]]:
    return [r for r in _dict(raw.get("observation")).get("results") or [] if isinstance(r, dict)]


def _contents(raw: dict[str, Any]) -> list[str]:
    return [plain_text(result.get("content")) for result in _results(raw)]


def _asked(raw: list[dict[str, Any]]) -> list[Message]:
    roles = {"user": "user", "agent": "assistant"}
    return [Message(roles.get(str(step.get("source")), "system"), _text(step)) for step in raw]  # type: ignore[arg-type]


def _thought(raw: dict[str, Any]) -> str:
    reasoning = "" if _repeats(raw) else plain_text(raw.get("reasoning_content"))
    return "\n\n".join(filter(None, [reasoning, _text(raw)]))


def _repeats(raw: dict[str, Any]) -> bool:
    """Harbor's converters write a message a second time as its reasoning."""
    return plain_text(raw.get("reasoning_content")).strip() == _text(raw).strip()


def _text(raw: dict[str, Any]) -> str:
    return plain_text(raw.get("message"))


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
