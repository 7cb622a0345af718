"""Risks: minibatches whose ratio is not the old policy's, a group that counts more in a small minibatch, weights ruined
by one bad number, memory that runs out without a word, gradients lost on a process without work."""

from __future__ import annotations

import json
import math

import pytest
import torch

from agent_srl.config import TrainConfig
from agent_srl.errors import TrainingError
from agent_srl.models import load_model
from agent_srl.train.advantages import advantages
from agent_srl.train.collect import Batch
from agent_srl.train.optimizer import MasterAdamW
from agent_srl.train.processes import Processes
from agent_srl.train.tree import Branch, branch_logprobs, pack
from agent_srl.train.update import Updater, enough_memory, minibatches
from agent_srl.types import Completion, Group, Sample, StepExample
from env_server.schema import Action

BASH = Action(name="bash")
REWARDS = ([0.2, 0.9, None, 0.4], [-1.0, 0.0, 1.0, 0.5], [0.1, 0.1, 0.3, 0.2])


@pytest.fixture
def model(tiny_model):
    return load_model(str(tiny_model), torch.float32, torch.device("cpu"))


def logprobs_of(model, prompt, tokens, temperature=1.0):
    [row] = pack([Branch(prompt, tokens, 0.0, 0.0)], 9999)
    with torch.no_grad():
        return branch_logprobs(model, row, temperature)[0]


def batch_of(model, shift=0.0) -> Batch:
    """Three groups of two trajectories; the engine's log-probabilities are the model's, plus `shift`."""
    groups = []
    for g, rewards in enumerate(REWARDS):
        prompt = tuple(range(20, 30)) if g < 2 else tuple(range(60, 68))
        example = StepExample(f"t{g // 2}#{g}", "r", f"t{g // 2}", g, prompt, BASH, (2,), (), None)
        samples = []
        for i, reward in enumerate(rewards):
            tokens = tuple(100 + 7 * g + 3 * i + j for j in range(1 + (g + i) % 3))
            known = tuple((logprobs_of(model, prompt, tokens) + shift).tolist())
            samples.append(Sample(Completion(tokens, known, True), "", "", BASH, reward))
        groups.append(Group(example, tuple(samples)))
    return Batch(groups, [0, 0, 1], groups, {})


def updater(model, folder, **settings) -> Updater:
    config = TrainConfig.model_validate({"groups": 3, "samples": 4, "max_new_tokens": 4, "lr": 1e-3, **settings})
    return Updater(model, config, Processes(), folder)


