"""A model ready to act: weights, engine, step sampler, and how its prompts are built. Saved with the weights, read
back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from agent_srl.config import Config, DataConfig
from agent_srl.data.actions import FORMATS
from agent_srl.data.render import Renderer
from agent_srl.data.steps import StepBuilder
from agent_srl.errors import ModelError
from agent_srl.rollout.engine import Sampling
from agent_srl.rollout.hf import TransformersEngine
from agent_srl.rollout.steps import StepSampler

_SIDECAR = "agent_srl.yaml"


class Policy:
    """One model with everything that generation needs."""

    def __init__(self, model: Any, tokenizer: Any, builder: StepBuilder, config: Config) -> None:
        self.model, self.tokenizer, self.builder, self.config = model, tokenizer, builder, config
        self.engine = TransformersEngine(model, {tokenizer.eos_token_id})
        self.sampler = StepSampler(
            self.engine, builder.renderer, builder.fmt, min_thought_words=config.train.min_thought_words
        )

    def sampling(self, temperature: float, seed: int) -> Sampling:
        return Sampling(temperature, self.config.train.max_new_tokens, seed)

    def save(self, folder: Path) -> None:
        """Weights, tokenizer, and how prompts were built. Raises OSError."""
        from agent_srl.train.checkpoint import save_model

        sidecar = {
            "data": self.builder.config.model_dump(mode="json"),
            "action_format": self.builder.fmt.name,
        }
        save_model(self.model, self.tokenizer, folder, {_SIDECAR: yaml.safe_dump(sidecar, sort_keys=False)})


def load_policy(path: str, config: Config) -> Policy:
    """A policy from a model folder or hub id; prompts as it was trained on, or as `config` says if it was not ours.

    Raises:
        ModelError: it cannot be loaded.
    """
    from agent_srl.models import load_model, load_tokenizer, resolve_model

    tokenizer = load_tokenizer(path)
    data, fmt = config.data, "text" if config.task == "math" else "xml"
    if config.data.action_format != "auto":
        fmt = config.data.action_format
    sidecar = Path(resolve_model(path)) / _SIDECAR
    if sidecar.is_file():
        saved = yaml.safe_load(sidecar.read_text(encoding="utf-8"))
        data, fmt = DataConfig.model_validate(saved["data"]), saved["action_format"]
        if (fmt == "text") != (config.task == "math"):
            raise ModelError(f"{path} was trained on another task than {config.task}: give --task {_task(fmt)}")
    builder = StepBuilder(Renderer(tokenizer), FORMATS[fmt], data)
    device = pick_device(config.model.device)
    model = load_model(path, pick_dtype(config.model.dtype, device), device)
    return Policy(model, tokenizer, builder, config)


def pick_device(name: str) -> Any:
    """The torch device; `auto` takes a GPU if there is one. Raises ModelError."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise ModelError("model.device=cuda, but torch sees no GPU here: use --set model.device=auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def pick_dtype(name: str, device: Any) -> Any:
    """The torch dtype; `auto` takes bfloat16 on a GPU and on a CPU that computes in it, else float32.

    A CPU without bfloat16 instructions emulates them: one forward and backward pass of 448
    tokens took 132 to 140 s against 26 to 33 s in float32, on a shared machine of two cores.
    """
    import torch

    if name != "auto":
        return getattr(torch, name)
    native = device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if native else torch.float32


def _task(fmt: str) -> str:
    return "math" if fmt == "text" else "swe"
