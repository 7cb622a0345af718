"""Risks: weights that a file lacks made up in silence, ids without a row, contexts longer than the model holds."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2Config

from agent_srl.errors import ModelError
from agent_srl.models import check_context, context_tokens, load_model, load_tokenizer
from agent_srl.types import StepExample
from env_server.schema import Action

CPU = torch.device("cpu")


@pytest.fixture
def folder(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "model")


def rewrite(folder, change) -> None:
    """Save what `change` makes of the tensors, as they stood."""
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def configure(folder, **values) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_a_tied_head_is_nothing_missing(folder):
    rewrite(folder, lambda tensors: {k: t for k, t in tensors.items() if k != "lm_head.weight"})
    model = load_model(str(folder), torch.float32, CPU)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_missing_weights_are_refused_and_not_made_up(folder):
    rewrite(folder, lambda tensors: {k: t for k, t in tensors.items() if "layers.1." not in k})
    with pytest.raises(ModelError, match=r"the weights of .*model lack 9 tensors, model\.layers\.1\."):
        load_model(str(folder), torch.float32, CPU)


def test_a_head_of_its_own_that_is_missing_is_refused(folder):
    configure(folder, tie_word_embeddings=False)
    rewrite(folder, lambda tensors: {k: t for k, t in tensors.items() if k != "lm_head.weight"})
    with pytest.raises(ModelError, match=r"lack 1 tensors, lm_head\.weight"):
        load_model(str(folder), torch.float32, CPU)


def test_weights_without_a_place_are_refused(folder):
    configure(folder, num_hidden_layers=1)
    with pytest.raises(ModelError, match=r"no place for, 9 tensors, model\.layers\.1\."):
        load_model(str(folder), torch.float32, CPU)


def test_token_ids_beyond_the_vocabulary_are_refused_with_both_numbers(folder):
    known = json.loads((folder / "config.json").read_text())["vocab_size"]
    load_tokenizer(str(folder))
    configure(folder, vocab_size=known - 5)
    with pytest.raises(ModelError, match=rf"ids up to {known - 1}, its model knows {known - 5}"):
        load_tokenizer(str(folder))


def step(prompt: int, target: int) -> StepExample:
    return StepExample("a#7", "r", "a", 7, (1,) * prompt, Action(name="bash"), (2,) * target, (-100,) * prompt, None)


def test_contexts_longer_than_the_model_holds_are_refused_with_the_keys_to_set(folder):
    check_context(str(folder), [], 100)
    check_context(str(folder), [step(3996, 5)], 100)
    for prompt, target, new in ((3997, 5, 100), (4000, 97, 5)):
        with pytest.raises(ModelError, match=r"holds 4096 tokens, and the step a#7 needs 4097") as raised:
            check_context(str(folder), [step(10, 5), step(prompt, target)], new)
        assert all(key in str(raised.value) for key in ("data.max_prompt_tokens=", "train.max_new_tokens"))


def test_a_stretched_context_counts_once():
    assert context_tokens(Qwen2Config(max_position_embeddings=512)) == 512
    for limit in (512, 2048):  # both are published
        rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512, "rope_theta": 1e4}
        assert context_tokens(Qwen2Config(max_position_embeddings=limit, rope_parameters=rope)) == 2048
