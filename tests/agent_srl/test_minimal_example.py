"""Risk: the loop that people read no longer runs, or no longer learns from what it samples."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from agent_srl.data.formats import write_trajectories

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "minimal_srl.py"


def test_the_minimal_loop_runs_on_a_file_and_takes_steps(tiny_model, trajectories, tmp_path):
    from env_server.schema import Action, Step

    steps = [Step(thought="Look.", action=Action(name="bash", arguments={"command": c})) for c in ("ls", "cat a.py")]
    write_trajectories(tmp_path / "runs.jsonl", [trajectories[0].model_copy(update={"steps": steps})])
    sizes = ["--warmup", "60", "--lr", "0.01", "--steps", "6", "--max-new-tokens", "48"]
    files = [
        "--model",
        str(tiny_model),
        "--trajectories",
        str(tmp_path / "runs.jsonl"),
        "--out",
        str(tmp_path / "model"),
    ]
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), *sizes, *files],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=EXAMPLE.parents[1],
        env={**os.environ, "PYTHONPATH": str(EXAMPLE.parents[1])},
    )
    assert done.returncode == 0, done.stderr
    assert "2 steps of 1 trajectories" in done.stdout
    assert re.search(r"^step \d: reward [+-]\d\.\d+, best [+-]\d\.\d+, gradient norm \d", done.stdout, re.MULTILINE)
    assert (tmp_path / "model" / "model.safetensors").is_file()
