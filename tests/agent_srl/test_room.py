"""Risks: a row larger than memory that ends in a kill without a word, or a row that fits and is refused."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from agent_srl.config import WarmupConfig
from agent_srl.errors import TrainingError
from agent_srl.evaluate.perplexity import perplexity
from agent_srl.rollout.attention import ATTENTION, register_attention
from agent_srl.train.room import bytes_per_token, check_room, free_bytes
from agent_srl.train.sft import fine_tune
from agent_srl.train.tree import Branch, branch_logprobs, pack
from agent_srl.types import StepExample
from env_server.schema import Action

CPU = torch.device("cpu")


def build(layers: int):
    register_attention()
    shape = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=80, num_hidden_layers=layers, attn_implementation=ATTENTION, **shape)
    return LlamaForCausalLM(config).train()


def kept(model, row) -> int:
    """Bytes kept for the backward pass of a large row, counted by torch's own hooks."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}

    def note(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        logprobs, _ = branch_logprobs(model, row, 1.0)
    assert logprobs.requires_grad
    return sum(found.values())


@pytest.mark.parametrize("layers", [2, 6])
def test_what_a_small_tree_costs_tells_what_a_large_one_does(layers):
    model = build(layers)
    trunk = tuple(i % 80 for i in range(1500))
    [row] = pack([Branch(trunk[:n], trunk[:100], 1.0, 1.0) for n in (500, 1500, 1500)], 9999)
    assert bytes_per_token(model, 1.0, None, share=True) == pytest.approx(kept(model, row) / row.size(), rel=0.4)


def test_recomputed_activations_cost_less_and_stay_recomputed():
    model = build(12)
    whole = bytes_per_token(model, 1.0, None, share=True)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert bytes_per_token(model, 1.0, None, share=True) < whole / 2
    assert model.is_gradient_checkpointing


def step(n: int) -> StepExample:
    return StepExample(f"t#{n}", "r", "t", n, (1,) * n, Action(name="bash"), (2, 3), (-100,) * n, None)


def hungry(module, args, kwargs):
    if kwargs["input_ids"].shape[1] > 100:
        torch.empty(10**15, dtype=torch.uint8)  # the CPU allocator's own error


def test_memory_that_runs_out_in_the_warm_up_names_the_step_and_what_to_set(tmp_path):
    model = build(1)
    model.model.register_forward_pre_hook(hungry, with_kwargs=True)
    with pytest.raises(TrainingError, match=r"memory ran out.*t#300, of 302 tokens.*data\.max_prompt_tokens"):
        fine_tune(model, [step(5), step(300)], WarmupConfig(steps=1), seed=0, folder=tmp_path)


def test_a_step_that_cannot_fit_is_refused_before_the_warm_up(tmp_path):
    class Crowded(torch.nn.Module):
        """Keeps a gigabyte per row for the backward pass, without touching it."""

        def forward(self, x):
            return x * torch.empty(2**28)[: x.shape[-1]].zero_()

    model = build(1)
    model.model.norm = torch.nn.Sequential(model.model.norm, Crowded())
    with pytest.raises(TrainingError, match=r"t#30000 with 30000 tokens.*data\.max_prompt_tokens"):
        fine_tune(model, [step(5), step(30000)], WarmupConfig(steps=1), seed=0, folder=tmp_path)


def test_memory_that_runs_out_while_scoring_names_the_step_and_what_to_set():
    model = build(1)
    model.model.register_forward_pre_hook(hungry, with_kwargs=True)
    with pytest.raises(TrainingError, match=r"memory ran out.*t#300: lower train\.row_tokens \(now 512\)"):
        perplexity(model, [step(5), step(300)], 512)


def test_a_row_larger_than_memory_is_named_with_what_to_set():
    rows = pack([Branch((1,) * n, (2, 3), 1.0, 1.0, name=f"task#{n}") for n in (40, 90)], 9999)
    check_room(rows, 1.0, CPU)
    check_room([], 1e30, CPU)
    with pytest.raises(TrainingError, match=r"task#90 with 90 tokens.*train\.row_tokens") as raised:
        check_room(rows, free_bytes(CPU) / 50, CPU)
    assert "gradient_checkpointing" in str(raised.value)
