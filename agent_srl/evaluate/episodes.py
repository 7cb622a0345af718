"""Patch resolve rate: a model, the gold patch or an empty one on tasks, graded in fresh sandboxes.

Writes predictions in SWE-bench's format, so that its own commands can grade them again, one verdict per task, and the
episodes. A second call with the same folder goes on where the first one stopped.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from agent_srl.data.formats import write_trajectories
from agent_srl.evaluate.report import resolve_summary
from agent_srl.policy import Policy
from agent_srl.progress import Console
from agent_srl.rollout.episodes import Episode, run_episode
from agent_srl.run_folder import model_version, whole, write_text
from env_server.client import Environment
from env_server.schema import Task, Trajectory, Verdict


@dataclass(frozen=True)
class Solver:
    """Someone who answers tasks."""

    solve: Callable[[Task], Awaitable[Episode]]
    identity: str
    """Who answers, and how: kept episodes of another one are not taken for this one's."""


def model_solver(
    env: Environment, policy: Policy, model: str, *, temperature: float, max_turns: int, seed: int
) -> Solver:
    """The model, loaded from `model`, as a multi-turn agent."""

    async def solve(task: Task) -> Episode:
        sampling = policy.sampling(temperature, seed * 1000)
        return await run_episode(env, task.public(), policy.engine, policy.builder, sampling, max_turns)

    return Solver(solve, f"{model_version(model)} temperature={temperature} max_turns={max_turns} seed={seed}")


def patch_solver(env: Environment, *, gold: bool) -> Solver:
    """The gold patch (for math the reference answer) or nothing, in place of a model: checks the machine."""

    async def solve(task: Task) -> Episode:
        reference = f"\\boxed{{{task.answer}}}" if task.kind == "math" else task.patch
        submission = reference if gold else ""
        verdict = await env.grade(task.instance_id, submission)
        trajectory = Trajectory(
            instance_id=task.instance_id,
            repo=task.repo,
            problem_statement=task.problem_statement,
            steps=[],
            source="gold" if gold else "empty",
            resolved=verdict.resolved,
            patch=submission,
        )
        return Episode(trajectory, verdict)

    return Solver(solve, "gold" if gold else "empty")


async def evaluate(
    tasks: list[Task], solver: Solver, out: Path, name: str, workers: int, console: Console
) -> list[Verdict]:
    """Verdicts in the order of `tasks`. Masked ones are tried again by the next call with the same `out`, and so are
    those of another policy or another row."""
    folder = out / "instances"
    limit = asyncio.Semaphore(workers)

    async def one(task: Task) -> Episode:
        path = folder / f"{task.instance_id.replace('/', '_')}.json"
        asked = {"solver": solver.identity, "row": hashlib.sha256(task.model_dump_json().encode()).hexdigest()}
        found = _finished(path, asked)
        if found is None:
            async with limit:
                found = await solver.solve(task)
            kept = {"trajectory": found.trajectory.model_dump(), "verdict": found.verdict.model_dump()}
            write_text(path, json.dumps(asked | kept))
        tick()
        return found

    with console.progress("episodes" if name not in ("gold", "empty") else f"grading {name}", len(tasks)) as tick:
        episodes = list(await asyncio.gather(*(one(t) for t in tasks)))
    _write(episodes, out, name)
    return [e.verdict for e in episodes]


def _finished(path: Path, asked: dict[str, str]) -> Episode | None:
    if not path.exists():
        return None
    with whole(path):
        saved = json.loads(path.read_text(encoding="utf-8"))
        if any(saved.get(key) != value for key, value in asked.items()):
            return None
        verdict = Verdict.model_validate(saved["verdict"])
        return None if verdict.reward is None else Episode(Trajectory.model_validate(saved["trajectory"]), verdict)


def _write(episodes: list[Episode], out: Path, name: str) -> None:
    predictions = [
        {
            "instance_id": e.verdict.instance_id,
            "model_name_or_path": name,
            "model_patch": e.trajectory.patch,
        }
        for e in episodes
    ]
    lines = {
        "predictions.jsonl": [json.dumps(p) for p in predictions],
        "verdicts.jsonl": [e.verdict.model_dump_json() for e in episodes],
    }
    for file, rows in lines.items():
        write_text(out / file, "".join(row + "\n" for row in rows))
    write_trajectories(out / "trajectories.jsonl", [e.trajectory for e in episodes])
    write_text(out / "report.json", json.dumps(resolve_summary([e.verdict for e in episodes]), indent=2) + "\n")
