"""What a record says about itself: which instance, which repository, what the task was, how it ended."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent_srl.data.formats.messages import Message, plain_text

_TASKS = (
    re.compile(
        r"<pr_description>\s*(?:Consider the following PR description:)?(?P<task>.*?)</pr_description>", re.DOTALL
    ),
    re.compile(r"<(issue_description|github_issue|problem_statement)>(?P<task>.*?)</\1>", re.DOTALL),
    re.compile(
        r"^-+ NEW TASK DESCRIPTION -+$(?P<task>.*?)^-+ END OF NEW TASK DESCRIPTION -+$", re.DOTALL | re.MULTILINE
    ),
    re.compile(r"\APlease solve this issue: (?P<task>.*?)\n\nYou can execute bash commands and edit files", re.DOTALL),
    re.compile(r"^ISSUE:[ \t]*\n(?P<task>.*?)\n\s*INSTRUCTIONS:", re.DOTALL | re.MULTILINE),
)
"""The task inside the harness's instructions: mini-swe-agent on SWE-bench, SWE-agent 1.x, OpenHands, mini-swe-agent
by default, SWE-agent 0.x."""
_INSTANCE_AT_END = re.compile(r"(?:\A|_)([A-Za-z0-9.-]+__[A-Za-z0-9.-]+-\d+)\Z")
_SUFFIXES = (".gz", ".json", ".jsonl", ".ndjson", ".traj", ".parquet", ".atif", ".trajectory")


@dataclass(frozen=True)
class Origin:
    """Where a record was found."""

    file: Path | str
    """A file, or the id of a data set on the hub."""
    line: int
    """From 1; in a `.json` file the position in its list, in a table the row."""
    alone: bool = False
    """The only record of its file, so that the file's name names it."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def instance_id(self) -> str:
        """For a record that names none."""
        stem = Path(self.file).name
        while (suffix := Path(stem).suffix) in _SUFFIXES and stem != suffix:
            stem = stem.removesuffix(suffix)
        found = _INSTANCE_AT_END.search(stem)
        name = found[1] if found else stem
        return name if self.alone else f"{name}#{self.line}"


def instance_of(record: dict[str, Any], origin: Origin) -> str:
    """The instance's id: the record's own, that of what it was made from, or the file's name."""
    for place in (record, record.get("extra"), record.get("info"), record.get("instance")):
        value = place.get("instance_id") if isinstance(place, dict) else None
        if isinstance(value, str | int) and str(value):
            return str(value)
    value = record.get("environment")  # SWE-agent 1.x
    if isinstance(value, str) and "__" in value:
        return value
    return str(record["id"]) if isinstance(record.get("id"), str) and record["id"] else origin.instance_id


def repo_of(instance_id: str) -> str:
    """`django__django-123` -> `django/django`: SWE-bench's naming, and SWE-smith's (`owner__name.commit.bug`)."""
    owner, separator, rest = instance_id.partition("__")
    if not separator:
        return instance_id
    smith = re.match(r"(.+?)\.[0-9a-f]{6,}\b", rest)
    return f"{owner}/{smith[1] if smith else re.sub(r'[-.][^-.]*$', '', rest) or rest}"


def repo_in(record: dict[str, Any], instance_id: str) -> str:
    """The repository that the record names, else the one in the instance's id."""
    instance = record.get("instance")
    for place in (record, instance if isinstance(instance, dict) else {}):
        if isinstance(place.get("repo"), str) and place["repo"]:
            return str(place["repo"])
    return repo_of(instance_id)


def problem_in(record: dict[str, Any], messages: list[Message]) -> str:
    """The task's text without the harness's instructions. Raises ValueError where there is none."""
    instance = record.get("instance")
    for place in (record, instance if isinstance(instance, dict) else {}):
        if isinstance(place.get("problem_statement"), str) and place["problem_statement"].strip():
            return str(place["problem_statement"])
    first = next((i for i, m in enumerate(messages) if m.role == "assistant"), len(messages))
    said = [(i, m.text) for i, m in enumerate(messages) if m.role == "user" and m.text.strip() and not m.complains]
    asked = [text for i, text in said if i < first] or [text for _, text in said[:1]]
    told = [m.text for m in messages if m.role == "system"]
    task = next((task for text in asked or told if (task := _task_in(text))), asked[-1].strip() if asked else "")
    if not task:
        raise ValueError("no user message, so no task")
    return task


def _task_in(text: str) -> str:
    return next((found["task"].strip() for pattern in _TASKS if (found := pattern.search(text))), "")


def resolved_in(record: dict[str, Any]) -> bool | None:
    """The verdict, if the record holds one; `target` is nebius' word, the report OpenHands'."""
    result = record.get("test_result")
    report = result.get("report") if isinstance(result, dict) else None
    for place, key in ((record, "resolved"), (record, "target"), (report, "resolved")):
        value = place.get(key) if isinstance(place, dict) else None
        if isinstance(value, bool | int | float):
            return bool(value)
    return None


def patch_in(record: dict[str, Any]) -> str:
    """What the run handed in."""
    for place in (record, record.get("info"), record.get("test_result")):
        if isinstance(place, dict):
            for key in ("submission", "model_patch", "generated_patch", "git_patch", "patch"):
                if isinstance(place.get(key), str) and place[key]:
                    return str(place[key])
    return ""


def model_in(record: dict[str, Any]) -> str:
    """The model's name, or `unknown`."""
    info, metadata = record.get("info"), record.get("metadata")
    config = info.get("config") if isinstance(info, dict) else None
    used = config.get("model") if isinstance(config, dict) else None
    setting = metadata.get("llm_config") if isinstance(metadata, dict) else None
    named = (
        record.get("model"),
        record.get("model_name"),
        used.get("model_name") if isinstance(used, dict) else None,
        setting.get("model") if isinstance(setting, dict) else None,
    )
    return next((plain_text(name).lstrip("@") for name in named if isinstance(name, str) and name), "unknown")


def read_tools(raw: Any) -> list[dict[str, Any]]:
    """OpenAI function schemas from a list of them, from Anthropic's or the Responses API's form, or from JSON text."""
    if isinstance(raw, str):
        raw = json.loads(raw or "[]")
    found = (_tool(tool) for tool in (raw if isinstance(raw, list) else []) if isinstance(tool, dict))
    return [tool for tool in found if isinstance(tool["function"].get("name"), str)]


def _tool(raw: dict[str, Any]) -> dict[str, Any]:
    if isinstance(raw.get("function"), dict):
        return raw
    parameters = raw.get("parameters", raw.get("input_schema"))
    named = {key: raw[key] for key in ("name", "description") if key in raw}
    return {"type": "function", "function": named | ({"parameters": parameters} if parameters else {})}


def reward_in(record: dict[str, Any]) -> float | None:
    """A reward that the record carries, if it is a number."""
    value = record.get("reward")
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
