"""Low-rank adapters (LoRA, arXiv 2106.09685) by peft: put into a model in place, merged in what is saved or sent on.

Left out: adapters as files of their own; quantised base models.
"""

from __future__ import annotations

from typing import Any

from agent_srl.config import LoraConfig
from agent_srl.errors import ModelError


def add_adapters(model: Any, config: LoraConfig, seed: int) -> None:
    """Freeze `model` and put trainable adapters at its linear layers, all but the head. They start as no change.

    Raises:
        ModelError: peft is not installed, or adapters could not be merged into this model again.
    """
    import torch

    try:
        import peft
    except ImportError as error:
        raise ModelError("model.lora needs peft: run `pip install peft`, or set model.lora.rank=0") from error
    settings = peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules="all-linear", lora_dropout=0.0)
    with torch.random.fork_rng():  # the same start whatever was drawn before, so that a resumed run has it too
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(settings, model)
    if any(not hasattr(m.base_layer, "weight") for m in model.modules() if hasattr(m, "get_delta_weight")):
        raise ModelError("model.lora: this model's experts cannot be merged with adapters: set model.lora.rank=0")


def merged_weights(model: Any) -> dict[str, Any]:
    """The model's weights by transformers' names, adapters added in; without adapters simply its weights.

    The model is not changed: merging and unmerging it would leave rounding behind.
    """
    weights = {name: w for name, w in model.state_dict().items() if ".lora_" not in name}
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight"):
            base = module.base_layer.weight
            delta = module.get_delta_weight("default")
            weights[f"{name}.base_layer.weight"] = (base.detach().float() + delta.detach().float()).to(base.dtype)
    return {name.replace(".base_layer.", "."): weight for name, weight in weights.items()}
