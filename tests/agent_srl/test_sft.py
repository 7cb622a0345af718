"""Risks: a warm-up on another loss than the model's own, where a family scales or caps its logits."""

from __future__ import annotations

import pytest
import torch
import transformers

from agent_srl.data.steps import IGNORE
from agent_srl.rollout.attention import ATTENTION, register_attention
from agent_srl.train.sft import _learnt, _row_loss
from agent_srl.train.support import why_dense
from agent_srl.types import StepExample
from env_server.schema import Action

SHAPE = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SPECIAL = {
    "Gemma2": {"final_logit_softcapping": 0.5, "attn_logit_softcapping": None},
    "Granite": {"logits_scaling": 4.0},
    "Cohere": {"logit_scale": 0.25},
}
PROMPT, TARGET = tuple(range(3, 20)), (7, 40, 41, 2)
LABELS = (*([IGNORE] * 9), *PROMPT[9:13], *([IGNORE] * 4))


@pytest.mark.parametrize("family", ["Llama", "Gemma2", "Granite", "Cohere"])
def test_the_loss_and_its_gradient_are_those_of_transformers(family):
    register_attention()
    config = getattr(transformers, f"{family}Config")(**SHAPE, **SPECIAL.get(family, {}))
    config._attn_implementation = ATTENTION
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config).double().train()
    with torch.no_grad():  # as far from uniform as a trained one, so that scale and cap count
        model.get_output_embeddings().weight.mul_(30)
    assert bool(why_dense(config)) == (family != "Llama")
    row = StepExample("a#0", "r", "a", 0, PROMPT, Action(name="bash"), TARGET, LABELS, None)
    grads, losses = [], []
    for loss in (
        _row_loss(model, row) / _learnt(row),
        model(input_ids=torch.tensor([PROMPT + TARGET]), labels=torch.tensor([LABELS + TARGET])).loss,
    ):
        losses.append(float(loss.detach()))
        grads.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert (grads[0] - grads[1]).norm() <= 1e-5 * grads[1].norm()
