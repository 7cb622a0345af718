"""Risks: a resumed run that draws other numbers, a killed write that is taken for a checkpoint."""

from __future__ import annotations

import random
import shutil

import pytest
import torch

from agent_srl.config import Config
from agent_srl.errors import DataError, ModelError, TrainingError
from agent_srl.models import load_model, load_tokenizer
from agent_srl.policy import load_policy
from agent_srl.train.checkpoint import load_checkpoint, random_states, save_checkpoint, save_model, set_random_states
from agent_srl.train.metrics import JsonLines


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


def test_a_line_cut_off_by_a_kill_is_dropped_and_a_broken_one_is_named(tmp_path):
    file = tmp_path / "metrics.jsonl"
    JsonLines(file, keep_until_step=0).write({"step": 1}, {"step": 2})
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"step": 3, "rew')
    JsonLines(file, keep_until_step=9)
    assert file.read_bytes() == whole
    for broken in (b'{"step": 3,\n', b"\xff\x00\n", b"{}\n", b"[1]\n"):
        file.write_bytes(whole + broken + b'{"step": 4}\n')
        with pytest.raises(DataError, match=r"metrics\.jsonl:3 is no record: delete this line"):
            JsonLines(file, keep_until_step=9)
        assert file.read_bytes().startswith(whole + broken)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_file_of_a_model_is_one_error(tiny_model, tmp_path, name):
    damaged = shutil.copytree(tiny_model, tmp_path / "damaged")
    (damaged / name).write_bytes((damaged / name).read_bytes()[:200])
    with pytest.raises(ModelError, match=f"cannot load the model {damaged}"):
        load_tokenizer(str(damaged))
        load_model(str(damaged), torch.float32, torch.device("cpu"))


@pytest.mark.parametrize("text", ["data: [", "", "data: {magic: 1}", "data: {}\naction_format: magic"])
def test_a_damaged_description_of_the_prompts_of_a_model_is_named(tiny_model, tmp_path, text):
    damaged = shutil.copytree(tiny_model, tmp_path / "damaged")
    (damaged / "agent_srl.yaml").write_text(text)
    with pytest.raises(ModelError, match=r"agent_srl\.yaml is broken"):
        load_policy(str(damaged), Config())


def test_a_model_published_with_odd_sampling_values_can_be_saved(tiny_model, tokenizer, tmp_path):
    odd = shutil.copytree(tiny_model, tmp_path / "odd")
    (odd / "generation_config.json").write_text('{"do_sample": false, "temperature": 0.6, "top_p": 0.9}')
    save_model(load_model(str(odd), torch.float32, torch.device("cpu")), tokenizer, tmp_path / "saved", {})
    assert (tmp_path / "saved" / "config.json").is_file()
