"""Token trees: what prompts share is computed once, and every sample hangs off its prompt as a branch.

A row is one tree, laid out flat for one forward pass. Its nodes are stretches of tokens; a node sees the first tokens
of its parent, what those see, and itself, and its positions go on from there. So log-probabilities and gradients equal
those of one dense row per sample (tests hold them equal). Steps of one trajectory fork off one trunk; windows and
budgets share the start of the prompt and fork there; episodes of one task are branches with observations in them.
With `share=False` every sample gets a row of its own: the dense reference. Left out: how attention skips what a token
does not see (`attention`), the output head (`head`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from agent_srl.train.attention import Bundle, Kernel, TreePlan
from agent_srl.train.head import logprobs_and_entropy, of_logits
from agent_srl.train.support import why_dense


@dataclass(frozen=True)
class Branch:
    """A completion to learn from."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    advantage: float
    weight: float
    """Of each of its tokens in the loss."""
    old_logprobs: tuple[float, ...] = ()
    """Of the tokens that are learnt from, under the engine's sampling distribution; empty if unknown."""
    name: str = ""
    """Of its example, for messages."""
    learnt: tuple[bool, ...] = ()
    """Which tokens are learnt from; empty stands for all. Observations within an episode are not."""

    @property
    def count(self) -> int:
        """Tokens that are learnt from."""
        return sum(self.learnt) if self.learnt else len(self.tokens)


@dataclass
class _Node:
    """A stretch of tokens that forks off `parent` after the parent's first `seen` tokens."""

    tokens: tuple[int, ...]
    parent: int
    seen: int
    depth: int
    """Position of its first token."""
    start: int = -1
    """Place of its first token in the row."""


