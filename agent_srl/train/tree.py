"""Token trees: prompts that share a prefix are computed once, and every sample hangs off the trunk as a branch.

A row is a trunk and branches. A branch starts after its own number of trunk tokens, sees those and itself, and its
positions
go on from there, so log-probabilities and gradients equal those of one dense row per sample (a test holds them
equal). With
`share=False` each sample gets its own row: that is the dense reference. Left out: attention that skips masked blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Branch:
    """A completion to learn from."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    advantage: float
    weight: float
    """Of each of its tokens in the loss."""


@dataclass
class TreeRow:
    """One forward pass. N tokens: the trunk, then each branch without its last token, which is only predicted."""

    trunk: tuple[int, ...]
    branches: list[Branch] = field(default_factory=list)

    def size(self) -> int:
        return len(self.trunk) + sum(len(b.tokens) - 1 for b in self.branches)

    def input_ids(self) -> torch.Tensor:
        """[1, N]."""
        ids = list(self.trunk)
        for branch in self.branches:
            ids += branch.tokens[:-1]
        return torch.tensor([ids])

    def position_ids(self) -> torch.Tensor:
        """[1, N]: branches go on from where they leave the trunk."""
        parts = [torch.arange(len(self.trunk))]
        parts += [len(b.prompt) + torch.arange(len(b.tokens) - 1) for b in self.branches]
        return torch.cat(parts)[None]

    def mask(self) -> torch.Tensor:
        """[1, 1, N, N], True where a query (row) sees a key (column)."""
        n, size = len(self.trunk), self.size()
        mask = torch.zeros(size, size, dtype=torch.bool)
        mask[:n, :n] = torch.ones(n, n, dtype=torch.bool).tril()
        start = n
        for branch in self.branches:
            own = len(branch.tokens) - 1
            mask[start : start + own, : len(branch.prompt)] = True
            mask[start : start + own, start : start + own] = torch.ones(own, own, dtype=torch.bool).tril()
            start += own
        return mask[None, None]

    def predictors(self) -> torch.Tensor:
        """[C]: the position whose output predicts each branch token, branches one after the other."""
        places, start = [], len(self.trunk)
        for branch in self.branches:
            own = len(branch.tokens) - 1
            places += [len(branch.prompt) - 1, *range(start, start + own)]
            start += own
        return torch.tensor(places)

    def targets(self) -> torch.Tensor:
        """[C] token ids."""
        return torch.tensor([t for b in self.branches for t in b.tokens])

    def per_token(self, values: list[float]) -> torch.Tensor:
        """[C] from one value per branch."""
        lengths = torch.tensor([len(b.tokens) for b in self.branches])
        return torch.repeat_interleave(torch.tensor(values), lengths)


def pack(branches: list[Branch], max_tokens: int, *, share: bool = True) -> list[TreeRow]:
    """Rows of at most `max_tokens` unique tokens; a single branch longer than that still gets a row of its own."""
    rows: list[TreeRow] = []
    for branch in sorted(branches, key=lambda b: -len(b.prompt)):
        fits = (r for r in rows if r.size() + len(branch.tokens) - 1 <= max_tokens)
        row = next((r for r in fits if share and r.trunk[: len(branch.prompt)] == branch.prompt), None)
        if row is None:
            row = TreeRow(branch.prompt)
            rows.append(row)
        row.branches.append(branch)
    return rows


def branch_logprobs(model: Any, row: TreeRow, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy [C] of every branch token. The head runs on branch positions alone."""
    device = model.device
    hidden = model.base_model(
        input_ids=row.input_ids().to(device),
        position_ids=row.position_ids().to(device),
        attention_mask=row.mask().to(device),
        use_cache=False,
    ).last_hidden_state[0]
    logits = model.get_output_embeddings()(hidden[row.predictors().to(device)]).float() / temperature
    logprobs = torch.log_softmax(logits, dim=-1)
    with torch.no_grad():
        entropy = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(1, row.targets().to(device)[:, None]).squeeze(1), entropy
