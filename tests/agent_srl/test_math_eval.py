"""Risks: a reference answer that its own judge refuses, an empty answer that it accepts."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(("flag", "said"), [("--gold", "solved 5 of 5"), ("--empty", "solved 0 of 5")])
def test_gold_answers_are_right_and_empty_ones_are_not(flag, said, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "agent_srl",
            "eval",
            "--task",
            "math",
            flag,
            "--limit",
            "5",
            "--out",
            str(tmp_path / "o"),
        ],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
