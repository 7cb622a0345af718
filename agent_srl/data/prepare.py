"""The data of a run: given trajectories, or tasks made from real packages with an expert recorded on them, or math.

What is made is kept in the cache folder under a hash of the settings it was made with, and used again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from agent_srl.config import Config, DataConfig
from agent_srl.data.benchmark import Benchmark
from agent_srl.data.curate import keep, mask
from agent_srl.data.formats import read_trajectories, write_trajectories
from agent_srl.errors import ConfigError, DataError
from agent_srl.progress import Console
from env_server.schema import Task, Trajectory
from env_server.settings import cache_home

_TASKS_VERSION = 2
"""Counts up when the same settings make other tasks: what an older version made is not used again."""


@dataclass
class Prepared:
    """Trajectories to cut, and tasks that the trained agent is driven on (never of a training repository)."""

    trajectories: list[Trajectory]
    eval_tasks: list[Task] = field(default_factory=list)


async def prepare(config: Config, console: Console) -> Prepared:
    """Raises AgentSRLError, EnvError or SandboxError with the way out."""
    if config.task == "math":
        return _math(config, console)
    if config.data.trajectories:
        return _given(config, console)
    return await _quickstart(config, console)


def read_all(config: DataConfig, console: Console) -> list[Trajectory]:
    """Trajectories of all files, as `config` chooses; records that cannot be read are named and skipped.

    Raises:
        DataError: a file cannot be read, nothing is left, or (`strict`) a record cannot be read.
    """
    found: list[Trajectory] = []
    for path in config.trajectories:
        trajectories, rejected = read_trajectories(path, config.format, strict=config.strict)
        found += [mask(trajectory, config) for trajectory in trajectories]
        for record in rejected:
            console.say(f"skipped {record}")
    benchmark = Benchmark(config.benchmark_lists)
    kept = keep(found, config, benchmark)
    for reason, count in kept.left_out.items():
        console.say(f"left out {count} trajectories: {reason}")
    scored = sum(benchmark.holds(t.instance_id) for t in kept.trajectories)
    if scored:
        console.say(
            f"warning: {scored} trajectories are on benchmark instances ({benchmark.rule}): never score the trained "
            "model on that benchmark, or set data.exclude_benchmark=true"
        )
    if not kept.trajectories:
        raise DataError(f"no usable trajectory in {', '.join(config.trajectories)}")
    return kept.trajectories[: config.limit] if config.limit else kept.trajectories


def _given(config: Config, console: Console) -> Prepared:
    from env_server.local import load_tasks

    trajectories = read_all(config.data, console)
    tasks = load_tasks(Path(config.data.tasks)) if config.data.tasks else []
    return Prepared(trajectories, tasks)


def _math(config: Config, console: Console) -> Prepared:
    from agent_srl.data.math import math_trajectories
    from env_server.local import generate_problems, load_math

    source = config.math.data
    tasks = load_math(source) if source else generate_problems(config.math.problems, config.seed)
    if config.data.limit:
        tasks = tasks[: config.data.limit]
    trajectories = math_trajectories(tasks)
    if not trajectories:
        raise DataError(f"no problem in {source or 'the generated set'} has a worked solution of two or more steps")
    console.say(f"{len(tasks)} problems, {len(trajectories)} with worked solutions")
    return Prepared(trajectories, tasks)


async def _quickstart(config: Config, console: Console) -> Prepared:
    if not config.tasks.packages:
        raise ConfigError("nothing to train on: give --trajectories FILE, or tasks.packages in the config")
    folder = _quickstart_folder(config)
    tasks = await _tasks(config, folder, console)
    trajectories = await _record(config, tasks, folder, console)
    held = set(config.tasks.heldout_packages)
    proven = {t.instance_id for t in trajectories}
    console.say(f"{len(tasks)} tasks, {len(trajectories)} expert trajectories: {folder}")
    config.data.heldout_repos = sorted(held)
    return Prepared(trajectories, [t for t in tasks if t.repo in held and t.instance_id in proven])


def _quickstart_folder(config: Config) -> Path:
    tasks = config.tasks.model_dump(exclude={"workers", "heldout_packages"})
    made_with = json.dumps({"version": _TASKS_VERSION, "tasks": tasks, "seed": config.seed})
    return cache_home() / "quickstart" / hashlib.sha256(made_with.encode()).hexdigest()[:12]


async def _tasks(config: Config, folder: Path, console: Console) -> list[Task]:
    from env_server.local import load_tasks, make_tasks

    done = folder / "complete"
    if done.exists():
        return load_tasks(folder / "tasks.jsonl")
    console.say(f"making {config.tasks.count} tasks from {len(config.tasks.packages)} packages of the Python index")
    with console.live("making tasks", config.tasks.count) as show:
        tasks = await make_tasks(
            config.tasks.packages,
            config.tasks.count,
            folder,
            seed=config.seed,
            difficulty=config.tasks.difficulty,
            workers=config.tasks.workers,
            on_progress=lambda made, total: show(made, ""),
            on_note=lambda note: console.say(note) if note.startswith("skipped") else None,
        )
    if not tasks:
        raise DataError(f"no task could be made from tasks.packages: {folder / 'report.json'} says why")
    done.touch()
    return tasks


async def _record(config: Config, tasks: list[Task], folder: Path, console: Console) -> list[Trajectory]:
    from agent_srl.data.expert import Part, record_trajectories
    from env_server.local import open_environment

    path = folder / "trajectories.atif.jsonl"  # named after its format: what an older version wrote is not read
    if not path.exists():
        environment, part = open_environment(tasks), Part(path)
        try:
            with console.progress("recording the expert", len(tasks)) as tick:
                trajectories = await record_trajectories(
                    tasks, environment, seed=config.seed, workers=config.tasks.workers, on_progress=tick, part=part
                )
        finally:
            await environment.close()
        write_trajectories(path, trajectories)
        part.drop()
    return read_trajectories(path)[0]
