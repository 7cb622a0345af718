"""What is in a file of trajectories: counts, lengths, rejected steps, duplicates, benchmark instances.

It reads, masks and leaves out by the same code as training (`formats`, `curate`). Training then also drops replies that
are too long for its budget of tokens or whose exact text cannot be rendered, which only its tokenizer can tell.

Targets and rejected steps add up to the steps; turns are fewer where a turn held several calls. Records are looked at
one by one and let go, so that a file may be larger than memory.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from agent_srl.config import DataConfig
from agent_srl.data.benchmark import Benchmark
from agent_srl.data.curate import action_text, left_out, mask
from agent_srl.data.formats import Record, Rejected
from env_server.schema import Action, Trajectory

PARTS = ("thought", "action", "observation", "trajectory")
TOKEN_SAMPLE = 64
"""Trajectories whose tokens are counted, drawn with a fixed seed."""
_NAMED = 20
"""Duplicates, instances and skipped records that are named; all are counted."""

CountTokens = Callable[[str], int]
Lengths = dict[str, list[int]]


def _no_lengths() -> Lengths:
    return {part: [] for part in PARTS}


@dataclass
class Audit:
    """The findings. Lengths are kept whole, for histograms; `to_json` gives their quantiles."""

    rule: str
    """By which benchmark instances were told."""
    formats: Counter[str] = field(default_factory=Counter)
    instances: Counter[str] = field(default_factory=Counter)
    resolved: Counter[str] = field(default_factory=Counter)
    turns: int = 0
    steps: list[int] = field(default_factory=list)
    """Of each trajectory."""
    targets: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    tools: Counter[str] = field(default_factory=Counter)
    first_words: Counter[str] = field(default_factory=Counter)
    characters: Lengths = field(default_factory=_no_lengths)
    tokens: Lengths = field(default_factory=_no_lengths)
    tokenizer: str = ""
    on_benchmark: Counter[str] = field(default_factory=Counter)
    excluded: int = 0
    trained: int = 0
    trained_targets: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    skipped: list[Rejected] = field(default_factory=list)
    runs: dict[str, list[str]] = field(default_factory=dict)
    """The instances of the trajectories with one fingerprint."""
    sample: list[Trajectory] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """One JSON object: everything that the report says."""
        names = dict(self.formats.most_common())
        doubles = [instances for instances in self.runs.values() if len(instances) > 1]
        return {
            "format": next(iter(names)) if len(names) == 1 else names,
            "trajectories": len(self.steps),
            "instances": len(self.instances),
            "turns": self.turns,
            "steps": sum(self.steps),
            "targets": self.targets,
            "rejected": dict(self.rejected.most_common()),
            "resolved": dict(self.resolved),
            "tools": dict(self.tools.most_common()),
            "first_words": dict(self.first_words.most_common(_NAMED)),
            "characters": {part: quantiles(values) for part, values in self.characters.items()},
            "tokens": {p: quantiles(values) for p, values in self.tokens.items()} if self.tokenizer else None,
            "tokenizer": {"name": self.tokenizer, "trajectories": len(self.sample)} if self.tokenizer else None,
            "duplicates": {"trajectories": sum(len(group) - 1 for group in doubles), "groups": doubles[:_NAMED]},
            "benchmark": {
                "rule": self.rule,
                "trajectories": self.on_benchmark.total(),
                "instances": sorted(self.on_benchmark)[:_NAMED],
                "excluded": self.excluded,
            },
            "training": {
                "trajectories": self.trained,
                "targets": self.trained_targets,
                "left_out": dict(self.left_out),
            },
            "skipped": {"records": len(self.skipped), "first": [str(record) for record in self.skipped[:_NAMED]]},
        }


def audit(records: Iterable[Record | Rejected], config: DataConfig) -> Audit:
    """Findings on everything that could be read. Raises DataError where a benchmark list cannot be read."""
    benchmark = Benchmark(config.benchmark_lists)
    found, rng = Audit(benchmark.rule), random.Random(0)
    for record in records:
        if isinstance(record, Rejected):
            found.skipped.append(record)
            continue
        trajectory = mask(record.trajectory, config)
        if benchmark.holds(trajectory.instance_id):
            found.on_benchmark[trajectory.instance_id] += 1
            if config.exclude_benchmark:
                found.excluded += 1
                continue
        found.formats[record.format] += 1
        _count(trajectory, found)
        _train(trajectory, left_out(trajectory, config, benchmark), found)
        _draw(trajectory, found, rng)
    return found


def count_tokens(found: Audit, name: str, count: CountTokens) -> None:
    """Adds lengths in tokens, of the sample."""
    found.tokenizer = name
    for trajectory in found.sample:
        _measure(trajectory, count, found.tokens)


def quantiles(values: list[int]) -> dict[str, int]:
    """p10, p50, p90 and the largest (nearest rank); empty of nothing."""
    ordered = sorted(values)
    if not ordered:
        return {}
    at = {f"p{q}": ordered[min(len(ordered) - 1, len(ordered) * q // 100)] for q in (10, 50, 90)}
    return at | {"max": ordered[-1]}


def first_word(action: Action) -> str:
    """The program that a command starts, the editor's command, or the name of the tool."""
    command = str(action.arguments.get("command", "")).split()
    if action.name == "submit" or not command:
        return action.name
    return command[0] if len(action.arguments) == 1 else f"{action.name}:{command[0]}"


def _count(trajectory: Trajectory, found: Audit) -> None:
    actions = [step.action for step in trajectory.steps if step.action is not None]
    found.instances[trajectory.instance_id] += 1
    found.resolved["unknown" if trajectory.resolved is None else "yes" if trajectory.resolved else "no"] += 1
    found.steps.append(len(trajectory.steps))
    found.turns += sum(not step.same_turn for step in trajectory.steps)
    found.targets += sum(step.is_target for step in trajectory.steps)
    found.rejected.update(step.rejected for step in trajectory.steps if step.rejected)
    found.tools.update(action.name for action in actions)
    found.first_words.update(first_word(action) for action in actions)
    found.runs.setdefault(_fingerprint(trajectory), []).append(trajectory.instance_id)
    _measure(trajectory, len, found.characters)


def _train(trajectory: Trajectory, reason: str, found: Audit) -> None:
    if reason:
        found.left_out[reason] += 1
    else:
        found.trained += 1
        found.trained_targets += sum(step.is_target for step in trajectory.steps)


def _draw(trajectory: Trajectory, found: Audit, rng: random.Random) -> None:
    """Reservoir sampling: every trajectory is as likely to be in the sample."""
    if len(found.sample) < TOKEN_SAMPLE:
        found.sample.append(trajectory)
    elif (place := rng.randrange(len(found.steps))) < TOKEN_SAMPLE:
        found.sample[place] = trajectory


def _measure(trajectory: Trajectory, size: Callable[[str], int], lengths: Lengths) -> None:
    total = size(trajectory.problem_statement)
    for step in trajectory.steps:
        parts = {"thought": step.thought, "observation": step.observation}
        parts |= {"action": action_text(step.action)} if step.action is not None else {}
        for part, text in parts.items():
            length = size(text)
            lengths[part].append(length)
            total += length
    lengths["trajectory"].append(total)


def _fingerprint(trajectory: Trajectory) -> str:
    """Of what was thought and done but for white space. Observations hold times and paths that differ between runs."""
    said = [
        [" ".join(step.thought.split()), step.action.name if step.action else "", _plain(step.action)]
        for step in trajectory.steps
    ]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _plain(action: Action | None) -> dict[str, str]:
    return {} if action is None else {key: " ".join(str(v).split()) for key, v in sorted(action.arguments.items())}
