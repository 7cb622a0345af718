"""Runs jobs, each in a process of its own, and puts rounds together: arms take turns, medians are over rounds."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from agent_srl.errors import AgentSRLError
from benchmarks.train_update.job import Arm, Job
from benchmarks.train_update.shapes import Shape

Measured = dict[str, float]
"""`cpu_s`, `wall_s`, `peak_mib`, `before_mib`."""

Take = Callable[[Job], Measured]
"""What runs a job: `measure`, or `worker.run` where numbers do not matter."""

MICRO_BATCHES = (1, 2, 4, 8)


class BenchmarkError(AgentSRLError):
    """A measurement failed."""


def measure(job: Job) -> Measured:
    """One job. Raises BenchmarkError with the last line that the process wrote."""
    command = [sys.executable, "-m", "benchmarks.train_update.worker", job.to_json()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        raise BenchmarkError(f"{job.arm} {job.task} on {job.shape} failed: {reason}")
    found: Measured = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def fastest_micro_batch(job: Job, take: Take, say: Callable[[str], None]) -> tuple[int, dict[int, Measured]]:
    """TRL's micro-batch with the least CPU time for an update on `job.shape`, and what each took."""
    found = {}
    for size in MICRO_BATCHES:
        found[size] = take(replace(job, arm="trl", task="update", micro_batch=size))
        say(f"  micro-batch {size}: {found[size]['cpu_s']:.1f} s CPU, {found[size]['peak_mib']:.0f} MiB")
    return min(found, key=lambda size: found[size]["cpu_s"]), found


def rounds(
    jobs: Sequence[Job], count: int, take: Take, say: Callable[[str], None]
) -> dict[tuple[str, str], list[Measured]]:
    """(arm, task) -> one measurement per round, the jobs taking turns."""
    found: dict[tuple[str, str], list[Measured]] = {(job.arm, job.task): [] for job in jobs}
    for number in range(count):
        for job in jobs:
            one = take(job)
            found[job.arm, job.task].append(one)
            say(
                f"  round {number + 1}: {job.arm} {job.task}: {one['cpu_s']:.1f} s CPU, {one['wall_s']:.1f} s wall, "
                f"peak {one['peak_mib']:.0f} MiB"
            )
    return found


def median(measured: Sequence[Measured], key: str) -> float:
    return statistics.median(one[key] for one in measured)


def ratio(theirs: Sequence[Measured], ours: Sequence[Measured], key: str = "cpu_s") -> float:
    """Of the medians."""
    return median(theirs, key) / median(ours, key)


def added(first: Sequence[Measured], second: Sequence[Measured]) -> list[Measured]:
    """Times of two tasks put together, round by round: a step is sampling and an update."""
    return [{key: a[key] + b[key] for key in ("cpu_s", "wall_s")} for a, b in zip(first, second, strict=True)]


def growth(job: Job, take: Take, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """One measurement of each arm while trunk, steps or samples grow and the others stay."""
    base = Shape(trunk=1000, steps=4, samples=4, new=32)
    arms: tuple[Arm, ...] = ("thrifty", "dense", "trl", "trl_thrifty")
    series = {"trunk": (500, 1000, 2000), "steps": (1, 4, 8), "samples": (2, 4, 8)}
    cache: dict[Shape, dict[str, Measured]] = {}
    points = []
    for name, values in series.items():
        for value in values:
            shape = replace(base, **{name: value})
            if shape not in cache:
                cache[shape] = {arm: take(replace(job, arm=arm, task="update", shape=shape)) for arm in arms}
            arms_found = cache[shape]
            points.append({"series": name, "value": value, "shape": vars(shape), **arms_found})
            say(f"  {name} {value}: " + ", ".join(f"{arm} {m['cpu_s']:.1f} s" for arm, m in arms_found.items()))
    return points
