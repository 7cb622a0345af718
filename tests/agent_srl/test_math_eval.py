"""Risks: a reference answer that its own judge refuses, an empty answer that it accepts."""

from __future__ import annotations

import subprocess
import sys


def test_gold_answers_are_right_and_empty_ones_are_not_in_one_folder(tmp_path):
    for flag, said in (("--gold", "solved 5 of 5"), ("--empty", "solved 0 of 5"), ("--gold", "solved 5 of 5")):
        flags = ["--task", "math", flag, "--limit", "5", "--out", str(tmp_path / "o")]
        done = subprocess.run(
            [sys.executable, "-m", "agent_srl", "eval", *flags], capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
