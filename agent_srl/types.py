"""The shapes that flow through the trainer. Dimension letters in names: B groups, G samples of a group, T tokens, P
prompt."""

from __future__ import annotations

from dataclasses import dataclass, field

from env_server.schema import Action


@dataclass(frozen=True)
class StepExample:
    """A context and the expert's action there. Source: SRL, arXiv 2510.25992, section 4.2."""

    example_id: str
    """`<instance_id>#<step index>`."""
    repo: str
    instance_id: str
    step: int
    prompt_P: tuple[int, ...]
    """Token ids up to and including the generation prompt; an exact prefix of the trajectory's tokens."""
    expert: Action
    target_T: tuple[int, ...]
    """Token ids of the expert's reply (thought, action, end of turn)."""
    labels_P: tuple[int, ...]
    """`prompt_P` where an earlier expert reply stands that may be learnt from, -100 elsewhere."""
    previous: Action | None
    """The expert's last action before this one."""
    action_start: int = 0
    """Where the action begins in `target_T`, after the thought."""


@dataclass(frozen=True)
class Completion:
    """Tokens that an engine generated, with their log-probabilities under the sampling distribution."""

    tokens_T: tuple[int, ...]
    logprobs_T: tuple[float, ...]
    finished: bool
    """Ended with the end token, not cut at the limit."""


@dataclass(frozen=True)
class Sample:
    """One completion of a step example, parsed and scored."""

    completion: Completion
    text: str
    thought: str
    action: Action | None
    """None if the format was broken."""
    reward: float | None
    """In [0, 1], or -1 for a broken format; None if infrastructure failed: masked, never scored."""
    parts: dict[str, float] = field(default_factory=dict)
    """What the reward is made of, each in [0, 1]; empty for a broken format."""


@dataclass(frozen=True)
class Group:
    """G samples of one example; the unit that is filtered, normalised and trained on."""

    example: StepExample
    samples: tuple[Sample, ...] = field(default_factory=tuple)
