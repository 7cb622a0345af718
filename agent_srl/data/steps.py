"""Trajectories to step examples: the expert's prefix as context, its next action as target (arXiv 2510.25992, 4.2).

Which steps are targets is explicit: rejected ones never, the first and last by config, too long ones are dropped
and counted.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from agent_srl.config import DataConfig
from agent_srl.data.actions import ActionFormat
from agent_srl.data.render import Renderer, Segment
from agent_srl.rewards.parse import write_reply
from agent_srl.types import StepExample
from env_server.schema import Step, Trajectory

IGNORE = -100


@dataclass
class StepData:
    """Step examples and why the other steps are none."""

    examples: list[StepExample] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)


class StepBuilder:
    """Cuts and renders trajectories for one tokenizer and one config."""

    def __init__(self, renderer: Renderer, fmt: ActionFormat, config: DataConfig) -> None:
        self.renderer, self.fmt, self.config = renderer, fmt, config

    def build(self, trajectories: list[Trajectory], on_progress: Callable[[], None] | None = None) -> StepData:
        """All step examples, in order."""
        data = StepData()
        for trajectory in trajectories:
            self._cut(trajectory, data)
            if on_progress:
                on_progress()
        return data

    def turns(self, problem: str, steps: list[Step]) -> list[str]:
        """User, reply, user, ... as the model sees them: everything clipped once, by a static rule."""
        turns = [self.renderer.clip(problem, self.config.problem_tokens)]
        for step in steps:
            turns += [self._reply(step), self.observation(step.observation)]
        return turns

    def observation(self, text: str) -> str:
        """An observation as a user's turn; an empty one says so, since templates trim or refuse empty messages."""
        return self.renderer.clip(text.strip(), self.config.observation_tokens) or "(no output)"

    def prompt(self, turns: list[str]) -> list[Segment]:
        """Segments before the next reply. `turns` ends with a user's turn."""
        if self.config.context == "window":
            turns = turns[:1] + turns[1:][-2 * self.config.rounds :]
        return self.renderer.segments(self.fmt.system_prompt, turns)

    def _cut(self, trajectory: Trajectory, data: StepData) -> None:
        turns = self.turns(trajectory.problem_statement, trajectory.steps)
        whole = self.renderer.segments(self.fmt.system_prompt, turns) if self.config.context == "full" else []
        for k, step in enumerate(trajectory.steps):
            reason = self._not_a_target(k, step, len(trajectory.steps))
            if reason is None:
                segments = whole[: 2 * k + 1] if whole else self.prompt(turns[: 2 * k + 1])
                reason = self._add(trajectory, k, segments, data)
            if reason is not None:
                data.dropped[reason] += 1

    def _not_a_target(self, k: int, step: Step, count: int) -> str | None:
        if step.rejected:
            return step.rejected
        if k == 0 and not self.config.first_step:
            return "first step"
        if k == count - 1 and not self.config.last_step:
            return "last step"
        return None

    def _add(self, trajectory: Trajectory, k: int, segments: list[Segment], data: StepData) -> str | None:
        step = trajectory.steps[k]
        assert step.action is not None, "a step without an action is no target"
        thought = self._thought(step)
        target = tuple(self.renderer.encode(write_reply(thought, step.action, self.fmt) + self.renderer.eos))
        prompt = tuple(token for s in segments for token in s.tokens)
        if len(target) > self.config.max_target_tokens:
            return "reply too long"
        if len(prompt) > self.config.max_prompt_tokens:
            return "prompt too long"
        shown = trajectory.steps[k - (len(segments) // 2) : k]
        data.examples.append(
            StepExample(
                example_id=f"{trajectory.instance_id}#{k}",
                repo=trajectory.repo,
                instance_id=trajectory.instance_id,
                step=k,
                prompt_P=prompt,
                expert=step.action,
                target_T=target,
                labels_P=self._labels(segments, shown),
                previous=trajectory.steps[k - 1].action if k else None,
            )
        )
        return None

    def _labels(self, segments: list[Segment], shown: list[Step]) -> tuple[int, ...]:
        labels: list[int] = []
        for i, segment in enumerate(segments):
            learnt = segment.is_reply and shown[i // 2].is_target and not self._clipped(shown[i // 2])
            labels += segment.tokens if learnt else [IGNORE] * len(segment.tokens)
        return tuple(labels)

    def _thought(self, step: Step) -> str:
        # A thought that held a tag would end the thought early when the reply is parsed back.
        thought = step.thought.replace("<think>", "").replace("</think>", "")
        return self.renderer.clip_words(" ".join(thought.split()), self.config.thought_tokens) or "Continue."

    def _clipped(self, step: Step) -> bool:
        text = self.fmt.write(step.action) if step.action is not None else ""
        return self.renderer.clip(text, self.config.action_tokens) != text

    def _reply(self, step: Step) -> str:
        if step.action is None:
            return self._thought(step)
        reply = write_reply(self._thought(step), step.action, self.fmt)
        if not self._clipped(step):
            return reply
        return f"<think>{self._thought(step)}</think>\n" + self.renderer.clip(
            self.fmt.write(step.action), self.config.action_tokens
        )


def split(trajectories: list[Trajectory], config: DataConfig, seed: int) -> tuple[list[Trajectory], list[Trajectory]]:
    """Training and held-out trajectories. By repository none is on both sides; with one repository, by trajectory."""
    by_repo = config.split_by == "repo" and len({t.repo for t in trajectories}) > 1

    def key(t: Trajectory) -> str:
        return t.repo if by_repo else t.instance_id

    if by_repo and config.heldout_repos:
        held = set(config.heldout_repos)
    else:
        counts = Counter(key(t) for t in trajectories)
        names, held, total = sorted(counts), set[str](), 0
        random.Random(seed).shuffle(names)
        for name in names[:-1]:
            if total >= config.heldout_fraction * len(trajectories):
                break
            held.add(name)
            total += counts[name]
    return [t for t in trajectories if key(t) not in held], [t for t in trajectories if key(t) in held]
