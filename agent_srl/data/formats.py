"""Trajectory files: read three formats into `Trajectory`, write one.

Read, told apart record by record:
  canonical                one `Trajectory` as pydantic dumps it
  mini-swe-agent v1        `messages`; text with one fenced bash block per turn
  mini-swe-agent v2        `messages` with native tool calls (its text mode reads as v1)

What is decided here:
  - A turn that the harness rejected (v1: not exactly one block) was never run. It becomes a step with
    `rejected` set, whose action holds all its blocks in order and whose observation is the first line of
    the complaint. Without any block there is no action to show, and the turn is dropped. So an earlier block
    inside a thought is never taken for the action.
  - The last command, `echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT ...`, is how those harnesses end: it becomes
    `submit` without arguments, and what it printed, the patch, goes into `Trajectory.patch`.
  - An observation is what the command printed, without the harness's tags. A cut by the harness and the exit
    code of a failed command are marked in one line, the latter as our own tools do.

Left out: SWE-agent, OpenHands and XML formats; clipping, which is the renderer's.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agent_srl.errors import DataError
from env_server.schema import Action, Step, Trajectory

SUBMIT = re.compile(
    r"^\s*echo\s+['\"]?(?:COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT|MINI_SWE_AGENT_FINAL_OUTPUT)", re.MULTILINE
)
BLOCK = re.compile(r"```(?:bash|mswea_bash_command)\s*\n(.*?)\n```", re.DOTALL)
"""As the harness itself counts them."""
TASK_TEXT = re.compile(
    r"<pr_description>\s*(?:Consider the following PR description:)?(.*?)</pr_description>", re.DOTALL
)
RETURN_CODE = re.compile(r"<returncode>(-?\d+)</returncode>")
OUTPUT = re.compile(r"<output>\n?(.*?)\n?</output>\s*(?:\Z|Please try another)", re.DOTALL)
ELIDED = re.compile(
    r"<output_head>\n?(.*?)\n?</output_head>\s*<elided_chars>\s*(\d+).*?</elided_chars>\s*<output_tail>\n?(.*?)\n?</output_tail>",
    re.DOTALL,
)
TIMED_OUT = re.compile(r"\AThe last command .*? timed out", re.DOTALL)
REJECTION = "Please always provide EXACTLY ONE"


@dataclass(frozen=True)
class Rejected:
    """A record that was skipped."""

    file: Path
    line: int
    """From 1; in a `.json` file the position in its list."""
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


def read_trajectories(path: Path) -> tuple[list[Trajectory], list[Rejected]]:
    """Every trajectory of a `.jsonl`, `.jsonl.gz` or `.json` file, and the records that were skipped.

    Raises:
        DataError: the file cannot be read, or holds no valid trajectory.
    """
    text = _read_text(path)
    trajectories: list[Trajectory] = []
    rejected: list[Rejected] = []
    for line, raw in _records(text, path):
        try:
            trajectories.append(_parse(raw))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            rejected.append(Rejected(path, line, _reason(error)))
    if not trajectories:
        first = f"; {rejected[0]}" if rejected else ""
        raise DataError(
            f"{path} holds no valid trajectory ({len(rejected)} rejected{first}); give a file of "
            "`agent-srl trajectories record`, or mini-swe-agent trajectories as JSON lines"
        )
    return trajectories, rejected


def write_trajectories(path: Path, trajectories: Iterable[Trajectory]) -> None:
    """Write canonical JSON lines (gzipped if the name ends in `.gz`), whole or not at all.

    Raises:
        DataError: the file cannot be written.
    """
    data = "".join(trajectory.model_dump_json() + "\n" for trajectory in trajectories).encode()
    if path.suffix == ".gz":
        data = gzip.compress(data, mtime=0)
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = file.name
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise DataError(f"cannot write {path}: {error.strerror or error}; choose another --out") from error


def repo_of(instance_id: str) -> str:
    """`django__django-123` -> `django/django`: SWE-bench's naming."""
    owner, separator, rest = instance_id.partition("__")
    if not separator:
        return instance_id
    return f"{owner}/{re.sub(r'[-.][^-.]*$', '', rest) or rest}"


def _read_text(path: Path) -> str:
    if path.is_dir():
        raise DataError(f"{path} is a folder; name the .jsonl, .jsonl.gz or .json file in it")
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except FileNotFoundError:
        raise DataError(f"no such file: {path}; make one with `agent-srl trajectories record`") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file ({error}); unpack it, or copy it again") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    if not data.strip():
        raise DataError(f"{path} is empty; make one with `agent-srl trajectories record`")
    return data.decode("utf-8", errors="replace")


