"""Which steps and trajectories are learnt from, by choice: one place for training and for the audit of a file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from agent_srl.config import DataConfig
from agent_srl.data.benchmark import Benchmark
from agent_srl.data.edits import FAILED, REVERTED, failed_edits, reverted_edits
from env_server.schema import Action, Step, Trajectory

OUTLIER = "outlier"
UNRESOLVED = "did not resolve its task"
BENCHMARK = "benchmark instance"


@dataclass
class Kept:
    """What training sees, and how many trajectories it does not see, by reason."""

    trajectories: list[Trajectory] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def mask(trajectory: Trajectory, config: DataConfig) -> Trajectory:
    """The trajectory with the steps that the config rules out as history; the first reason stands."""
    steps = trajectory.steps
    reasons: dict[int, str] = {}
    if config.mask_reverted_edits:
        reasons |= dict.fromkeys(reverted_edits(steps), REVERTED)
    if config.mask_failed_edits:
        reasons |= dict.fromkeys(failed_edits(steps), FAILED)
    reasons |= {i: OUTLIER for i, step in enumerate(steps) if _is_outlier(step, config)}
    ruled_out = {i: why for i, why in reasons.items() if steps[i].is_target}
    if not ruled_out:
        return trajectory
    masked = [s.model_copy(update={"rejected": ruled_out[i]}) if i in ruled_out else s for i, s in enumerate(steps)]
    return trajectory.model_copy(update={"steps": masked})


def keep(trajectories: list[Trajectory], config: DataConfig, benchmark: Benchmark) -> Kept:
    """An expert's trajectories: what did not resolve its task is none's; a benchmark's are left out on demand."""
    kept = Kept()
    for trajectory in trajectories:
        if reason := left_out(trajectory, config, benchmark):
            kept.left_out[reason] += 1
        else:
            kept.trajectories.append(trajectory)
    return kept


def left_out(trajectory: Trajectory, config: DataConfig, benchmark: Benchmark) -> str:
    """Why training does not see the trajectory; empty if it does."""
    if trajectory.resolved is False:
        return UNRESOLVED
    return BENCHMARK if config.exclude_benchmark and benchmark.holds(trajectory.instance_id) else ""


def _is_outlier(step: Step, config: DataConfig) -> bool:
    action = "" if step.action is None else action_text(step.action)
    return any(
        limit and len(text) > limit
        for text, limit in ((step.thought, config.max_thought_chars), (action, config.max_action_chars))
    )


def action_text(action: Action) -> str:
    """The characters of an action that its length is measured by: its name and the values of its arguments."""
    return "\n".join([action.name, *(str(value) for value in action.arguments.values())])
