"""Trivial policies among real samples of a policy, and how many groups keep a spread.

Reads `srl/samples.jsonl` of run folders (`agent_srl.train.metrics.sample_record`): per group the expert's call and
every sample's. A percentile cannot be changed by any monotone map of the scale, so it shows whether a reward that
pays a constant little merely pays everything little. A broken format scores -1.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent_srl.errors import DataError
from agent_srl.rewards.similarity import INVALID_REWARD
from agent_srl.train.advantages import population_std
from benchmarks.reward_ranking.corpus import Item
from benchmarks.reward_ranking.scorers import Scorer
from env_server.schema import Action

EPS = (0.01, 0.02, 0.05, 0.1)
_EDITOR_TEXT = re.compile(r"(view|create|str_replace|insert|undo_edit) (/\S*)(?:\n(.*)|\Z)", re.DOTALL)
_UNREADABLE = Action(name="")


@dataclass(frozen=True)
class SampledGroup:
    """The expert's action, the one before it where known, and the samples; None for a broken format."""

    expert: Action
    previous: Action | None
    samples: tuple[Action | None, ...]


def read_groups(paths: Iterable[Path], known: Iterable[Item]) -> tuple[list[SampledGroup], int]:
    """All groups, and how many were left out; `known` are the steps that the runs learnt from.

    Raises:
        DataError: a file is missing or no samples.jsonl.


    """
    previous = {f"{item.instance_id}#{item.step}": item.previous for item in known}
    groups, left_out = [], 0
    for path in paths:
        try:
            records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            for record in records:
                group = _group(record, previous)
                groups += [group] if group else []
                left_out += group is None
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}; give a run's srl/samples.jsonl") from None
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is no samples.jsonl of a run ({type(error).__name__}: {error})") from None
    if not groups:
        raise DataError("no group in the files of --samples can be read; give a run's srl/samples.jsonl")
    return groups, left_out


def best_constant(groups: list[SampledGroup], candidates: list[Action], scorer: Scorer) -> Action:
    """The candidate, or expert action of these groups, that earns most on these very steps: an oracle, so no policy
    of one answer does better."""
    known = {repr(action): action for action in [*candidates, *(g.expert for g in groups)]}
    return max(known.values(), key=lambda c: statistics.fmean(scorer(c, g.expert) for g in groups))


def percentile(groups: list[SampledGroup], answers: list[Action | None], scorer: Scorer) -> float | None:
    """Mean share of a group's well-formed samples that score below the answer, ties half. None if nothing compares."""
    shares = []
    for group, answer in zip(groups, answers, strict=True):
        values = [scorer(s, group.expert) for s in group.samples if s is not None]
        if answer is not None and values:
            own = scorer(answer, group.expert)
            shares.append(statistics.fmean((v < own) + 0.5 * (v == own) for v in values))
    return 100 * statistics.fmean(shares) if shares else None


def kept_share(groups: list[SampledGroup], scorer: Scorer, *, valid_only: bool) -> dict[str, float]:
    """Share of groups whose population standard deviation is over eps; a broken format scores -1 unless left out."""
    spreads = []
    for group in groups:
        values = [
            INVALID_REWARD if s is None else scorer(s, group.expert) for s in group.samples if s or not valid_only
        ]
        spreads.append(population_std(values))
    return {str(eps): sum(spread > eps for spread in spreads) / len(spreads) for eps in EPS}


def summary(groups: list[SampledGroup], constant: Action, scorer: Scorer) -> dict[str, Any]:
    """All numbers of one reward."""
    best = best_constant(groups, [constant], scorer)
    return {
        "constant": percentile(groups, [best] * len(groups), scorer),
        "repeat_last": percentile(groups, [g.previous for g in groups], scorer),
        "kept": kept_share(groups, scorer, valid_only=False),
        "kept_valid": kept_share(groups, scorer, valid_only=True),
    }


def _group(record: dict[str, Any], previous: dict[str, Action | None]) -> SampledGroup | None:
    expert = _action(record.get("expert_call"), record["expert"])
    samples = [
        None if s["action"] is None else _action(s.get("call"), s["action"]) or _UNREADABLE
        for s in record["samples"]
        if s["reward"] is not None
    ]
    readable = tuple(s for s in samples if s is not _UNREADABLE)
    return SampledGroup(expert, previous.get(record["example"]), readable) if expert and len(readable) > 1 else None


def _action(call: dict[str, Any] | None, text: str) -> Action | None:
    """The whole call where the file has it. Older files have the bare text: an editor's call cannot be told from it
    but for a view."""
    if call is not None:
        return Action(**call)
    if text == "submit":
        return Action(name="submit")
    editor = _EDITOR_TEXT.match(text)
    if editor is None:
        return Action(name="bash", arguments={"command": text})
    if editor[1] != "view":
        return None
    lines = {"view_range": editor[3]} if editor[3] else {}
    return Action(name="str_replace_editor", arguments={"command": "view", "path": editor[2], **lines})
