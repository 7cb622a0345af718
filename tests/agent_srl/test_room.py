"""Risks: a row larger than memory that ends in a kill without a word, or a row that fits and is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from agent_srl.config import WarmupConfig
from agent_srl.errors import TrainingError
from agent_srl.evaluate.perplexity import perplexity
from agent_srl.memory import release_memory
from agent_srl.rollout.attention import ATTENTION, register_attention
from agent_srl.train import room
from agent_srl.train.optimizer import MasterAdamW
from agent_srl.train.room import Cost, check_room, free_bytes, pass_cost
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
    per_token = pass_cost(model, 1.0, None, share=True).of(row) / row.size()
    assert per_token / room._MARGIN == pytest.approx(kept(model, row) / row.size(), rel=0.4)


def test_recomputed_activations_cost_less_and_stay_recomputed():
    model = build(12)
    whole = pass_cost(model, 1.0, None, share=True).token
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert pass_cost(model, 1.0, None, share=True).token < whole / 2
    assert model.is_gradient_checkpointing


def step(n: int) -> StepExample:
    return StepExample(f"t#{n}", "r", "t", n, (1,) * n, Action(name="bash"), (2, 3), (-100,) * n, None)


def hungry(module, args, kwargs):
    if kwargs["input_ids"].shape[1] > 200:
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
    with pytest.raises(TrainingError, match=r"t#30000, with 30002 tokens.*data\.max_prompt_tokens"):
        fine_tune(model, [step(5), step(30000)], WarmupConfig(steps=1), seed=0, folder=tmp_path)


def test_memory_that_runs_out_while_scoring_names_the_step_and_what_to_set():
    model = build(1)
    model.model.register_forward_pre_hook(hungry, with_kwargs=True)
    with pytest.raises(TrainingError, match=r"memory ran out.*t#300: lower train\.row_tokens \(now 512\)"):
        perplexity(model, [step(5), step(300)], 512)


def test_a_row_larger_than_memory_is_named_with_what_to_set():
    rows = pack([Branch((1,) * n, (2, 3), 1.0, 1.0, name=f"task#{n}") for n in (40, 90)], 9999)
    check_room(rows, Cost(1.0, 0.0), 0, CPU)
    check_room([], Cost(1e30, 0.0), 0, CPU)
    with pytest.raises(TrainingError, match=r"task#90, with 92 tokens.*train\.row_tokens") as raised:
        check_room(rows, Cost(free_bytes(CPU) / 50, 0.0), 0, CPU)
    assert "gradient_checkpointing" in str(raised.value)
    with pytest.raises(TrainingError, match=r"whatever its rows: set model\.lora\.rank"):
        check_room(rows, Cost(1.0, 0.0), 1e18, CPU)


LARGE = {
    "vocab_size": 30_000,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process's peak")
@pytest.mark.parametrize(
    ("family", "size", "own", "checkpointing"),
    [
        ("Llama", 2000, 100, False),
        ("Llama", 2000, 800, False),  # more predictions than a chunk of the head would need room for
        ("Llama", 4000, 100, True),
        ("Granite", 2000, 20, False),  # logits of its own, few of them
        ("Granite", 800, 500, False),
    ],
)
def test_the_estimate_is_within_a_factor_of_the_measured_peak(family, size, own, checkpointing):
    """Resident memory of this process over two updates: from 0.6 to 1.6. Malloc keeps some of what is freed."""
    register_attention()
    config = getattr(transformers, f"{family}Config")(**LARGE, attn_implementation=ATTENTION)
    model = getattr(transformers, f"{family}ForCausalLM")(config).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    share = family == "Llama"
    optimizer = MasterAdamW(model, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0)
    branches = [Branch((5,) * (size - own), (7,) * (own // (1 + share) + 1), 1.0, 1.0)] * (1 + share)
    [row] = pack(branches, size, share=share)
    estimate = pass_cost(model, 1.0, None, share=share).of(row) + optimizer.to_come()
    release_memory()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    for _ in range(2):
        logprobs, _ = branch_logprobs(model, row, 1.0)
        (-logprobs.sum()).backward()
        del logprobs
        optimizer.collect()
        optimizer.step(1e-3)
    assert 0.6 < estimate / (resident("VmHWM") - before) < 1.6
    state = sum(t.nbytes for s in optimizer.state_dict()["adamw"]["state"].values() for t in s.values() if t.dim())
    assert state == 2 * optimizer.to_come() == 2 * sum(p.nbytes for p in model.parameters())


def resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


@pytest.mark.parametrize("prefix", ["", "total_"])
def test_cached_files_of_a_control_group_give_way(prefix, tmp_path, monkeypatch):
    files = {
        "limit": "1000\n",
        "used": "900\n",
        "stat": f"anon 400\n{prefix}active_file 200\n{prefix}inactive_file 250\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(room, "_CGROUPS", (tuple(tmp_path / name for name in files),))
    assert free_bytes(CPU) == 550
    (tmp_path / "limit").write_text("max\n")
    assert free_bytes(CPU) > 2**20
