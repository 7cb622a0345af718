"""Risks: a tree that is not exact, a masked sample that moves its group, a wrong sign, updates lost in bf16."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agent_srl.models import load_model
from agent_srl.train.advantages import advantages, has_signal, population_std
from agent_srl.train.loss import policy_loss
from agent_srl.train.optimizer import MasterAdamW
from agent_srl.train.tree import Branch, branch_logprobs, pack
from agent_srl.types import Completion, Group, Sample


def group(rewards: list[float | None]) -> Group:
    return Group(None, tuple(Sample(Completion((1,), (0.0,), True), "", "", None, r) for r in rewards))  # type: ignore[arg-type]


def branches() -> list[Branch]:
    trunk = tuple(range(50, 90))
    other = (3, 4, 5, 6)
    prompts = [trunk, trunk[:25], trunk[:25], trunk[:10], other]
    tokens = [(11, 12, 13, 14), (21,), (31, 32), (41, 42, 43), (51, 52)]
    return [Branch(p, t, a, 0.1) for p, t, a in zip(prompts, tokens, (1.0, -0.5, 0.7, -1.2, 0.3), strict=True)]


def test_tree_rows_equal_dense_rows_in_logprobs_and_gradients(tiny_model):
    model = load_model(str(tiny_model), torch.float32, torch.device("cpu"))
    results = []
    for share in (True, False):
        rows = pack(branches(), 4096, share=share)
        model.zero_grad()
        found = {}
        for row in rows:
            logprobs, _ = branch_logprobs(model, row, 1.0)
            gains = row.per_token([b.advantage for b in row.branches])
            weights = row.per_token([b.weight for b in row.branches])
            policy_loss(logprobs, logprobs.detach(), gains, weights, 0.2).backward()
            for branch, part in zip(
                row.branches, logprobs.detach().split([len(b.tokens) for b in row.branches]), strict=True
            ):
                found[branch.tokens] = part
        results.append((len(rows), sum(r.size() for r in rows), found, [p.grad.clone() for p in model.parameters()]))
    (tree_rows, tree_size, tree, tree_grads), (dense_rows, dense_size, dense, dense_grads) = results
    assert (tree_rows, dense_rows) == (2, 5) and tree_size < dense_size
    for tokens, logprobs in tree.items():
        torch.testing.assert_close(logprobs, dense[tokens], atol=1e-5, rtol=1e-5)
    for a, b in zip(tree_grads, dense_grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_rows_keep_to_their_budget_and_lose_no_branch():
    rows = pack(branches(), 46)
    assert all(r.size() <= 46 for r in rows)
    assert sorted(b.tokens for r in rows for b in r.branches) == sorted(b.tokens for b in branches())


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=8))
def test_advantages_are_normalised(rewards):
    found = [a for a in advantages(group(rewards)) if a is not None]
    assert abs(sum(found)) < 1e-6
    if population_std(rewards) > 1e-6:
        assert abs(sum(a * a for a in found) / len(found) - 1) < 1e-6


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=6), st.integers(0, 6))
def test_a_masked_sample_changes_nothing_for_the_others(rewards, place):
    with_mask = [*rewards[:place], None, *rewards[place:]]
    found = advantages(group(with_mask))
    assert found[min(place, len(rewards))] is None
    assert [a for a in found if a is not None] == advantages(group(rewards))


def test_equal_rewards_and_masked_groups_carry_no_signal():
    assert not has_signal(group([0.3] * 8), 0.02)
    assert not has_signal(group([None] * 8), 0.02)
    assert not has_signal(group([None, None, 0.5]), 0.02)
    assert has_signal(group([-1.0] + [0.4] * 7), 0.02)


def test_loss_raises_what_was_good_and_is_clipped():
    logprobs = torch.tensor([0.0, 0.0], requires_grad=True)
    policy_loss(logprobs, torch.zeros(2), torch.tensor([1.0, -1.0]), torch.tensor([0.5, 0.5]), 0.2).backward()
    assert logprobs.grad is not None and logprobs.grad.tolist() == [-0.5, 0.5]
    far = torch.tensor([1.0, -1.0], requires_grad=True)
    policy_loss(far, torch.zeros(2), torch.tensor([1.0, -1.0]), torch.ones(2), 0.2).backward()
    assert far.grad is not None and far.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_small_updates_are_not_lost(dtype):
    layer = torch.nn.Linear(1, 1, bias=False).to(dtype)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    optimizer = MasterAdamW(layer, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0)
    for _ in range(100):
        layer(torch.ones(1, 1, dtype=dtype)).sum().backward()
        optimizer.collect()
        optimizer.clip(1.0)
        optimizer.step(1e-4)
    assert abs(layer.weight.item() - 0.99) < 2e-3
