"""Attention over a token tree: each stretch of a row attends to what it sees, and nothing else is computed.

- `sliced` (the default on a CPU): the parts that a stretch sees are attended one by one with the flash kernel and
  merged by their log-normalisers; the backward pass hands the merged ones to the same kernel, which makes each part's
  gradient exact. No mask is built, nothing is copied per sample, and the trunk's gradient is summed in place.
- `masked`: the same slices through the public SDPA with a mask, on any device.
- `flex`: compiled flex attention on CUDA with a block mask that is built from the tree, not by trying all pairs.

The dense reference is no attention of ours: one row per sample (`tree.pack(share=False)`). Left out: sliding windows,
dropout.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

Kernel = Literal["sliced", "masked", "flex"]


def kernel_for(device: str) -> Kernel:
    """The default on a type of device."""
    return "sliced" if device == "cpu" else "flex" if device == "cuda" else "masked"


@dataclass(frozen=True)
class Bundle:
    """Stretches side by side that see the same context and each itself, causally."""

    start: int
    """Place of the first token."""
    sizes: tuple[int, ...]
    """Tokens of each stretch."""
    context: tuple[tuple[int, int], ...]
    """Ranges of places before `start` that all of them see whole."""

    @property
    def stop(self) -> int:
        return self.start + sum(self.sizes)


@dataclass(frozen=True)
class TreePlan:
    """What every token of a row sees. Bundles follow each other and cover the row."""

    size: int
    bundles: tuple[Bundle, ...]
    kernel: Kernel | None = None
    """None chooses by device."""

    def mask(self) -> torch.Tensor:
        """[N, N], True where a query (row) sees a key (column)."""
        mask = torch.zeros(self.size, self.size, dtype=torch.bool)
        for bundle in self.bundles:
            for low, high in bundle.context:
                mask[bundle.start : bundle.stop, low:high] = True
            start = bundle.start
            for size in bundle.sizes:
                mask[start : start + size, start : start + size] = torch.ones(size, size, dtype=torch.bool).tril()
                start += size
        return mask

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        """q [1, heads, N, D], k and v [1, H, N, D] with heads a multiple of H -> [1, N, heads, D]."""
        kernel = self.kernel or kernel_for(q.device.type)
        if kernel == "sliced":
            out = _Sliced.apply(q, k, v, self.bundles, scale)
        elif kernel == "masked":
            out = torch.cat([_masked(q, k, v, bundle, scale) for bundle in self.bundles], dim=2)
        else:
            from agent_srl.train.flex import flex

            out = flex(q, k, v, self, scale)
        return out.transpose(1, 2)


def _masked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bundle: Bundle, scale: float) -> torch.Tensor:
    ranges = [*bundle.context, (bundle.start, bundle.stop)]
    keys, values = (torch.cat([x[:, :, low:high] for low, high in ranges], dim=2) for x in (k, v))
    own = torch.block_diag(*(torch.ones(n, n, device=q.device).tril() for n in bundle.sizes)).bool()
    mask = pad(own, (keys.shape[2] - own.shape[1], 0), value=True)
    queries = q[:, :, bundle.start : bundle.stop]
    return scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scale, enable_gqa=True)


class _Sliced(torch.autograd.Function):  # type: ignore[misc]
    """Flash attention by parts. The kernel is torch's own for CPUs, which also gives the log-normalisers."""

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bundles: tuple[Bundle, ...], scale: float
    ) -> torch.Tensor:
        out = torch.empty_like(q)
        norms = q.new_empty(q.shape[:3], dtype=torch.promote_types(q.dtype, torch.float32))
        for bundle in bundles:
            place = slice(bundle.start, bundle.stop)
            merged: tuple[torch.Tensor, torch.Tensor] | None = None
            for part in _parts(bundle, q.shape[1] // k.shape[1]):
                found, norm = _FLASH(part.queries(q), part.keys(k), part.keys(v), 0.0, part.causal, scale=scale)
                merged = _merge(merged, part.back(found), part.back(norm[..., None])[..., 0])
            assert merged is not None
            out[:, :, place], norms[:, :, place] = merged
        ctx.save_for_backward(q, k, v, out, norms)
        ctx.bundles, ctx.scale = bundles, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None, None]:
        q, k, v, out, norms = ctx.saved_tensors
        grad_q, grad_k, grad_v = (torch.zeros_like(x, dtype=norms.dtype) for x in (q, k, v))
        for bundle in ctx.bundles:
            for part in _parts(bundle, q.shape[1] // k.shape[1]):
                of_q, of_k, of_v = _FLASH_BACKWARD(
                    part.queries(grads[0]),
                    part.queries(q),
                    part.keys(k),
                    part.keys(v),
                    part.queries(out),
                    part.queries(norms[..., None])[..., 0],
                    0.0,
                    part.causal,
                    scale=ctx.scale,
                )
                grad_q[:, :, bundle.start : bundle.stop] += part.back(of_q)
                part.add_keys(grad_k, of_k)
                part.add_keys(grad_v, of_v)
        return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype), None, None


_FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FLASH_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def _merge(
    so_far: tuple[torch.Tensor, torch.Tensor] | None, out: torch.Tensor, norm: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention over two sets of keys from the attention over each, by log-normalisers."""
    if so_far is None:
        return out, norm
    both = torch.logaddexp(so_far[1], norm)
    return so_far[0] * torch.exp(so_far[1] - both)[..., None] + out * torch.exp(norm - both)[..., None], both


@dataclass(frozen=True)
class _Context:
    """A bundle's queries on one range of keys that all of them see: heads that share a key head become queries of it,
    so no key is copied."""

    bundle: Bundle
    low: int
    high: int
    shared: int
    causal = False

    def queries(self, x: torch.Tensor) -> torch.Tensor:
        """[1, heads, N, D] -> [1, H, shared * S, D]."""
        return x[:, :, self.bundle.start : self.bundle.stop].unflatten(1, (-1, self.shared)).flatten(2, 3)

    def back(self, x: torch.Tensor) -> torch.Tensor:
        """The inverse: -> [1, heads, S, D]."""
        return x.unflatten(2, (self.shared, -1)).flatten(1, 2)

    def keys(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, self.low : self.high]

    def add_keys(self, total: torch.Tensor, grad: torch.Tensor) -> None:
        total[:, :, self.low : self.high] += grad


@dataclass(frozen=True)
class _Own:
    """Each stretch of a bundle on itself, causally: a batch, padded at the end, where no query of a shorter one
    looks."""

    bundle: Bundle
    shared: int
    causal = True

    def queries(self, x: torch.Tensor) -> torch.Tensor:
        """[1, heads, N, D] -> [G * shared, H, L, D]."""
        return self._batch(x).unflatten(1, (-1, self.shared)).transpose(1, 2).flatten(0, 1)

    def back(self, x: torch.Tensor) -> torch.Tensor:
        """The inverse: -> [1, heads, S, D]."""
        return self._flat(x.unflatten(0, (-1, self.shared)).transpose(1, 2).flatten(1, 2))

    def keys(self, x: torch.Tensor) -> torch.Tensor:
        """[1, H, N, D] -> [G * shared, H, L, D]."""
        return self._batch(x)[:, None].expand(-1, self.shared, -1, -1, -1).flatten(0, 1)

    def add_keys(self, total: torch.Tensor, grad: torch.Tensor) -> None:
        total[:, :, self.bundle.start : self.bundle.stop] += self._flat(grad.unflatten(0, (-1, self.shared)).sum(1))

    def _batch(self, x: torch.Tensor) -> torch.Tensor:
        own, sizes = x[:, :, self.bundle.start : self.bundle.stop], self.bundle.sizes
        longest = max(sizes)
        if min(sizes) == longest:
            return own.unflatten(2, (len(sizes), longest))[0].transpose(0, 1)
        return torch.cat([pad(part, (0, 0, 0, longest - part.shape[2])) for part in own.split(list(sizes), 2)])

    def _flat(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([part[None, :, :size] for part, size in zip(x, self.bundle.sizes, strict=True)], dim=2)


def _parts(bundle: Bundle, shared: int) -> Iterator[_Context | _Own]:
    yield _Own(bundle, shared)
    for low, high in bundle.context:
        yield _Context(bundle, low, high, shared)
