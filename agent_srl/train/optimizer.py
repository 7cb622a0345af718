"""AdamW on float32 masters. An update of 3e-5 is below the bfloat16 grid of a typical weight and would vanish in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from agent_srl.train.processes import Processes

_BUCKET = 2**24
"""Gradients sent at once: 64 MB."""


class MasterAdamW:
    """Collects gradients in float32, updates float32 masters and copies them into the model.

    The masters of a float32 model are its own parameters.
    """

    def __init__(self, model: Any, *, lr: float, betas: tuple[float, float], weight_decay: float) -> None:
        self._params = [p for p in model.parameters() if p.requires_grad]
        self._masters = [p if p.dtype == torch.float32 else p.detach().float().clone() for p in self._params]
        self._adamw = torch.optim.AdamW(self._masters, lr=lr, betas=betas, weight_decay=weight_decay)

    def to_come(self) -> int:
        """Bytes that an update has yet to allocate: gradients, and the moments before the first step."""
        moments = 0 if self._adamw.state else 2
        pairs = zip(self._params, self._masters, strict=True)
        return sum((p.nbytes if p is not m else 0) + (1 + moments) * m.nbytes for p, m in pairs)

    def collect(self) -> None:
        """Add the model's gradients to the masters' and clear them; call it after every backward pass."""
        for param, master in zip(self._params, self._masters, strict=True):
            if param is not master and param.grad is not None:
                grad = param.grad.float()
                master.grad = grad if master.grad is None else master.grad.add_(grad)
                param.grad = None

    def reduce(self, processes: Processes) -> None:
        """Sum the gradients over all processes; one that had no row adds zeros."""
        if processes.count == 1:
            return
        for bucket in self._buckets():
            grads = [m.grad if m.grad is not None else torch.zeros_like(m) for m in bucket]
            flat = torch.cat([g.reshape(-1) for g in grads])
            processes.sum_(flat)
            for master, part in zip(bucket, flat.split([m.numel() for m in bucket]), strict=True):
                master.grad = part.view_as(master)

    def clip(self, max_grad_norm: float) -> float:
        """Scale the gradients down to `max_grad_norm`. Returns the norm before."""
        return float(torch.nn.utils.clip_grad_norm_(self._masters, max_grad_norm))

    def step(self, lr: float) -> None:
        """Update, copy into the model, forget the gradients."""
        for group in self._adamw.param_groups:
            group["lr"] = lr
        self._adamw.step()
        self._adamw.zero_grad()
        self._copy_to_model()

    def _buckets(self) -> Iterator[list[torch.Tensor]]:
        bucket: list[torch.Tensor] = []
        for master in self._masters:
            if bucket and sum(m.numel() for m in bucket) + master.numel() > _BUCKET:
                yield bucket
                bucket = []
            bucket.append(master)
        if bucket:
            yield bucket

    def state_dict(self) -> dict[str, Any]:
        return {"masters": [m.detach() for m in self._masters], "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for master, saved in zip(self._masters, state["masters"], strict=True):
                master.copy_(saved)
        self._adamw.load_state_dict(state["adamw"])
        self._copy_to_model()

    @torch.no_grad()
    def _copy_to_model(self) -> None:
        for param, master in zip(self._params, self._masters, strict=True):
            if param is not master:
                param.copy_(master)
