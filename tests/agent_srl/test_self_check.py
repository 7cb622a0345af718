"""Risk: hours of data and warm-up before a run learns that its model cannot be sampled from or trained as configured.

Every run here names a file of trajectories that does not exist: whatever is said before that was said in time.
"""

from __future__ import annotations

import pytest
from transformers import Gemma2Config, Gemma2ForCausalLM

from agent_srl.config_file import load_config
from agent_srl.errors import AgentSRLError, ConfigError, DataError, EngineError, TrainingError
from agent_srl.pipeline import train
from agent_srl.progress import Console
from agent_srl.train.attention import TreePlan


async def fails(model, out, *sets) -> AgentSRLError:
    given = {"model.path": str(model), "data.trajectories": ["missing.jsonl"], "model.threads": 0}
    with pytest.raises(AgentSRLError) as caught:
        await train(load_config("swe/trajectories", ["model.dtype=float32", *sets], given), out, Console(silent=True))
    return caught.value


async def test_a_tree_that_is_not_exact_stops_a_run_before_its_data_are_read(tiny_model, tmp_path, monkeypatch):
    assert isinstance(await fails(tiny_model, tmp_path / "right", "model.lora.rank=2"), DataError)
    right = TreePlan.attend
    monkeypatch.setattr(TreePlan, "attend", lambda plan, q, k, v, scale: right(plan, q, k, v.flip(2), scale))
    error = await fails(tiny_model, tmp_path / "wrong")
    assert isinstance(error, TrainingError) and "self-check failed" in str(error)
    assert isinstance(await fails(tiny_model, tmp_path / "dense", "train.attention=dense"), DataError)


async def test_an_engine_that_would_sample_from_another_model_stops_it_too(tokenizer, tmp_path):
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "attn_logit_softcapping": None}
    Gemma2ForCausalLM(
        Gemma2Config(vocab_size=len(tokenizer), final_logit_softcapping=0.01, **shape, **heads)
    ).save_pretrained(tmp_path / "capped")
    tokenizer.save_pretrained(tmp_path / "capped")
    error = await fails(tmp_path / "capped", tmp_path / "run")
    assert isinstance(error, EngineError) and "cannot be decoded on shared trunks" in str(error)


async def test_a_kernel_that_the_device_has_not_stops_it_too(tiny_model, tmp_path):
    error = await fails(tiny_model, tmp_path / "run", "model.device=cpu", "train.attention=flex")
    assert isinstance(error, ConfigError) and "train.attention=flex" in str(error)
