"""Whether a row fits into memory, asked before its forward pass: a process that the kernel ends can say nothing.

What a token costs is measured on a small tree of the model itself. Left out: memory of other processes that grows
meanwhile.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from agent_srl.errors import TrainingError
from agent_srl.train.attention import Kernel
from agent_srl.train.support import sample_tree
from agent_srl.train.tree import TreeRow, branch_logprobs, pack

_MARGIN = 1.3
"""Gradients of activations and scratch space on top of what is kept for the backward pass."""
_CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


def bytes_per_token(model: Any, temperature: float, kernel: Kernel | None, *, share: bool) -> float:
    """Bytes that a forward pass keeps for the backward pass, per token, on a small tree of the model."""
    row = pack(sample_tree(model.config.vocab_size), 4096, share=share)[0]
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
    found = sum(kept.values()) / row.size()
    if checkpointed:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        layers = model.config.num_hidden_layers
        found = found / layers + layers * model.config.hidden_size * model.dtype.itemsize
    return found


def check_room(rows: list[TreeRow], per_token: float, device: torch.device) -> None:
    """Raises TrainingError if the largest row is larger than the memory that is free, naming it and what to set."""
    largest = max(rows, key=lambda row: row.size(), default=TreeRow())
    needed, free = _MARGIN * per_token * largest.size(), free_bytes(device)
    if needed <= free:
        return
    longest = max(largest.branches, key=lambda branch: len(branch.prompt))
    raise TrainingError(
        f"a row of {largest.size()} tokens needs about {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free; "
        f"its longest prompt is {longest.name or 'unnamed'} with {len(longest.prompt)} tokens. Set train.row_tokens to "
        f"{int(free / _MARGIN / per_token)} or less (a single longer step needs data.max_prompt_tokens below that), or "
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


def _left(limit: Path, used: Path) -> float:
    """Of a control group; page cache counts as used there, so this is the careful side."""
    try:
        return float(limit.read_text(encoding="ascii")) - float(used.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return float("inf")
