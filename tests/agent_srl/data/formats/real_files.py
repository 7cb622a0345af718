"""Real trajectories, where this machine has them."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from agent_srl.data.formats import Record, read_records

SHARED = Path(__file__).resolve().parents[5] / "shared" / "data" / "trajectories"
needs_real_files = pytest.mark.skipif(not SHARED.is_dir(), reason="the real trajectories are not on this machine")
FILES = {
    "mini_swe_agent_v1_text.jsonl.gz": "mini-swe-agent-v1",
    "mini_swe_agent_v2_tool_calls.jsonl.gz": "mini-swe-agent-v2",
    "nebius_swe_agent.json": "nebius-swe-agent",
    "openhands_events.jsonl": "openhands-events",
    "swe_agent_traj": "swe-agent",
    "swe_gym_openhands.json": "chat",
    "swe_smith_xml.json": "swe-smith-xml",
}


def load(name: str) -> list[dict[str, Any]]:
    """The records of a file or folder by the standard library alone."""
    path = SHARED / name
    if path.is_dir():
        return [json.loads(file.read_text()) for file in sorted(path.glob("*.traj"))]
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    if path.name.endswith(".json"):
        return list(json.loads(text))
    return [json.loads(line) for line in text.split("\n") if line.strip()]


@cache
def read(name: str) -> list[Record]:
    """The same by our readers; every record must be read."""
    records = list(read_records(SHARED / name, strict=True))
    assert all(isinstance(record, Record) for record in records)
    return [record for record in records if isinstance(record, Record)]
