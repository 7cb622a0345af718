"""What one measurement is, and the clock that takes it."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.train_update.shapes import ModelShape, Shape

Arm = Literal["tree", "thrifty", "dense", "trl", "trl_thrifty"]
"""Ours as trees in one pass, as trees in passes of `THRIFTY_TOKENS` with activations computed again, one row per
sample; TRL, and TRL with activations computed again (gradient checkpointing, its default)."""
Task = Literal["update", "sample"]

ROW_TOKENS, THRIFTY_TOKENS = 16384, 6144
"""Unique tokens of a forward pass (`train.row_tokens`)."""
LR, CLIP, MAX_GRAD_NORM = 1e-5, 0.2, 1.0


@dataclass(frozen=True)
class Job:
    """`update`: forward, backward and optimizer step on given rows. `sample`: generation and reward of as many."""

    arm: Arm
    task: Task
    shape: Shape
    model: ModelShape
    micro_batch: int = 1
    """Of TRL."""
    threads: int = 0
    seed: int = 0

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        data = json.loads(text)
        return cls(**data | {"shape": Shape(**data["shape"]), "model": ModelShape(**data["model"])})


class Clock:
    """Seconds between two marks, CPU of the whole process and wall."""

    def __init__(self) -> None:
        self._begun = (0.0, 0.0)
        self.cpu = self.wall = 0.0

    def start(self) -> None:
        self._begun = (time.process_time(), time.monotonic())

    def stop(self) -> None:
        self.cpu, self.wall = time.process_time() - self._begun[0], time.monotonic() - self._begun[1]


def word(token: int) -> str:
    return f"w{token}"


def text(tokens: tuple[int, ...]) -> str:
    """What the benchmark's tokenizer reads as `tokens`."""
    return " ".join(word(t) for t in tokens)


def load_tokenizer(folder: Path) -> Any:
    """One word per id. By its class: AutoTokenizer would rebuild it as Qwen2's."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(folder)
