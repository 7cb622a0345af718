"""SWE-agent's `.traj` files, 0.7 and 1.x, in every tool style.

`trajectory` holds the turns as SWE-agent itself cut them (thought, command, output); `history` holds native calls with
their names and arguments. Both are used where both are there; one alone is enough. Text styles (fenced, `<command>`,
windowed) are commands of SWE-agent's shell, so their action is `bash`. Demonstrations are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from agent_srl.data.formats.identity import Origin, instance_of, model_in, patch_in, problem_in, repo_in, resolved_in
from agent_srl.data.formats.messages import Call, Message, plain_text, read_messages, turns
from agent_srl.data.formats.steps import make_step, read_steps, strip_tag
from agent_srl.data.formats.styles import ERROR_TURN, STYLES, choose_style, shell_call
from env_server.schema import NO_ACTION, Step, Trajectory

NAME = "swe-agent"


def is_traj(record: dict[str, Any]) -> bool:
    """Has the turns or the history of a `.traj` file."""
    turns_, history = record.get("trajectory"), record.get("history")
    first = _first(turns_)
    if "role" not in first and first.keys() & {"action", "response", "thought"}:
        return True
    return "role" in _first(history)


def read_traj(record: dict[str, Any], origin: Origin) -> Trajectory:
    """A trajectory from a `.traj` record. Raises ValueError where neither turns nor history are found."""
    messages = read_messages(record.get("history") or _asked(record))
    taken = [turn for turn in record.get("trajectory") or [] if isinstance(turn, dict)]
    steps = list(_from_turns(taken, messages)) if taken else _from_history(messages)
    instance_id = instance_of(record, origin)
    return Trajectory(
        instance_id=instance_id,
        repo=repo_in(record, instance_id),
        problem_statement=problem_in(_with_problem(record), messages),
        steps=steps,
        source=f"{NAME}/{model_in(record)}",
        resolved=resolved_in(record),
        patch=patch_in(record),
    )


def _from_turns(taken: list[dict[str, Any]], messages: list[Message]) -> Iterator[Step]:
    """The native calls of each turn are those of the next reply in the history that has its text."""
    replies = [message for message in messages if message.role == "assistant" and message.calls]
    at = 0
    for turn in taken:
        command, observation = plain_text(turn.get("action")).strip(), plain_text(turn.get("observation"))
        said = plain_text(turn.get("thought")).strip()
        response = plain_text(turn.get("response")).strip()
        found = next((i for i in range(at, len(replies)) if replies[i].text in (response, said)), None)
        calls: tuple[Call, ...] = (shell_call(command),) if command else ()
        if found is not None:
            calls, at = replies[found].calls, found + 1
        yield from _turn(calls, said or ("" if calls else response), observation)


def _turn(calls: tuple[Call, ...], thought: str, observation: str) -> Iterator[Step]:
    ended = thought.startswith("Exit due to") or (len(calls) == 1 and _exits(calls[0]))
    if not calls or ended:
        yield Step(thought=thought, action=None, observation=observation, rejected=ERROR_TURN if ended else NO_ACTION)
        return
    for i, call in enumerate(calls):
        yield make_step(call, "" if i else thought, observation if i == len(calls) - 1 else "", same_turn=i > 0)


def _exits(call: Call) -> bool:
    """SWE-agent 0.x ends a failed run by a command such as `exit_cost`."""
    return call.name == "bash" and str((call.arguments or {}).get("command", "")).startswith("exit_")


def _from_history(messages: list[Message]) -> list[Step]:
    style = choose_style(messages)
    return read_steps(turns(messages), STYLES[style], strip_tag)


def _asked(record: dict[str, Any]) -> list[Any]:
    """What the model was sent at the first turn: `query` since 1.1, `messages` before."""
    first = _first(record.get("trajectory"))
    raw = first.get("query", first.get("messages"))
    return raw if isinstance(raw, list) else []


def _with_problem(record: dict[str, Any]) -> dict[str, Any]:
    """The record with the problem that its replay configuration holds, for a file without any message."""
    if record.get("history") or _asked(record):
        return record
    config = record.get("replay_config")
    config = json.loads(config) if isinstance(config, str) else config
    problem = config.get("problem_statement") if isinstance(config, dict) else None
    text = problem.get("text") if isinstance(problem, dict) else problem
    return {**record, "problem_statement": text}


def _first(items: Any) -> dict[str, Any]:
    return items[0] if isinstance(items, list) and items and isinstance(items[0], dict) else {}
