"""How an action is written in a reply, and read back. One format per family of expert data.

- `xml`: SWE-agent's and SWE-smith's function calls (tools bash, str_replace_editor, submit).
- `bash`: one fenced bash block (mini-swe-agent); submitting is a command too.
- `text`: the action is plain text (a step of a math solution).

`read` is exact: anything around the action is a broken format.
"""

from __future__ import annotations

import re
from typing import Protocol

from env_server.schema import Action, Trajectory

SUBMIT_COMMAND = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"


class ActionFormat(Protocol):
    """Writes and reads actions."""

    name: str
    system_prompt: str

    def write(self, action: Action) -> str: ...

    def read(self, text: str) -> Action | None:
        """The action, or None if `text` is not exactly one action."""
        ...


class XmlFormat:
    """`<function=NAME>` with one `<parameter=NAME>` per argument."""

    name = "xml"
    system_prompt = (
        "You fix issues in the repository at /testbed. Each reply is a short thought and exactly one function call:\n"
        "<think>why</think>\n<function=bash>\n<parameter=command>...</parameter>\n</function>\n"
        "Functions: bash(command); str_replace_editor(command=view|create|str_replace|insert, path, file_text, "
        "old_str, new_str, insert_line, view_range); submit()."
    )
    _call = re.compile(r"<function=([\w.-]+)>\n(.*?)</function>", re.DOTALL)
    _parameter = re.compile(r"<parameter=([\w.-]+)>(.*?)</parameter>\n", re.DOTALL)

    def write(self, action: Action) -> str:
        parameters = "".join(f"<parameter={k}>{v}</parameter>\n" for k, v in action.arguments.items())
        return f"<function={action.name}>\n{parameters}</function>"

    def read(self, text: str) -> Action | None:
        call = self._call.fullmatch(text)
        if call is None:
            return None
        arguments, end = {}, 0
        for match in self._parameter.finditer(call[2]):
            if match.start() != end or match[1] in arguments:
                return None
            arguments[match[1]] = match[2]
            end = match.end()
        return Action(name=call[1], arguments=arguments) if end == len(call[2]) else None


class BashFormat:
    """One fenced bash block."""

    name = "bash"
    system_prompt = (
        "You fix issues in the repository at /testbed. Each reply is a short thought and exactly one command:\n"
        "<think>why</think>\n```bash\ncommand\n```\n"
        f"When the issue is fixed, run: {SUBMIT_COMMAND}"
    )
    _block = re.compile(r"```bash\n(.+?)\n```", re.DOTALL)

    def write(self, action: Action) -> str:
        command = SUBMIT_COMMAND if action.name == "submit" else action.arguments["command"]
        return f"```bash\n{command}\n```"

    def read(self, text: str) -> Action | None:
        block = self._block.fullmatch(text)
        if block is None or "```" in block[1] or not block[1].strip():
            return None
        if block[1].startswith(SUBMIT_COMMAND):
            return Action(name="submit")
        return Action(name="bash", arguments={"command": block[1]})


class TextFormat:
    """The action is the text itself: the next step of a solution."""

    name = "text"
    system_prompt = (
        "You solve a math problem one step at a time. Each reply is a short thought and exactly the next step:\n"
        "<think>why</think>\nthe next step\nPut the final answer in \\boxed{}."
    )

    def write(self, action: Action) -> str:
        return str(action.arguments["text"])

    def read(self, text: str) -> Action | None:
        step = text.strip()
        return Action(name="step", arguments={"text": step}) if step and "<think>" not in step else None


FORMATS: dict[str, ActionFormat] = {f.name: f for f in (XmlFormat(), BashFormat(), TextFormat())}


def choose_format(name: str, trajectories: list[Trajectory]) -> ActionFormat:
    """The named format, or with `auto` the simplest that can write every action."""
    if name != "auto":
        return FORMATS[name]
    tools = {step.action.name for t in trajectories for step in t.steps if step.action is not None}
    if tools <= {"step"}:
        return FORMATS["text"]
    return FORMATS["bash" if tools <= {"bash", "submit"} else "xml"]
