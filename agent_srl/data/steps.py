"""Trajectories to step examples: the expert's prefix as context, its next action as target (arXiv 2510.25992, 4.2).

Which steps are targets is explicit: rejected ones never, the first and last by config, too long ones are dropped
and counted.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache

from agent_srl.config import DataConfig
from agent_srl.data.actions import ActionFormat, HermesFormat
from agent_srl.data.contexts import Round, Size, fit, window
from agent_srl.data.render import Renderer, Segment, UnstableText
from agent_srl.data.tool_calls import prove_tool_calls
from agent_srl.errors import DataError
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
        """Raises DataError if the model's template writes tool calls otherwise than `fmt`."""
        self.renderer, self.fmt, self.config = renderer, fmt, config
        if isinstance(fmt, HermesFormat):
            prove_tool_calls(renderer, fmt)

    def build(self, trajectories: list[Trajectory], on_progress: Callable[[], None] | None = None) -> StepData:
        """All step examples, in order."""
        data = StepData()
        for trajectory in trajectories:
            self._cut(trajectory, data)
            if on_progress:
                on_progress()
        return data

    def problem(self, text: str) -> str:
        """The problem statement as the model sees it."""
        return self.renderer.clip(text, self.config.problem_tokens)

    def round(self, reply: str, observation: str) -> Round:
        """A reply and what came back, clipped once by a static rule. An empty observation says so, since templates
        trim or refuse empty messages."""
        text = observation.strip()
        shown = self.renderer.clip(text, self.config.observation_tokens) or "(no output)"
        return Round(reply, shown, f"[{len(text)} characters of output left out]")

    def rounds(self, steps: list[Step]) -> list[Round]:
        """The expert's rounds."""
        return [self._round(step) for step in steps]

    def prompt(self, problem: str, rounds: list[Round]) -> list[Segment]:
        """Segments before the next reply, after what the context shows of `rounds`: always a tail of them.

        Raises:
            UnstableText: the template does not keep the text as it is.
        """
        if self.config.context == "window":
            rounds = window(rounds, self.config.rounds)
        elif self.config.context == "budget":
            rounds = self._fit(problem, rounds)
        return self.renderer.segments(self.fmt.system_prompt, self._turns(problem, rounds))

    def _turns(self, problem: str, rounds: list[Round]) -> list[str]:
        return [problem] + [turn for r in rounds for turn in (r.reply, self.fmt.observe(r.observation))]

    def _fit(self, problem: str, rounds: list[Round]) -> list[Round]:
        system = self.fmt.system_prompt
        whole = self.renderer.sizes(system, self._turns(problem, rounds))
        short = self.renderer.sizes(system, self._turns(problem, [r.elided() for r in rounds]))
        sizes = [Size(whole[i], whole[i + 1], short[i + 1]) for i in range(1, len(whole), 2)]
        return fit(rounds, sizes, self.config.budget_tokens - whole[0])

    def _cut(self, trajectory: Trajectory, data: StepData) -> None:
        problem, rounds = self.problem(trajectory.problem_statement), self.rounds(trajectory.steps)
        whole = cache(lambda: self.prompt(problem, rounds))
        for k, step in enumerate(trajectory.steps):
            reason = self._not_a_target(k, step, len(trajectory.steps))
            if reason is None:
                try:
                    full = self.config.context == "full"
                    segments = whole()[: 2 * k + 1] if full else self.prompt(problem, rounds[:k])
                    reason = self._add(trajectory, k, segments, rounds, data)
                except UnstableText:
                    reason = "text that the chat template changes"
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

    def _add(
        self, trajectory: Trajectory, k: int, segments: list[Segment], rounds: list[Round], data: StepData
    ) -> str | None:
        step = trajectory.steps[k]
        call = self._exact(step)
        if step.action is None or call is None:
            return f"no exact text in the format {self.fmt.name}"
        target, action_start = self._target(step, call)
        prompt = tuple(token for s in segments for token in s.tokens)
        if len(target) > self.config.max_target_tokens:
            return "reply too long"
        if len(prompt) > (self.config.budget_tokens or self.config.max_prompt_tokens):
            return "prompt too long"
        data.examples.append(
            StepExample(
                example_id=f"{trajectory.instance_id}#{k}",
                repo=trajectory.repo,
                instance_id=trajectory.instance_id,
                step=k,
                prompt_P=prompt,
                expert=step.action,
                target_T=target,
                labels_P=_labels(segments, rounds[k - len(segments) // 2 : k]),
                previous=trajectory.steps[k - 1].action if k else None,
                action_start=action_start,
            )
        )
        return None

    def _round(self, step: Step) -> Round:
        if step.action is None:
            return self.round(self._thought(step), step.observation)
        shown = self.fmt.show(step.action)
        call = self.renderer.clip(shown, self.config.action_tokens)
        learnt = step.is_target and call == shown and self._exact(step) is not None
        return replace(self.round(self.renderer.reply(self._thought(step), call), step.observation), learnt=learnt)

    def _target(self, step: Step, call: str) -> tuple[tuple[int, ...], int]:
        """Tokens of the reply with its end token, and where those of its action begin."""
        thought = self._thought(step)
        target = self.renderer.encode(self.renderer.reply(thought, call) + self.renderer.eos)
        before = self.renderer.encode(self.renderer.reply(thought, ""))
        start = next((i for i, pair in enumerate(zip(before, target, strict=False)) if pair[0] != pair[1]), len(before))
        return tuple(target), start

    def _exact(self, step: Step) -> str | None:
        """The call as text that reads back as the same action, if there is such a text without the end token."""
        try:
            text = self.fmt.write(step.action) if step.action is not None else None
        except DataError:
            return None
        return text if text and self.renderer.eos not in text else None

    def _thought(self, step: Step) -> str:
        # A thought that held one of these would end early when the reply is parsed back.
        thought = step.thought
        for mark in ("<think>", "</think>", self.renderer.eos):
            thought = thought.replace(mark, "")
        return self.renderer.clip_words(" ".join(thought.split()), self.config.thought_tokens) or "Continue."


def _labels(segments: list[Segment], shown: list[Round]) -> tuple[int, ...]:
    labels: list[int] = []
    for i, segment in enumerate(segments):
        learnt = segment.is_reply and shown[i // 2].learnt
        labels += segment.tokens if learnt else [IGNORE] * len(segment.tokens)
    return tuple(labels)


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
