"""A tiny model with the default model's tokenizer: real code paths in a second."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from env_server.schema import Action, Step, Trajectory

# No time limit per example: machines are busy. `HYPOTHESIS_PROFILE=search` looks at new examples in every run.
settings.register_profile("repeat", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeat"))


@pytest.fixture(scope="session")
def tokenizer():
    from agent_srl.models import load_tokenizer

    return load_tokenizer("smollm2")


@pytest.fixture(scope="session")
def qwen():
    """Qwen2.5's tokenizer with its chat template."""
    from transformers import AutoTokenizer

    folder = Path(__file__).resolve().parents[2] / "shared" / "data" / "tokenizers" / "qwen2.5"
    if not folder.is_dir():
        pytest.skip("the Qwen2.5 tokenizer is not on this machine")
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_model(tokenizer, tmp_path_factory) -> Path:
    """A random Llama of two layers, saved where transformers loads it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def trajectories() -> list[Trajectory]:
    """Six runs over three repositories, with edits and a rejected step."""
    return [_trajectory(i) for i in range(6)]


def _trajectory(i: int) -> Trajectory:
    path = f"/testbed/pkg/module_{i}.py"
    edit = {"command": "str_replace", "path": path, "old_str": f"return {i}", "new_str": f"return {i + 1}"}
    return Trajectory(
        instance_id=f"pkg{i % 3}__{i}",
        repo=f"pkg{i % 3}",
        problem_statement=f"value_{i}() returns {i}; it should return {i + 1}.",
        source="test",
        resolved=True,
        steps=[
            Step(thought="Look around.", action=Action(name="bash", arguments={"command": "ls"}), observation="pkg"),
            Step(
                thought="Two at once.",
                action=Action(name="bash", arguments={"command": "x"}),
                rejected="more than one block",
            ),
            Step(
                thought=f"Search for value_{i}.",
                action=Action(name="bash", arguments={"command": f"grep -rn value_{i} pkg"}),
                observation=f"pkg/module_{i}.py:1:def value_{i}():",
            ),
            Step(thought="Mend it.", action=Action(name="str_replace_editor", arguments=edit), observation="Edited."),
            Step(thought="Done.", action=Action(name="submit")),
        ],
    )
