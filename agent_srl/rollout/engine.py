"""The protocol of a generation engine. Asynchronous; batching happens inside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from agent_srl.types import Completion


@dataclass(frozen=True)
class Sampling:
    """How to generate."""

    temperature: float = 1.0
    """0 is greedy."""
    max_new_tokens: int = 72
    seed: int = 0
    """Same seed, prompt and batch, same tokens."""


class Engine(Protocol):
    """Generates completions from token ids."""

    async def generate(self, prompt_P: tuple[int, ...], n: int, sampling: Sampling) -> list[Completion]:
        """`n` completions of one prompt. Calls made at the same time are batched.

        Raises:
            EngineError: generation failed; nothing can be said about the policy.
        """
        ...

    async def update_weights(self, model: Any) -> None:
        """Generate with `model`'s weights from now on. Where several processes train, each of them calls it."""
        ...

    async def sleep(self) -> None:
        """Free what is not needed until the next call, because the model is trained now."""
        ...

    async def close(self) -> None:
        """Free what it holds."""
        ...
