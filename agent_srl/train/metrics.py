"""Numbers of one batch of groups, and the file they go to. They show a drift before the reward does."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent_srl.errors import DataError
from agent_srl.rewards.similarity import bare_call
from agent_srl.train.advantages import has_signal
from agent_srl.types import Group, Sample


def mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def batch_metrics(groups: list[Group], min_std: float) -> dict[str, Any]:
    """Reward, format validity, similarity given valid, variety of actions and length of thoughts. Masked samples
    apart."""
    samples = [s for g in groups for s in g.samples]
    scored = [s for s in samples if s.reward is not None]
    valid = [s for s in scored if s.action is not None]
    commands = [bare_call(s.action) for s in valid if s.action is not None]
    return {
        "reward": mean([s.reward for s in scored if s.reward is not None]),
        "format_valid": len(valid) / len(scored) if scored else None,
        "similarity": mean([s.reward for s in valid if s.reward is not None]),
        "parts": part_means(valid),
        "distinct": len(set(commands)) / len(commands) if commands else None,
        "first_words": first_words(commands),
        "thought_words": mean([float(len(s.thought.split())) for s in valid]),
        "completion_tokens": mean([float(len(s.completion.tokens_T)) for s in scored]),
        "kept_groups": sum(has_signal(g, min_std) for g in groups),
        "sampled_groups": len(groups),
        "zero_signal": 1 - sum(has_signal(g, min_std) for g in groups) / len(groups) if groups else None,
        "infra_failed_rate": 1 - len(scored) / len(samples) if samples else None,
    }


def part_means(samples: list[Sample]) -> dict[str, float]:
    """The mean of each part of the reward, over the samples that have it."""
    names = sorted({name for sample in samples for name in sample.parts})
    values = {name: [s.parts[name] for s in samples if name in s.parts] for name in names}
    return {name: round(sum(found) / len(found), 6) for name, found in values.items()}


def first_words(commands: list[str], most: int = 5) -> dict[str, float]:
    """Shares of the commonest first words."""
    counts = Counter((c.split() or [""])[0] for c in commands)
    return {word: round(n / len(commands), 3) for word, n in counts.most_common(most)}


def sample_record(step: int, group: Group) -> dict[str, Any]:
    """One line of samples.jsonl: the expert's action beside every sample, as compared and as the whole call."""
    return {
        "step": step,
        "example": group.example.example_id,
        "expert": bare_call(group.example.expert),
        "expert_call": group.example.expert.model_dump(),
        "samples": [_sample(s) for s in group.samples],
    }


def _sample(sample: Sample) -> dict[str, Any]:
    action = bare_call(sample.action) if sample.action is not None else None
    return {
        "reward": sample.reward,
        "parts": {name: round(value, 6) for name, value in sample.parts.items()},
        "thought": sample.thought,
        "action": action,
        "call": sample.action.model_dump() if sample.action is not None else None,
        "text": None if action else sample.text,
    }


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Lines of a file of `JsonLines`, and their records. A last one without its end, which a kill leaves, is left out.

    Raises:
        DataError: a line is no record.
    """
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            int(record["step"])
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{path}:{number} is no record: delete this line and start the same command again, which goes on "
                "without it"
            ) from error
        yield line.decode(), record


class JsonLines:
    """An append-only file of records with a `step`; on resume, records after the checkpoint are dropped."""

    def __init__(self, path: Path, *, keep_until_step: int) -> None:
        """Raises DataError where the file is broken."""
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line + "\n" for line, record in read_lines(path) if record["step"] <= keep_until_step]
        aside = path.with_suffix(".tmp")
        aside.write_text("".join(kept), encoding="utf-8")
        aside.replace(path)

    def write(self, *records: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(r) + "\n" for r in records)  # ASCII: whatever a model writes, one line each