def _records(text: str, path: Path) -> Iterator[tuple[int, str]]:
    """(position, JSON text) of each record. A `.json` file holds a list or one record."""
    if path.suffix != ".json":
        yield from ((n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip())
        return
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON ({error}); JSON lines need the ending .jsonl") from None
    for n, record in enumerate(value if isinstance(value, list) else [value], start=1):
        yield n, json.dumps(record)


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error}"
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    if isinstance(error, KeyError):
        return f"no key {error}"
    return str(error) or type(error).__name__


def _parse(raw: str) -> Trajectory:
    record = json.loads(raw)
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    if "steps" in record:
        trajectory = Trajectory.model_validate(record)
    elif "messages" in record:
        trajectory = _mini(record)
    else:
        raise ValueError("neither `steps` nor `messages`: not a known trajectory format")
    if not any(step.is_target for step in trajectory.steps):
        raise ValueError("no step to learn from")
    return trajectory


def _mini(record: dict[str, Any]) -> Trajectory:
    """A mini-swe-agent run, of either version."""
    messages: list[dict[str, Any]] = record["messages"]
    info = record.get("info") or {}
    instance_id = record["instance_id"]
    has_calls = any(message.get("tool_calls") for message in messages)
    turns = _tool_call_steps(messages) if has_calls else _text_steps(messages)
    model = record.get("model") or "unknown"
    return Trajectory(
        instance_id=instance_id,
        repo=repo_of(instance_id),
        problem_statement=_problem(messages),
        steps=list(turns),
        source=f"mini-swe-agent-{'v2' if has_calls else 'v1'}/{model.lstrip('@')}",
        resolved=record.get("resolved"),
        patch=record.get("submission") or info.get("submission") or "",
    )


def _problem(messages: list[dict[str, Any]]) -> str:
    """The task's text, without the harness's instructions around it."""
    first = next((message["content"] for message in messages if message["role"] == "user"), None)
    if first is None:
        raise ValueError("no user message, so no task")
    found = TASK_TEXT.search(first)
    return (found[1] if found else first).strip()


def _text_steps(messages: list[dict[str, Any]]) -> Iterator[Step]:
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        text = message["content"] or ""
        answer = messages[index + 1]["content"] if index + 1 < len(messages) else ""
        blocks = BLOCK.findall(text)
        if not blocks:
            continue
        rejected = len(blocks) != 1 or answer.startswith(REJECTION)
        action = Action(name="bash", arguments={"command": "\n".join(blocks)}) if rejected else _action(blocks[0])
        yield Step(
            thought=_thought(text),
            action=action,
            observation=_observation(answer, action),
            rejected="more than one block" if rejected else "",
        )


def _tool_call_steps(messages: list[dict[str, Any]]) -> Iterator[Step]:
    """One step per call; a turn of several calls gives its thought to the first."""
    answers = {m["tool_call_id"]: m["content"] or "" for m in messages if m["role"] == "tool"}
    for message in messages:
        if message["role"] != "assistant":
            continue
        thought = (message["content"] or "").strip()
        for call in message.get("tool_calls") or ():
            function = call["function"]
            arguments = json.loads(function["arguments"] or "{}")
            if function["name"] == "bash":
                action = _action(arguments["command"])
            else:
                action = Action(name=function["name"], arguments=arguments)
            observation = _observation(answers.get(call["id"], ""), action)
            yield Step(thought=thought, action=action, observation=observation)
            thought = ""


def _action(command: str) -> Action:
    if SUBMIT.search(command):
        return Action(name="submit")
    return Action(name="bash", arguments={"command": command})


def _thought(text: str) -> str:
    """The prose before the first block (or, if there is none, after the last), without its label."""
    before, after = BLOCK.split(text)[0], BLOCK.split(text)[-1]
    return re.sub(r"\A\s*THOUGHT:\s*", "", before).strip() or after.strip()


def _observation(answer: str, action: Action) -> str:
    if action.name == "submit":
        return ""
    if answer.startswith(REJECTION):
        return answer.partition("\n")[0]
    elided = ELIDED.search(answer)
    found = OUTPUT.search(answer)
    if elided:
        output = f"{elided[1]}\n[... {elided[2]} characters left out ...]\n{elided[3]}"
    else:
        output = found[1] if found else RETURN_CODE.sub("", answer).strip()
    if TIMED_OUT.match(answer):
        return f"{output}\n(the command was killed: it took too long)".lstrip("\n")
    code = RETURN_CODE.match(answer)
    if not code or code[1] == "0":
        return output
    return f"{output}\n(exit code {code[1]})".lstrip("\n")
