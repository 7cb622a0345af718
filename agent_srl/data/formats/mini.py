"""mini-swe-agent, in all its modes: v1 (text, one fenced bash block), v2 (tool calls) and v2's two text modes.

What is decided here:
  - Its last command, `echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT ...`, is how it ends: it becomes `submit` without
    arguments, and what it printed, the patch, goes into `Trajectory.patch`.
  - An observation is what the command printed, without the harness's tags or JSON. A cut by the harness and the
    exit code of a failed command are marked in one line, the latter as our own tools do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from agent_srl.data.formats.messages import Message
from env_server.schema import Action, Step

NAMES = ("mini-swe-agent-v1", "mini-swe-agent-v2-text", "mini-swe-agent-v2-xml", "mini-swe-agent-v2")

_SUBMIT = re.compile(
    r"^\s*echo\s+['\"]?(?:COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT|MINI_SWE_AGENT_FINAL_OUTPUT)", re.MULTILINE
)
_RETURN_CODE = re.compile(r"<returncode>(-?\d+)</returncode>")
_OUTPUT = re.compile(r"<output>\n?(.*?)\n?</output>\s*(?:\Z|Please try another)", re.DOTALL)
_ELIDED = re.compile(
    r"<output_head>\n?(.*?)\n?</output_head>\s*<elided_chars>\s*(\d+).*?</elided_chars>\s*<output_tail>\n?(.*?)\n?</output_tail>",
    re.DOTALL,
)
_TIMED_OUT = re.compile(r"\AThe last command .*? timed out", re.DOTALL)


def wrote(messages: Iterable[Message]) -> bool:
    """Some answer is in mini-swe-agent's tags or JSON."""
    answers = [message.text for message in messages if message.role in ("tool", "user")]
    return any(_RETURN_CODE.match(answer) or _from_json(answer) for answer in answers)


def end_by_submit(steps: Iterable[Step]) -> list[Step]:
    """The steps with the final command as `submit`."""
    return [_submit(step) if _submits(step) else step for step in steps]


def clean(answer: str) -> str:
    """What the command printed; of a complaint its first line."""
    if Message("user", answer).complains:
        return answer.partition("\n")[0]
    if fields := _from_json(answer):
        return _clean_json(fields)
    elided = _ELIDED.search(answer)
    found = _OUTPUT.search(answer)
    if elided:
        output = _cut(elided[1], elided[2], elided[3])
    elif found:
        output = found[1]
    else:
        output = _RETURN_CODE.sub("", answer).strip() if _RETURN_CODE.match(answer) else answer
    if _TIMED_OUT.match(answer):
        return f"{output}\n(the command was killed: it took too long)".lstrip("\n")
    code = _RETURN_CODE.match(answer)
    return _with_code(output, code[1] if code else "0")


def _from_json(answer: str) -> dict[str, Any]:
    """The observation that mini.yaml writes as JSON; empty where it is none."""
    if not answer.startswith("{"):
        return {}
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):
        return {}
    return found if "returncode" in found and found.keys() & {"output", "output_head"} else {}


def _clean_json(found: dict[str, Any]) -> str:
    output = str(found.get("output", "")).removesuffix("\n")
    if "output_head" in found:
        tail = str(found.get("output_tail", "")).removesuffix("\n")
        output = _cut(str(found["output_head"]).removesuffix("\n"), found.get("elided_chars", "some"), tail)
    if found.get("exception_info"):
        output = f"{output}\n{found['exception_info']}".lstrip("\n")
    return _with_code(output, str(found["returncode"]))


def _cut(head: str, count: object, tail: str) -> str:
    return f"{head}\n[... {count} characters left out ...]\n{tail}"


def _with_code(output: str, code: str) -> str:
    return output if code == "0" else f"{output}\n(exit code {code})".lstrip("\n")


def _submits(step: Step) -> bool:
    action = step.action
    return (
        action is not None
        and step.is_target
        and action.name == "bash"
        and bool(_SUBMIT.search(str(action.arguments.get("command", ""))))
    )


def _submit(step: Step) -> Step:
    return step.model_copy(update={"action": Action(name="submit"), "observation": ""})
