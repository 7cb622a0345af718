"""What is computed: trajectories of random tokens cut into steps, samples at each step, and the FLOPs of both schemes.

Nothing here needs torch.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

SPECIAL = 3
"""Ids 0 to 2 are padding, end and unknown; they are in no prompt and no sample."""


@dataclass(frozen=True)
class ModelShape:
    """A Qwen2 with random weights."""

    vocabulary: int = 8000
    hidden: int = 256
    intermediate: int = 640
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2

    def kwargs(self) -> dict[str, int | bool]:
        """Of `Qwen2Config`."""
        return {
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "max_position_embeddings": 65536,
            "tie_word_embeddings": True,
        }


@dataclass(frozen=True)
class Shape:
    """`trees` trajectories of `trunk` tokens with `steps` targets each, `samples` of `new` tokens at every one."""

    trunk: int = 4000
    steps: int = 10
    samples: int = 8
    new: int = 100
    trees: int = 1

    @property
    def rows(self) -> int:
        return self.trees * self.steps * self.samples

    def prompt_lengths(self) -> list[int]:
        """Of one trajectory: evenly spread from a quarter of the trunk, where the problem ends, to its end."""
        if self.steps == 1:
            return [self.trunk]
        first = self.trunk // 4
        return [first + k * (self.trunk - first) // (self.steps - 1) for k in range(self.steps)]

    def prompts(self, vocabulary: int, seed: int) -> list[tuple[int, ...]]:
        """One per step, steps of a trajectory one after the other, each a prefix of the next."""
        draw = random.Random(f"prompts {seed}")
        found = []
        for _ in range(self.trees):
            trunk = tuple(draw.randrange(SPECIAL, vocabulary) for _ in range(self.trunk))
            found += [trunk[:length] for length in self.prompt_lengths()]
        return found

    def completions(self, vocabulary: int, seed: int) -> list[tuple[int, ...]]:
        """`samples` for every prompt, in the order of `prompts`."""
        draw = random.Random(f"completions {seed}")
        return [tuple(draw.randrange(SPECIAL, vocabulary) for _ in range(self.new)) for _ in range(self.rows)]

    def rewards(self, seed: int) -> list[float]:
        """One per completion."""
        draw = random.Random(f"rewards {seed}")
        return [draw.random() for _ in range(self.rows)]


@dataclass(frozen=True)
class Work:
    """What one forward pass computes."""

    tokens: int
    pairs: int
    """Of a query and a key that it sees."""
    predictions: int
    """Positions that the output head is needed at."""

    def flops(self, model: ModelShape, *, backward: bool = True) -> float:
        """Multiply-adds count two; a backward pass costs two forward passes."""
        kv = model.hidden * model.kv_heads // model.heads
        layer = 2 * (2 * model.hidden**2 + 2 * model.hidden * kv + 3 * model.hidden * model.intermediate)
        forward = model.layers * (self.tokens * layer + self.pairs * 4 * model.hidden)
        forward += self.predictions * 2 * model.hidden * model.vocabulary
        return float(forward * (3 if backward else 1))


def tree_work(shape: Shape) -> Work:
    """Every token once; the last token of a sample is only predicted."""
    own = shape.new - 1
    branches = [shape.samples * (own * length + own * (own + 1) // 2) for length in shape.prompt_lengths()]
    tokens = shape.trunk + shape.steps * shape.samples * own
    pairs = shape.trunk * (shape.trunk + 1) // 2 + sum(branches)
    return Work(shape.trees * tokens, shape.trees * pairs, shape.rows * shape.new)


def dense_work(shape: Shape) -> Work:
    """One row per sample, without padding."""
    rows = [length + shape.new - 1 for length in shape.prompt_lengths()]
    each = shape.trees * shape.samples
    return Work(each * sum(rows), each * sum(n * (n + 1) // 2 for n in rows), shape.rows * shape.new)


def flops_saved(shape: Shape, model: ModelShape) -> float:
    """FLOPs of one unpadded row per sample over those of the trees; the head on samples alone in both."""
    return dense_work(shape).flops(model) / tree_work(shape).flops(model)
