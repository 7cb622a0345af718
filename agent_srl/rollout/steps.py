"""Single steps: sample G actions at an expert's state, parse and score them. No sandbox is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from agent_srl.data.actions import ActionFormat
from agent_srl.data.render import Renderer
from agent_srl.errors import EngineError, TrainingError
from agent_srl.rewards.kinds import Weights, score
from agent_srl.rewards.parse import parse_reply
from agent_srl.rewards.similarity import INVALID_REWARD
from agent_srl.rollout.engine import Engine, Sampling
from agent_srl.types import Completion, Group, Sample, StepExample

_MAX_FAILURES = 3


class StepSampler:
    """Turns step examples into scored groups."""

    def __init__(
        self,
        engine: Engine,
        renderer: Renderer,
        fmt: ActionFormat,
        *,
        min_thought_words: int = 1,
        reward: str | Weights = "ratio",
    ) -> None:
        self.engine, self.renderer, self.fmt = engine, renderer, fmt
        self.min_thought_words, self.reward = min_thought_words, reward
        self.on_group: Callable[[], None] | None = None
        """Called when a group is sampled and scored."""
        self._failures = 0

    async def groups(
        self, examples: list[StepExample], n: int, sampling: Sampling, places: Sequence[int] | None = None
    ) -> list[Group]:
        """One group per example, in order; each example has its own seed, derived from `sampling.seed` and its
        place: that in `examples`, or in `places` where these are a part of more. The engine is asked by trajectory,
        last steps first, so that what they share is in its cache."""
        order = sorted(range(len(examples)), key=lambda i: (examples[i].instance_id, -examples[i].step))
        seeds = [_nth(sampling, i) for i in (range(len(examples)) if places is None else places)]
        calls = {i: asyncio.ensure_future(self._group(examples[i], n, seeds[i])) for i in order}
        return list(await asyncio.gather(*(calls[i] for i in range(len(examples)))))

    def score(self, completion: Completion, example: StepExample) -> Sample:
        """-1 unless the whole reply is a thought and one action, ended by the end token; else its score in [0, 1]."""
        text = self.renderer.decode(completion.tokens_T)
        parsed = parse_reply(text, self.fmt, min_thought_words=self.min_thought_words) if completion.finished else None
        if parsed is None:
            return Sample(completion, text, "", None, INVALID_REWARD)
        thought, action = parsed
        scored = score(self.reward, action, example.expert)
        return Sample(completion, text, thought, action, scored.value, scored.parts)

    async def _group(self, example: StepExample, n: int, sampling: Sampling) -> Group:
        try:
            completions = await self.engine.generate(example.prompt_P, n, sampling)
        except EngineError as error:
            self._failures += 1
            if self._failures >= _MAX_FAILURES:
                raise TrainingError(f"generation failed {self._failures} times in a row; last: {error}") from error
            nothing = Sample(Completion((), (), False), "", "", None, None)
            return Group(example, (nothing,) * n)
        self._failures = 0
        group = Group(example, await asyncio.to_thread(self._scored, completions, example))
        if self.on_group:
            self.on_group()
        return group

    def _scored(self, completions: list[Completion], example: StepExample) -> tuple[Sample, ...]:
        """In a thread of its own: a long pair takes tens of milliseconds, in which other groups generate."""
        return tuple(self.score(completion, example) for completion in completions)


def _nth(sampling: Sampling, i: int) -> Sampling:
    return Sampling(sampling.temperature, sampling.max_new_tokens, (sampling.seed * 1_000_003 + i) % 2**63)
