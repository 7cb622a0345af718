"""Risks: a loss that is another one than its name says, a correction that has a gradient or no bound.

Each is compared with its formula written out token by token.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agent_srl.train.advantages import advantages
from agent_srl.train.loss import importance, is_clipped, policy_loss, token_weights
from agent_srl.types import Completion, Group, Sample

logprob = st.floats(-6, -0.01)
samples = st.lists(
    st.tuples(st.floats(-2, 2), st.lists(st.tuples(logprob, logprob), min_size=1, max_size=5)), min_size=1, max_size=5
)
LIMIT = 7


def flat(samples):
    tokens = [(a, new, old) for a, sample in samples for new, old in sample]
    return [torch.tensor(x, dtype=torch.float64) for x in zip(*tokens, strict=True)]


def literal(samples, loss, low, high):
    """TRL's GRPOTrainer._compute_loss, one token at a time."""
    per_sample = []
    for advantage, tokens in samples:
        ratios = [math.exp(new - old) for new, old in tokens]
        per_sample.append([-min(r * advantage, min(max(r, 1 - low), 1 + high) * advantage) for r in ratios])
    if loss == "grpo":
        return sum(sum(s) / len(s) for s in per_sample) / len(per_sample)
    total = sum(sum(s) for s in per_sample)
    return total / (sum(map(len, per_sample)) if loss == "dapo" else len(per_sample) * LIMIT)


@pytest.mark.parametrize("loss", ["grpo", "dapo", "dr_grpo"])
@given(samples=samples, low=st.floats(0.05, 0.5), high=st.one_of(st.none(), st.floats(0.05, 0.9)))
def test_losses_equal_their_formulas(loss, samples, low, high):
    gains, new, old = flat(samples)
    lengths = [len(tokens) for _, tokens in samples]
    each = torch.tensor(token_weights(lengths, loss, LIMIT), dtype=torch.float64)
    weights = each.repeat_interleave(torch.tensor(lengths))
    found = policy_loss(new, old, gains, weights, low, high)
    assert math.isclose(found, literal(samples, loss, low, low if high is None else high), rel_tol=1e-9, abs_tol=1e-9)


@given(samples=samples, low=st.floats(0.05, 0.5), high=st.floats(0.05, 0.9))
def test_clipped_tokens_are_those_without_a_gradient(samples, low, high):
    gains, new, old = flat([(a if abs(a) > 1e-3 else 1.0, tokens) for a, tokens in samples])
    new.requires_grad_()
    policy_loss(new, old, gains, torch.ones_like(new), low, high).backward()
    assert is_clipped(new.detach(), old, gains, low, high).tolist() == (new.grad == 0).tolist()


@given(st.lists(st.tuples(logprob, st.one_of(logprob, st.just(math.nan))), min_size=1), st.floats(0.5, 4))
def test_importance_is_the_truncated_ratio_and_one_where_the_engine_said_nothing(pairs, cap):
    old, engine = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in zip(*pairs, strict=True))
    found = importance(old, engine, cap)
    assert not found.requires_grad
    expected = [1.0 if math.isnan(e) else min(math.exp(o - e), cap) for o, e in pairs]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    assert importance(old, engine, 0.0).tolist() == [1.0] * len(pairs)


def test_rewards_that_are_not_scaled_keep_their_size():
    rewards = [0.0, 0.5, None]
    group = Group(None, tuple(Sample(Completion((1,), (0.0,), True), "", "", None, r) for r in rewards))  # type: ignore[arg-type]
    assert advantages(group, "none") == [-0.25, 0.25, None]
    assert advantages(group, "group") == [-1.0, 1.0, None]
