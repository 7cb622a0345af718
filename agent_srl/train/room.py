"""Whether a row fits into memory, asked before its forward pass: a process that the kernel ends can say nothing.

What a token keeps for the backward pass is measured on two small rows of the model itself. Left out: memory of other
processes that grows meanwhile.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from agent_srl.errors import TrainingError
from agent_srl.train.attention import Kernel, kernel_for
from agent_srl.train.head import chunk_tokens
from agent_srl.train.support import why_dense
from agent_srl.train.tree import Branch, TreeRow, branch_logprobs, pack

_MARGIN = 1.3
"""Gradients of activations and scratch space on top of what is kept for the backward pass."""
_LOGITS = 3
"""Copies of float32 logits that the head holds at once."""
_CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current"), Path("/sys/fs/cgroup/memory.stat")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.stat"),
    ),
)


@dataclass(frozen=True)
class Cost:
    """Bytes of a forward and backward pass, gradients of the weights not counted."""

    token: float
    """Per token of a row."""
    prediction: float
    """Per token that is learnt from, on top: what the head keeps."""
    logits: float = 0.0
    """Scratch of the head per token of a chunk."""
    chunk: float = float("inf")
    """Tokens that the head computes at once."""
    fixed: float = 0.0
    """Whatever the row."""

    def of(self, row: TreeRow) -> float:
        count = sum(branch.count for branch in row.branches)
        return self.token * row.size() + self.prediction * count + self.logits * min(count, self.chunk) + self.fixed


def pass_cost(model: Any, temperature: float, kernel: Kernel | None, *, share: bool) -> Cost:
    """What `branch_logprobs` and its backward pass cost on this model."""
    # flex pads rows to whole buckets, and so does this measurement.
    unit = 1024 if share and (kernel or kernel_for(model.device.type)) == "flex" else 64
    rows = [_sample(unit, unit // 8, share=share), _sample(2 * unit, unit // 2, share=share)]
    sizes = torch.tensor([[row.size(), sum(b.count for b in row.branches)] for row in rows], dtype=torch.float64)
    found = torch.tensor([_kept(model, row, temperature, kernel) for row in rows], dtype=torch.float64)
    token, prediction = torch.linalg.solve(sizes, found).clamp_min(0).tolist()
    if model.is_gradient_checkpointing:
        layers = model.config.num_hidden_layers
        # One layer's, and again its gradients and what the heap holds back of the layer before.
        token = 2 * token / layers + layers * model.config.hidden_size * model.dtype.itemsize
    weight = model.get_output_embeddings().weight
    logits = _LOGITS * 4 * weight.shape[0]
    if why_dense(model.config):
        return Cost(_MARGIN * token, prediction, logits)
    of_weight = weight.numel() * (4 + 2 * weight.itemsize) if weight.requires_grad else 0
    return Cost(_MARGIN * token, prediction, logits, chunk_tokens(weight), of_weight)


def _sample(size: int, own: int, *, share: bool) -> TreeRow:
    """A row of `size` tokens with samples of `own` tokens and one more: two if they may share a prompt."""
    samples = 2 if share else 1
    prompt = (1,) * (size - samples * own)
    return pack([Branch(prompt, (1,) * (own + 1), 1.0, 1.0)] * samples, size, share=share)[0]


def _kept(model: Any, row: TreeRow, temperature: float, kernel: Kernel | None) -> int:
    """Bytes that a forward pass keeps for the backward pass, nothing recomputed."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    checkpointed = model.is_gradient_checkpointing
    if checkpointed:
        model.gradient_checkpointing_disable()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        branch_logprobs(model, row, temperature, kernel)
    if checkpointed:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return sum(kept.values())


def check_room(rows: list[TreeRow], cost: Cost, weights: float, device: torch.device) -> None:
    """Raises TrainingError if the costliest row is larger than the memory that is free, naming it and what to set.

    `weights`: bytes for gradients and the optimizer's state that an update has yet to allocate.
    """
    largest = max(rows, key=cost.of, default=TreeRow())
    needed, free = cost.of(largest) + weights if rows else 0.0, free_bytes(device)
    if needed <= free:
        return
    left = free - weights - cost.fixed
    said = f"{needed / 2**30:.1f} GiB, {weights / 2**30:.1f} of them for gradients and optimizer"
    if left <= 0:
        raise TrainingError(
            f"an update needs about {said}, and {free / 2**30:.1f} GiB are free, whatever its rows: set "
            "model.lora.rank=16 or take a smaller model"
        )
    name, size = max(((b.name, len(b.prompt) + len(b.tokens)) for b in largest.branches), key=lambda found: found[1])
    tokens = int(largest.size() * left / (needed - weights - cost.fixed))
    raise TrainingError(
        f"a row of {largest.size()} tokens needs about {said}, and {free / 2**30:.1f} GiB are free; "
        f"its longest sample is of {name or 'an unnamed step'}, with {size} tokens. Set train.row_tokens to "
        f"{tokens} or less (a single longer step needs data.max_prompt_tokens below that), or "
        "train.gradient_checkpointing=true"
    )


@contextlib.contextmanager
def or_say(what: str) -> Iterator[None]:
    """Raises TrainingError that says `what` where memory runs out inside."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        cpu = isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)
        if not (cpu or isinstance(error, torch.OutOfMemoryError)):
            raise
        raise TrainingError(f"memory ran out; {what}") from error


def free_bytes(device: torch.device) -> float:
    """Memory that can be had on `device` now; infinite where it cannot be told."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + unused)
    return min([_available(), *(_left(*paths) for paths in _CGROUPS)])


def _available() -> float:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return float("inf")
    return next((float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), float("inf"))


def _left(limit: Path, used: Path, stat: Path) -> float:
    """Of a control group. Cached files count as used there, but give way."""
    try:
        left = float(limit.read_text(encoding="ascii")) - float(used.read_text(encoding="ascii"))
        of = dict(line.split() for line in stat.read_text(encoding="ascii").splitlines())
        # Version 1 has the numbers of the whole hierarchy under another name.
        cached = (of.get(f"total_{kind}", of.get(kind, 0)) for kind in ("active_file", "inactive_file"))
        return left + sum(map(float, cached))
    except (OSError, ValueError):
        return float("inf")
