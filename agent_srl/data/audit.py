"""What is in a file of trajectories: counts, lengths, rejected steps, duplicates, benchmark instances.

It reads, masks and leaves out by the same code as training (`formats`, `curate`), so what it says is what training
does. Targets and rejected steps add up to the steps; turns are fewer where a turn held several calls.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from agent_srl.config import DataConfig
from agent_srl.data.benchmark import Benchmark
from agent_srl.data.curate import action_text, keep, mask
from agent_srl.data.formats import Record, Rejected
from env_server.schema import Action, Step, Trajectory

PARTS = ("thought", "action", "observation", "trajectory")
TOKEN_SAMPLE = 64
"""Trajectories whose tokens are counted, evenly spaced."""
_NAMED = 20
"""Duplicates, instances and skipped records that are named; all are counted."""

CountTokens = Callable[[str], int]


@dataclass
class Audit:
    """The findings. Lengths are kept whole, for histograms; `to_json` gives their quantiles."""

    formats: Counter[str] = field(default_factory=Counter)
    trajectories: list[Trajectory] = field(default_factory=list)
    skipped: list[Rejected] = field(default_factory=list)
    excluded: int = 0
    characters: dict[str, list[int]] = field(default_factory=lambda: {part: [] for part in PARTS})
    tokens: dict[str, list[int]] = field(default_factory=dict)
    tokenizer: str = ""
    on_benchmark: list[str] = field(default_factory=list)
    rule: str = ""
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> list[Step]:
        return [step for trajectory in self.trajectories for step in trajectory.steps]

    def to_json(self) -> dict[str, Any]:
        """One JSON object: everything that the report says."""
        steps = self.steps
        actions = [step.action for step in steps if step.action is not None]
        doubles = duplicates(self.trajectories)
        names = dict(self.formats.most_common())
        return {
            "format": next(iter(names)) if len(names) == 1 else names,
            "trajectories": len(self.trajectories),
            "instances": len({t.instance_id for t in self.trajectories}),
            "turns": sum(not step.same_turn for step in steps),
            "steps": len(steps),
            "targets": sum(step.is_target for step in steps),
            "rejected": dict(Counter(step.rejected for step in steps if step.rejected).most_common()),
            "resolved": dict(Counter(_verdict(t) for t in self.trajectories)),
            "tools": dict(Counter(action.name for action in actions).most_common()),
            "first_words": dict(Counter(first_word(action) for action in actions).most_common(_NAMED)),
            "characters": {part: quantiles(values) for part, values in self.characters.items()},
            "tokens": {part: quantiles(values) for part, values in self.tokens.items()} or None,
            "tokenizer": {"name": self.tokenizer, "trajectories": len(self.tokens["trajectory"])}
            if self.tokens
            else None,
            "duplicates": {"trajectories": sum(len(g) - 1 for g in doubles), "groups": doubles[:_NAMED]},
            "benchmark": {
                "rule": self.rule,
                "trajectories": len(self.on_benchmark),
                "instances": sorted(set(self.on_benchmark))[:_NAMED],
                "excluded": self.excluded,
            },
            "training": self.training,
            "skipped": {"records": len(self.skipped), "first": [str(record) for record in self.skipped[:_NAMED]]},
        }


def audit(records: Iterable[Record | Rejected], config: DataConfig) -> Audit:
    """Findings on everything that could be read. Raises DataError where a benchmark list cannot be read."""
    found, benchmark = Audit(), Benchmark(config.benchmark_lists)
    found.rule = benchmark.rule
    for record in records:
        if isinstance(record, Rejected):
            found.skipped.append(record)
            continue
        trajectory = mask(record.trajectory, config)
        held = benchmark.holds(trajectory.instance_id)
        if held:
            found.on_benchmark.append(trajectory.instance_id)
        if held and config.exclude_benchmark:
            found.excluded += 1
            continue
        found.formats[record.format] += 1
        found.trajectories.append(trajectory)
        _measure(trajectory, len, found.characters)
    kept = keep(found.trajectories, config, benchmark)
    found.training = {
        "trajectories": len(kept.trajectories),
        "targets": sum(step.is_target for t in kept.trajectories for step in t.steps),
        "left_out": dict(kept.left_out),
    }
    return found


def count_tokens(found: Audit, name: str, count: CountTokens) -> None:
    """Adds lengths in tokens, of an evenly spaced sample."""
    found.tokenizer, found.tokens = name, {part: [] for part in PARTS}
    total = len(found.trajectories)
    chosen = sorted({i * total // TOKEN_SAMPLE for i in range(TOKEN_SAMPLE)} if total > TOKEN_SAMPLE else range(total))
    for i in chosen:
        _measure(found.trajectories[i], count, found.tokens)


def quantiles(values: list[int]) -> dict[str, int]:
    """p10, p50, p90 and the largest (nearest rank); empty of nothing."""
    ordered = sorted(values)
    if not ordered:
        return {}
    at = {f"p{q}": ordered[min(len(ordered) - 1, len(ordered) * q // 100)] for q in (10, 50, 90)}
    return at | {"max": ordered[-1]}


def duplicates(trajectories: list[Trajectory]) -> list[list[str]]:
    """Groups of trajectories that think and act the same but for white space, by their instances' ids."""
    groups: dict[str, list[str]] = {}
    for trajectory in trajectories:
        groups.setdefault(_fingerprint(trajectory), []).append(trajectory.instance_id)
    return [group for group in groups.values() if len(group) > 1]


def first_word(action: Action) -> str:
    """The program that a command starts, the editor's command, or the name of the tool."""
    command = str(action.arguments.get("command", "")).split()
    if action.name == "submit" or not command:
        return action.name
    return command[0] if len(action.arguments) == 1 else f"{action.name}:{command[0]}"


def _measure(trajectory: Trajectory, size: Callable[[str], int], lengths: dict[str, list[int]]) -> None:
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
    """Of what was thought and done. Observations hold times and paths that differ between equal runs."""
    said = [
        [" ".join(step.thought.split()), step.action.name if step.action else "", _plain(step.action)]
        for step in trajectory.steps
    ]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _plain(action: Action | None) -> dict[str, str]:
    return {} if action is None else {key: " ".join(str(v).split()) for key, v in sorted(action.arguments.items())}


def _verdict(trajectory: Trajectory) -> str:
    return "unknown" if trajectory.resolved is None else "yes" if trajectory.resolved else "no"
