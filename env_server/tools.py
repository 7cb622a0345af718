"""The tools of a software-engineering session: SWE-agent's `bash`, `str_replace_editor` and `submit`.

A call with wrong arguments, like a command that fails, is an observation. Only a dead sandbox is an error.
Left out: steps, leases and the end of a session (`env_server.sessions`), clipping for a model's context.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError

from env_server.editor import Editor, EditorRefusal
from env_server.schema import Action, Observation
from sandboxes.base import ExecResult, Outcome, Sandbox

NO_OUTPUT = "Your command ran successfully and did not produce any output."
MAX_COMMAND_BYTES = 100_000
"""Linux takes no single argument above 128 KiB."""
NEEDS_TERMINAL = frozenset({"vi", "vim", "view", "vimdiff", "nvim", "nano", "pico", "emacs"})
"""Editors that would wait for a key until the time limit of the command."""

TOOL_SCHEMAS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "bash",
            "description": "Run a command in a new bash shell, in the folder of the repository. Changed "
            "files stay; the working folder and variables do not. There is no network.",
            "parameters": {
                "type": "object",
                "properties": {"command": {"type": "string", "description": "The bash command."}},
                "required": ["command"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "str_replace_editor",
            "description": "View, create and edit text files. `view` shows a file with line numbers, or a "
            "folder two levels deep. `create` makes a new file and refuses to overwrite. `str_replace` "
            "replaces `old_str`, which must match exactly and only once. `insert` adds lines after "
            "`insert_line`. `undo_edit` takes back the last edit of the file.",
            "parameters": {
                "type": "object",
                "properties": {
                    "command": {
                        "type": "string",
                        "enum": ["view", "create", "str_replace", "insert", "undo_edit"],
                        "description": "What to do.",
                    },
                    "path": {"type": "string", "description": "Absolute path of a file or folder."},
                    "file_text": {"type": "string", "description": "For `create`: the content of the file."},
                    "old_str": {"type": "string", "description": "For `str_replace`: the text to replace."},
                    "new_str": {
                        "type": "string",
                        "description": "For `str_replace`: the new text (none: delete). For `insert`: lines.",
                    },
                    "insert_line": {
                        "type": "integer",
                        "description": "For `insert`: the line after which to add; 0 is the top of the file.",
                    },
                    "view_range": {
                        "type": "array",
                        "items": {"type": "integer"},
                        "description": "For `view` of a file: first and last line, from 1; -1 is the end.",
                    },
                },
                "required": ["command", "path"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "submit",
            "description": "Hand in the changes made to the repository and end the session.",
            "parameters": {"type": "object", "properties": {}, "required": []},
        },
    },
]


def _plain(text: str) -> str:
    """Refuse what can be neither an argument of a process nor a UTF-8 file."""
    if "\0" in text:
        raise ValueError("must not hold a NUL character")
    text.encode()  # UnicodeEncodeError, a ValueError, on a lone surrogate
    return text


def _parsed(value: Any) -> Any:
    """Some call formats carry every argument as text."""
    return json.loads(value) if isinstance(value, str) else value


Text = Annotated[str, AfterValidator(_plain)]


class BashArguments(BaseModel):
    """Arguments of `bash`."""

    model_config = ConfigDict(extra="forbid")
    command: Text


class EditorArguments(BaseModel):
    """Arguments of `str_replace_editor`."""

    model_config = ConfigDict(extra="forbid")
    command: Literal["view", "create", "str_replace", "insert", "undo_edit"]
    path: Text
    file_text: Text | None = None
    old_str: Text | None = None
    new_str: Text | None = None
    insert_line: int | None = None
    view_range: Annotated[tuple[int, int] | None, BeforeValidator(_parsed)] = None


class SubmitArguments(BaseModel):
    """`submit` takes none."""

    model_config = ConfigDict(extra="forbid")


async def run_tool(action: Action, sandbox: Sandbox, editor: Editor, *, timeout_s: float) -> Observation:
    """Carry out one action.

    Args:
        action: a call of one of `TOOL_SCHEMAS`.
        sandbox: where to.
        editor: the edits made so far in this session.
        timeout_s: of a command, in seconds.

    Returns:
        What the model sees. `outcome` is `bad_action` for an unknown tool or wrong arguments; `done` after
        `submit`.

    Raises:
        SandboxError: the sandbox died. Nothing is known of the action.
    """
    try:
        match action.name:
            case "bash":
                command = BashArguments.model_validate(action.arguments).command
                return await _bash(command, sandbox, timeout_s)
            case "str_replace_editor":
                return await _edit(EditorArguments.model_validate(action.arguments), sandbox, editor, timeout_s)
            case "submit":
                SubmitArguments.model_validate(action.arguments)
                return Observation(output="Submitted.", done=True)
    except ValidationError as error:
        return bad_action(f"Wrong arguments for `{action.name}`: {describe(error)}.")
    names = ", ".join(f"`{tool['function']['name']}`" for tool in TOOL_SCHEMAS)
    return bad_action(f"There is no tool `{action.name[:100]}`. The tools are {names}.")


def bad_action(text: str) -> Observation:
    """The answer to a call that cannot be carried out."""
    return Observation(output=text.encode(errors="replace").decode(), outcome="bad_action")


def describe(error: ValidationError) -> str:
    """One line: each wrong argument, and what is wrong with it."""
    problems = {f"`{'.'.join(map(str, e['loc'][:1])) or 'arguments'}`: {e['msg']}" for e in error.errors()}
    return "; ".join(sorted(problems))


async def _bash(command: str, sandbox: Sandbox, timeout_s: float) -> Observation:
    if len(command.encode()) > MAX_COMMAND_BYTES:
        return bad_action(
            f"The command is longer than {MAX_COMMAND_BYTES} bytes. Write long text with `str_replace_editor create`."
        )
    program = (command.split(maxsplit=1) or [""])[0]
    if program in NEEDS_TERMINAL:
        return bad_action(f"`{program}` needs a terminal, and there is none. View and edit with `str_replace_editor`.")
    result = await sandbox.exec(command, timeout_s=timeout_s)
    return Observation(
        output=_report(result, timeout_s),
        exit_code=result.exit_code,
        outcome=str(result.outcome),
        truncated=result.dropped_bytes > 0,
    )


def _report(result: ExecResult, timeout_s: float) -> str:
    notes = []
    if result.outcome == Outcome.TIMEOUT:
        notes.append(f"(the command was killed: it took more than {timeout_s:g} seconds)")
    elif result.outcome == Outcome.OOM:
        notes.append("(the command was killed: it took too much memory)")
    elif result.exit_code:
        notes.append(f"(exit code {result.exit_code})")
    elif not result.output:
        return NO_OUTPUT
    if result.dropped_bytes:
        notes.append(f"(the output was too long: {result.dropped_bytes} bytes were dropped from its middle)")
    if not notes:
        return result.output
    separator = "" if not result.output or result.output.endswith("\n") else "\n"
    return result.output + separator + "\n".join(notes)


async def _edit(arguments: EditorArguments, sandbox: Sandbox, editor: Editor, timeout_s: float) -> Observation:
    given = arguments.model_dump(exclude={"command", "path"}, exclude_none=True)
    needs = {"create": ["file_text"], "str_replace": ["old_str"], "insert": ["insert_line", "new_str"]}
    for name in needs.get(arguments.command, []):
        if name not in given:
            return bad_action(f"Parameter `{name}` is required for command: {arguments.command}.")
    try:
        output, clipped = await editor.run(sandbox, arguments.command, arguments.path, given, timeout_s=timeout_s)
    except EditorRefusal as refusal:
        return Observation(output=str(refusal), exit_code=1, outcome=str(Outcome.NONZERO))
    return Observation(output=output, exit_code=0, truncated=clipped)