def weights(model) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def test_the_default_update_is_the_papers_gradient_sample_by_sample(model, tiny_model, tmp_path):
    batch, clone = batch_of(model), load_model(str(tiny_model), torch.float32, torch.device("cpu"))
    pairs = [(g, s, a) for g in batch.groups for s, a in zip(g.samples, advantages(g), strict=True) if a is not None]
    for group, sample, advantage in pairs:
        prompt, tokens = group.example.prompt_P, sample.completion.tokens_T
        out = clone(input_ids=torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        logprobs = torch.log_softmax(out, -1)[range(len(tokens)), tokens]
        (-advantage * logprobs.mean() / len(pairs)).backward()
    expected = torch.nn.utils.clip_grad_norm_(clone.parameters(), 1e9)
    metrics = updater(model, tmp_path).update(batch, 5)
    assert math.isclose(metrics["grad_norm"], expected, rel_tol=1e-4)
    assert metrics["clip_fraction"] == 0 and abs(metrics["importance_mean"] - 1) < 1e-4
    assert metrics["sampling_logp_difference_max"] < 1e-4 and metrics["importance_max"] < 1 + 1e-4


def test_an_engine_that_computes_otherwise_is_corrected_up_to_the_cap(model, tiny_model, tmp_path):
    norms = {}
    for name, shift, cap in (("same", 0.0, 2.0), ("half", -math.log(1.5), 2.0), ("far", -3.0, 2.0), ("off", -3.0, 0.0)):
        fresh = load_model(str(tiny_model), torch.float32, torch.device("cpu"))
        norms[name] = updater(fresh, tmp_path, importance_cap=cap).update(batch_of(fresh, shift), 5)
    assert math.isclose(norms["half"]["grad_norm"], 1.5 * norms["same"]["grad_norm"], rel_tol=1e-3)
    assert math.isclose(norms["far"]["grad_norm"], 2.0 * norms["same"]["grad_norm"], rel_tol=1e-3)
    assert math.isclose(norms["off"]["grad_norm"], norms["same"]["grad_norm"], rel_tol=1e-4)
    assert norms["off"]["importance_mean"] is None and norms["far"]["importance_max"] == 2.0
    assert math.isclose(norms["far"]["sampling_logp_difference_mean"], 3.0, rel_tol=1e-3)


def test_later_minibatches_are_clipped_against_the_weights_that_the_batch_began_with(model, tmp_path):
    batch = batch_of(model)
    settings = {"minibatches": 3, "lr": 0.05, "lr_warmup_steps": 0, "clip_eps": 0.01, "max_grad_norm": 100.0}
    first = updater(model, tmp_path, **settings)
    seen: list[float] = []
    step = first.optimizer.step
    first.optimizer.step = lambda lr: (seen.append(lr), step(lr))[1]
    metrics = first.update(batch, 0)
    assert len(seen) == 3 and metrics["clip_fraction"] > 0
    assert metrics["sampling_logp_difference_max"] < 1e-4, "the old log-probabilities are those before the first step"


def test_no_group_counts_more_in_a_smaller_minibatch(model):
    batch = batch_of(model)
    for loss in ("grpo", "dapo", "dr_grpo"):
        one, two = (
            minibatches(batch, TrainConfig(groups=3, samples=4, max_new_tokens=4, loss=loss, minibatches=n))
            for n in (1, 2)
        )
        assert [len(part) for part in two] == [1, 2] and len(one) == 1
        flat = [[b.weight for part in parts for _, group in part for b in group] for parts in (one, two)]
        assert [2 * w for w in flat[0]] == pytest.approx(flat[1])


def test_a_number_that_is_not_finite_stops_before_the_update_with_the_batch_saved(model, tmp_path):
    batch, made = batch_of(model), updater(model, tmp_path)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = math.inf
    before = weights(model)
    with pytest.raises(TrainingError, match=r"step 6: .*broken-step-000006.json.*train.lr"):
        made.update(batch, 5)
    assert torch.equal(weights(model), before)
    saved = json.loads((tmp_path / "broken-step-000006.json").read_text())
    assert {b["name"] for b in saved["branches"]} == {"t0#0", "t0#1", "t1#2"}
    assert all(b["tokens"] and math.isfinite(b["advantage"]) for b in saved["branches"])


def test_memory_that_runs_out_names_the_row_and_what_to_set():
    rows = [pack([Branch((1,) * n, (2, 3), 1.0, 1.0, (), f"t{n}#1")], 9999)[0] for n in (5, 500, 50)]
    size = 10**15
    with pytest.raises(TrainingError) as caught, enough_memory(rows, TrainConfig()):
        torch.empty(size, dtype=torch.uint8)  # the CPU allocator's own error
    for name in ("t500#1", "501 tokens", "train.row_tokens", "data.max_prompt_tokens", "train.gradient_checkpointing"):
        assert name in str(caught.value)
    with pytest.raises(TrainingError, match="t500#1"), enough_memory(rows, TrainConfig()):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RuntimeError, match="shape"), enough_memory(rows, TrainConfig()):
        raise RuntimeError("shape mismatch")


class Two(Processes):
    """Two processes in one: what each adds to a sum is collected, then handed to both."""

    def __init__(self, rank: int) -> None:
        super().__init__(rank, 2)
        self.sent: list[torch.Tensor] = []
        self.other: list[torch.Tensor] = []

    def sum_(self, tensor):
        self.sent.append(tensor.clone())
        if self.other:
            tensor += self.other.pop(0)


def test_gradients_are_summed_where_one_process_had_no_row(tiny_model):
    models = [load_model(str(tiny_model), torch.float32, torch.device("cpu")) for _ in range(2)]
    optimizers = [MasterAdamW(m, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0) for m in models]
    models[0](input_ids=torch.tensor([[1, 2, 3]])).logits.sum().backward()
    expected = [p.grad.clone() for p in models[0].parameters()]
    idle, busy = Two(1), Two(0)
    optimizers[0].reduce(busy)
    idle.other = list(busy.sent)
    optimizers[1].reduce(idle)
    assert all(not s.any() for s in idle.sent)
    for model in models:
        assert all(torch.equal(p.grad, e) for p, e in zip(model.parameters(), expected, strict=True))
