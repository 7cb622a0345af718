"""Risks: a resumed run that draws other numbers, a killed write that is taken for a checkpoint."""

from __future__ import annotations

import random

import torch

from agent_srl.train.checkpoint import load_checkpoint, random_states, save_checkpoint, set_random_states


def draw() -> tuple[float, list[float]]:
    return random.random(), torch.rand(3).tolist()


def test_a_checkpoint_brings_the_generators_back(tmp_path):
    save_checkpoint(tmp_path, 3, {"random": [random_states()]})
    expected = draw()
    draw()
    saved = load_checkpoint(tmp_path)
    assert saved is not None
    set_random_states(saved["random"][0])
    assert draw() == expected


def test_only_whole_checkpoints_count_and_the_newest_stays(tmp_path):
    for step in (2, 4):
        save_checkpoint(tmp_path, step, {"step": step})
    (tmp_path / "step-000006.tmp").write_bytes(b"half")
    saved = load_checkpoint(tmp_path)
    assert saved == {"step": 4}
    assert [p.name for p in tmp_path.iterdir()] == ["step-000004.pt"]