@dataclass
class TreeRow:
    """One forward pass over N unique tokens: prompts first, then each branch without its last token, which is only
    predicted."""

    branches: list[Branch] = field(default_factory=list)
    _nodes: list[_Node] = field(default_factory=list)
    _leaves: list[tuple[int, int, _Node | None]] = field(default_factory=list)
    """Per branch: the node and the number of its tokens where the prompt ends, and the node of its own tokens."""
    _size: int = 0
    _found: tuple[tuple[int, ...], tuple[int, int, int]] = ((), (-1, 0, 0))
    """The prompt that was looked for last, and where it was found: samples of a group come one after the other."""

    def size(self) -> int:
        """N."""
        return self._size

    def cost(self, branch: Branch) -> int:
        """How many tokens the row would grow by."""
        _, _, matched = self._find(branch.prompt)
        return len(branch.prompt) - matched + len(branch.tokens) - 1

    def limit(self, max_tokens: int) -> int:
        """How far the row may grow."""
        return max(max_tokens, len(self.branches[0].prompt) + max_tokens // 2)

    def shares(self, branch: Branch) -> bool:
        """Whether the row already holds the start of the branch's prompt."""
        return self._find(branch.prompt)[2] > 0

    def add(self, branch: Branch) -> None:
        """Hang `branch` into the tree. Raises ValueError if it has no prompt or no token."""
        if not branch.prompt or not branch.tokens:
            raise ValueError("a branch needs a prompt and at least one token")
        place, seen, matched = self._find(branch.prompt)
        self._size += self.cost(branch)
        if matched < len(branch.prompt):
            depth = self._nodes[place].depth + seen if place >= 0 else 0
            self._nodes.append(_Node(branch.prompt[matched:], place, seen, depth))
            place, seen = len(self._nodes) - 1, len(branch.prompt) - matched
            self._found = branch.prompt, (place, seen, len(branch.prompt))
        own = branch.tokens[:-1]
        leaf = _Node(own, place, seen, len(branch.prompt)) if own else None
        self.branches.append(branch)
        self._leaves.append((place, seen, leaf))

    def plan(self, kernel: Kernel | None = None) -> TreePlan:
        """What each stretch of the row sees, for the attention; without `kernel` the device chooses it."""
        return TreePlan(self._size, tuple(self._bundle(nodes) for nodes in self._laid_out()), kernel)

    def input_ids(self) -> torch.Tensor:
        """[1, N]."""
        return torch.tensor([[t for nodes in self._laid_out() for node in nodes for t in node.tokens]])

    def position_ids(self) -> torch.Tensor:
        """[1, N]: each node goes on from where it forks."""
        nodes = [node for nodes in self._laid_out() for node in nodes]
        return torch.cat([node.depth + torch.arange(len(node.tokens)) for node in nodes])[None]

    def predictors(self) -> torch.Tensor:
        """[C]: the places whose output predicts the tokens that are learnt from, branches one after the other."""
        self._laid_out()
        places: list[int] = []
        for branch, (node, seen, leaf) in zip(self.branches, self._leaves, strict=True):
            own = [self._nodes[node].start + seen - 1]
            own += range(leaf.start, leaf.start + len(leaf.tokens)) if leaf else ()
            places += _chosen(own, branch.learnt)
        return torch.tensor(places, dtype=torch.long)

    def targets(self) -> torch.Tensor:
        """[C] token ids."""
        return torch.tensor([t for b in self.branches for t in _chosen(list(b.tokens), b.learnt)], dtype=torch.long)

    def per_token(self, values: list[float]) -> torch.Tensor:
        """[C] from one value per branch."""
        return torch.repeat_interleave(torch.tensor(values), torch.tensor([b.count for b in self.branches]))

    def _find(self, prompt: tuple[int, ...]) -> tuple[int, int, int]:
        """The node where the tree stops telling `prompt`, how many of its tokens are shared, and how many in all."""
        if self._found[0] is not prompt:
            self._found = prompt, self._search(prompt)
        return self._found[1]

    def _search(self, prompt: tuple[int, ...]) -> tuple[int, int, int]:
        node, seen, matched = -1, 0, 0
        while matched < len(prompt):
            children = (i for i, n in enumerate(self._nodes) if (n.parent, n.seen) == (node, seen))
            found = next((i for i in children if self._nodes[i].tokens[0] == prompt[matched]), None)
            if found is None:
                break
            node, seen = found, common_prefix(self._nodes[found].tokens, prompt[matched:])
            matched += seen
        return node, seen, matched

    def _laid_out(self) -> list[list[_Node]]:
        """Nodes in the order of the row; leaves of one fork together. Sets where each starts."""
        forks: dict[tuple[int, int], list[_Node]] = {}
        for node, seen, leaf in self._leaves:
            if leaf is not None:
                forks.setdefault((node, seen), []).append(leaf)
        rows = [[node] for node in self._nodes] + list(forks.values())
        start = 0
        for node_ in (n for nodes in rows for n in nodes):
            node_.start, start = start, start + len(node_.tokens)
        return rows

    def _bundle(self, nodes: list[_Node]) -> Bundle:
        context: list[tuple[int, int]] = []
        parent, seen = nodes[0].parent, nodes[0].seen
        while parent >= 0:
            above = self._nodes[parent]
            if seen:
                context.append((above.start, above.start + seen))
            parent, seen = above.parent, above.seen
        return Bundle(nodes[0].start, tuple(len(n.tokens) for n in nodes), tuple(reversed(context)))


def pack(branches: list[Branch], max_tokens: int, *, share: bool = True) -> list[TreeRow]:
    """Rows of at most `max_tokens` unique tokens; where a prompt alone fills most of them, of that prompt and half of
    `max_tokens` more, so that its samples share it. A longer branch gets a row of its own.

    A tree over the budget is split by steps, longest prompts first: what remains needs less of the trunk.
    """
    rows: list[TreeRow] = []
    for branch in sorted(branches, key=lambda b: -len(b.prompt)):
        fits = [r for r in rows if share and r.shares(branch) and r.size() + r.cost(branch) <= r.limit(max_tokens)]
        row = min(fits, key=lambda r: r.cost(branch), default=None)
        if row is None:
            row = TreeRow()
            rows.append(row)
        row.add(branch)
    return rows


def branch_logprobs(
    model: Any, row: TreeRow, temperature: float, kernel: Kernel | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy [C] of every token that is learnt from. The head runs on their places alone.

    A row of one branch is an ordinary causal row. More go through `kernel` (by default the device's), and need a model
    that `why_dense` has nothing against.
    """
    device = model.device
    ids, places, targets = (x.to(device) for x in (row.input_ids(), row.predictors(), row.targets()))
    if why_dense(model.config):
        if len(row.branches) > 1:
            raise ValueError(f"no token tree for this model: {why_dense(model.config)}")
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=places).logits[0]
        return of_logits(logits, targets, temperature)
    tree: dict[str, Any] = {}
    if len(row.branches) > 1:
        # Masks of four dimensions are passed on as they are; this one is never read.
        passed_on = torch.zeros(1, 1, 1, 1, device=device)
        tree = {"position_ids": row.position_ids().to(device), "attention_mask": passed_on, "tree": row.plan(kernel)}
    hidden = model.base_model(input_ids=ids, use_cache=False, **tree).last_hidden_state[0, places]
    return logprobs_and_entropy(hidden, model.get_output_embeddings().weight, targets, temperature)


def _chosen(values: list[int], learnt: tuple[bool, ...]) -> list[int]:
    return [v for v, keep in zip(values, learnt, strict=True) if keep] if learnt else values


def common_prefix(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Its length, found by halving: comparing whole tuples is fast."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle - 1)
    return low
