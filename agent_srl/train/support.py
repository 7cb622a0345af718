"""What a model lets us do: which ones a token tree is exact for, proof of it on the model itself.

A model that is not proven to work takes the dense path, one row per sample, which is exact for any.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, cast

from agent_srl.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from agent_srl.train.attention import Kernel
    from agent_srl.train.tree import Branch

FAMILIES = ("llama", "qwen2", "qwen3")
"""Those that the tests prove, by `model_type`."""
_ROPES = ("default", "linear", "llama3", "yarn")
"""Position encodings that do not depend on the length of the row."""
_FINE, _COARSE = (1e-3, 1e-3), (0.08, 0.15)
"""How far log-probabilities may be apart, in units of their spread, and gradients, of their length; in float32, and in
half precision. In bfloat16 on a CPU SmolLM2-135M gave 0.026 and 0.056, random models of 2 to 12 layers at most 0.030
and 0.060. One fork that does not see its token, samples that see each other, or positions off by one gave at least 0.19
in gradients; in log-probabilities 0.12 on SmolLM2, yet 0.004 on a random model whose weights are small."""
FLEX_UNIT = 200
"""Of the self-check's tree where flex computes it: forks and samples cross the borders of its blocks of 128 tokens."""


def why_dense(config: Any) -> str:
    """Why a token tree would not be exact for a model of this transformers config; empty if it is."""
    from agent_srl.rollout.attention import ATTENTION

    kinds = set(getattr(config, "layer_types", None) or ["full_attention"]) - {"full_attention"}
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if config.model_type not in FAMILIES:
        return f"{config.model_type} is none of the families proven so far ({', '.join(FAMILIES)})"
    if config._attn_implementation != ATTENTION:
        return f"its attention is {config._attn_implementation}, not {ATTENTION}"
    if kinds:
        return f"it has layers of {' and '.join(sorted(kinds))}"
    if rope not in _ROPES:
        return f"its positions ({rope}) depend on the length of a row"
    if getattr(config, "attention_dropout", 0.0):
        return "it drops out attention"
    return ""


def choose_attention(wanted: str, model: Any) -> tuple[bool, Kernel | None]:
    """Whether rows may be trees, and the kernel for them (None: the device's), for a `train.attention`.

    Raises ConfigError for a kernel that the device does not have."""
    device = model.device.type
    if (wanted, device) in (("flex", "cpu"), ("sliced", "cuda")):
        raise ConfigError(f"train.attention={wanted} does not run on {device}: set train.attention=auto")
    share = wanted != "dense" and not why_dense(model.config)
    return share, None if wanted in ("auto", "dense") else cast("Kernel", wanted)


def prove_tree(model: Any, temperature: float, kernel: Kernel | None = None) -> None:
    """Compare one small tree with its dense rows: log-probabilities and gradients. Nothing of the model changes.

    Raises:
        TrainingError: they differ by more than rounding.
    """
    import torch

    from agent_srl.train.attention import kernel_for
    from agent_srl.train.tree import branch_logprobs, pack

    flex = (kernel or kernel_for(model.device.type)) == "flex"
    branches = sample_tree(model.config.vocab_size, FLEX_UNIT if flex else 8)
    watched = [p for p in model.parameters() if p.requires_grad][:8]
    found: list[tuple[dict[Branch, Any], list[Any]]] = []
    for share in (True, False):
        logprobs: dict[Branch, Any] = {}
        grads = [torch.zeros_like(p, dtype=torch.float32) for p in watched]
        for row in pack(branches, 4096, share=share):
            values, _ = branch_logprobs(model, row, temperature, kernel)
            logprobs |= dict(zip(row.branches, values.detach().split([b.count for b in row.branches]), strict=True))
            if watched:
                for total, grad in zip(grads, torch.autograd.grad(values.sum(), watched), strict=True):
                    total += grad
        found.append((logprobs, grads))
    (tree, of_tree), (dense, of_dense) = found
    ours, rows = (torch.cat([logprobs[b] for b in branches]) for logprobs in (tree, dense))
    apart = float((ours - rows).norm() / (rows - rows.mean()).norm().clamp_min(1e-12))
    off = max(
        (float((a - b).norm() / b.norm().clamp_min(1e-12)) for a, b in zip(of_tree, of_dense, strict=True)), default=0.0
    )
    limits = _COARSE if model.dtype in (torch.bfloat16, torch.float16) else _FINE
    if not (apart <= limits[0] and off <= limits[1]):
        raise TrainingError(
            f"self-check failed: on a small token tree log-probabilities differ by {apart:.2g} of their spread from "
            f"one row per sample and gradients by {off:.2g} of their length. Train with train.attention=dense; please "
            "report the model and the versions in environment.json"
        )


def sample_tree(vocabulary: int, unit: int = 8) -> list[Branch]:
    """Three steps of a trunk of three units, one of another window, one of another trajectory; samples of one token and
    of about a unit."""
    from agent_srl.train.tree import Branch

    draw = random.Random(0)

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(draw.randrange(vocabulary) for _ in range(n))

    trunk = tokens(3 * unit)
    prompts = [trunk[: unit + 1], trunk[: 2 * unit + 1], trunk, trunk[: unit + 1] + tokens(unit - 1)]
    prompts.append(tokens(unit // 2 + 1))
    return [Branch(p, tokens(n), 1.0, 1.0) for p in prompts for n in (unit + 1, 1, unit - 2)]
