"""Runs of mini-swe-agent, made up."""

import json
from pathlib import Path

from agent_srl.data.formats import read_trajectories
from env_server.schema import Trajectory

TASK = "<pr_description>\nConsider the following PR description:\nIt breaks.\n</pr_description>\n<instructions>"
SUBMIT = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && git add -A && git diff --cached"


def block(thought: str, *commands: str) -> str:
    return thought + "".join(f"\n\n```bash\n{command}\n```" for command in commands)


def output(text: str, code: int = 0) -> str:
    return f"<returncode>{code}</returncode>\n<output>\n{text}\n</output>"


def text_record(*turns: tuple[str, str], **more: object) -> dict[str, object]:
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": TASK}]
    for said, answer in turns:
        messages += [{"role": "assistant", "content": said}, {"role": "user", "content": answer}]
    return {"instance_id": "django__django-11099", "resolved": True, "messages": messages} | more


def call_record(calls: list[tuple[str, dict[str, object]]], content: str = "why") -> dict[str, object]:
    tool_calls = [
        {"id": f"c{i}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for i, (name, arguments) in enumerate(calls)
    ]
    messages: list[dict[str, object]] = [
        {"role": "user", "content": TASK},
        {"role": "assistant", "content": content, "tool_calls": tool_calls},
    ]
    for i in range(len(calls)):
        messages.append({"role": "tool", "tool_call_id": f"c{i}", "content": output(f"out{i}")})
    return {"instance_id": "psf__requests-1", "messages": messages, "info": {"submission": "diff"}}


def write(path: Path, *records: object) -> Path:
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("\n".join(lines) + "\n")
    return path


def read_one(tmp_path: Path, record: object) -> Trajectory:
    trajectories, rejected = read_trajectories(write(tmp_path / "t.jsonl", record))
    assert not rejected
    return trajectories[0]
