"""Risks: a resumed run that draws other numbers, a killed write that is taken for a checkpoint."""

from __future__ import annotations

import random
import shutil

import pytest
import torch

from agent_srl.errors import TrainingError
from agent_srl.models import load_model
from agent_srl.train.checkpoint import load_checkpoint, random_states, save_checkpoint, save_model, set_random_states


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


def test_a_checkpoint_that_is_not_whole_is_named(tmp_path):
    save_checkpoint(tmp_path, 3, {"masters": [torch.zeros(1000)]})
    [file] = tmp_path.glob("*.pt")
    for broken in (file.read_bytes()[:1500], b"", b"no checkpoint"):
        file.write_bytes(broken)
        with pytest.raises(TrainingError, match=r"step-000003\.pt is no whole checkpoint"):
            load_checkpoint(tmp_path)


def test_a_model_published_with_odd_sampling_values_can_be_saved(tiny_model, tokenizer, tmp_path):
    odd = shutil.copytree(tiny_model, tmp_path / "odd")
    (odd / "generation_config.json").write_text('{"do_sample": false, "temperature": 0.6, "top_p": 0.9}')
    save_model(load_model(str(odd), torch.float32, torch.device("cpu")), tokenizer, tmp_path / "saved", {})
    assert (tmp_path / "saved" / "config.json").is_file()
