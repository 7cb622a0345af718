"""Run the benchmark: what is measured as it is done, tables, then one JSON object as the last line of standard output.

Keys: `update_vs_trl_cpu`, `update_vs_dense_cpu` (theirs over ours, CPU seconds of an update), `step_vs_trl_cpu`
(generation, reward, update), all with thrifty trees (`job.Arm`) against TRL at its fastest, without gradient
checkpointing; `peak_memory_vs_trl` (ours over TRL's, whole processes, nothing subtracted) with thrifty trees and TRL
with gradient checkpointing, the fair pair, and `update_vs_thrifty_trl_cpu`, the time of that pair; `one_pass_...` with
checkpointing on neither side; `thrifty_peak_memory_vs_one_pass_trl`, on ours alone; `grpo_small_overhead` (TRL's update
over ours in one pass, on short prompts of one step each, where trees save little); `flops_saved` (analytic), `threads`,
`load`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent_srl.errors import AgentSRLError
from benchmarks.train_update import report, worker
from benchmarks.train_update.job import Job
from benchmarks.train_update.measure import Take, added, fastest_micro_batch, growth, measure, ratio, rounds
from benchmarks.train_update.shapes import ModelShape, Shape, dense_work, flops_saved, tree_work

MAIN = Shape(trunk=4000, steps=10, samples=8, new=100)
SMALL = Shape(trunk=32, steps=1, samples=8, new=100, trees=8)
QUICK_MODEL = ModelShape(vocabulary=200, hidden=32, intermediate=64, layers=2)
QUICK, QUICK_SMALL = Shape(trunk=120, steps=4, samples=4, new=8), Shape(trunk=16, steps=1, samples=4, new=8, trees=2)


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    try:
        result = run(options)
    except AgentSRLError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    if options.out:
        report.write(options.out, result)
    print(json.dumps(result["line"]))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Every part, printed as it is done."""
    shape, small, model = (QUICK, QUICK_SMALL, QUICK_MODEL) if options.quick else (MAIN, SMALL, ModelShape())
    take: Take = worker.run if options.quick else measure
    job = Job("tree", "update", shape, model, threads=options.threads, seed=options.seed)
    result: dict[str, Any] = {"shape": vars(shape), "small": vars(small), "model": vars(model), "seed": options.seed}
    result |= {"machine": report.machine(), "load_before": os.getloadavg()}
    _say("Machine", ", ".join(f"{k} {v}" for k, v in result["machine"].items()) + f"; load {os.getloadavg()[0]:.2f}")
    _say("Work", report.work(shape, model))
    result |= _main(job, options.rounds, take)
    result["small_rounds"] = _small(replace(job, shape=small), options.rounds, take)
    if not options.quick:
        _say("Growth", "one measurement each")
        result["growth"] = growth(replace(job, micro_batch=result["micro_batch"]), take, _print)
    result["load_after"] = os.getloadavg()
    result["line"] = _line(result, shape, model, options.threads)
    return result


def _main(job: Job, count: int, take: Take) -> dict[str, Any]:
    # TRL pads every row of the batch to the longest prompt, so one group there tells which micro-batch is fastest.
    group = replace(job.shape, steps=1, samples=8)
    _say("TRL's micro-batch", report.work(group, job.model))
    micro_batch, tried = fastest_micro_batch(replace(job, shape=group), take, _print)
    _say("Update and sampling", f"{count} rounds, TRL with micro-batch {micro_batch}")
    job = replace(job, micro_batch=micro_batch)
    jobs = [replace(job, arm=arm, task="update") for arm in ("thrifty", "tree", "dense", "trl", "trl_thrifty")]
    jobs += [replace(job, arm=arm, task="sample") for arm in ("tree", "trl")]
    found = rounds(jobs, count, take, _print)
    print(report.table(found))
    named = {f"{arm} {task}": measured for (arm, task), measured in found.items()}
    return {"micro_batch": micro_batch, "tried": tried, "rounds": named}


def _small(job: Job, count: int, take: Take) -> dict[str, Any]:
    _say("Short prompts, one step", report.work(job.shape, job.model))
    micro_batch, tried = fastest_micro_batch(job, take, _print)
    job = replace(job, micro_batch=micro_batch)
    found = rounds([replace(job, arm=arm, task="update") for arm in ("tree", "trl")], count, take, _print)
    named = {f"{arm} {task}": measured for (arm, task), measured in found.items()}
    return {"micro_batch": micro_batch, "tried": tried, "rounds": named}


def _line(result: dict[str, Any], shape: Shape, model: ModelShape, threads: int) -> dict[str, Any]:
    found, small = result["rounds"], result["small_rounds"]["rounds"]
    ours, theirs, thrifty = found["thrifty update"], found["trl update"], found["trl_thrifty update"]
    step_ours, step_theirs = added(found["tree sample"], ours), added(found["trl sample"], theirs)
    return {
        "update_vs_trl_cpu": ratio(theirs, ours),
        "update_vs_dense_cpu": ratio(found["dense update"], ours),
        "step_vs_trl_cpu": ratio(step_theirs, step_ours),
        "grpo_small_overhead": ratio(small["trl update"], small["tree update"]),
        "peak_memory_vs_trl": 1 / ratio(thrifty, ours, "peak_mib"),
        "peak_memory_pair": "gradient checkpointing on both sides",
        "flops_saved": flops_saved(shape, model),
        "tokens_saved": dense_work(shape).tokens / tree_work(shape).tokens,
        "update_vs_trl_wall": ratio(theirs, ours, "wall_s"),
        "step_vs_trl_wall": ratio(step_theirs, step_ours, "wall_s"),
        "update_vs_thrifty_trl_cpu": ratio(thrifty, ours),
        "thrifty_peak_memory_vs_one_pass_trl": 1 / ratio(theirs, ours, "peak_mib"),
        "one_pass_update_vs_trl_cpu": ratio(theirs, found["tree update"]),
        "one_pass_peak_memory_vs_trl": 1 / ratio(theirs, found["tree update"], "peak_mib"),
        "micro_batch": result["micro_batch"],
        "threads": threads,
        "load": max(result["load_before"][0], result["load_after"][0]),
    }


def _say(title: str, text: str) -> None:
    print(f"\n== {title}: {text}", flush=True)


def _print(text: str) -> None:
    print(text, flush=True)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_update", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each arm, taking turns")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of torch")
    parser.add_argument("--quick", action="store_true", help="tiny shapes in one process: shows that it runs")
    parser.add_argument("--out", type=Path, help="also write FILE.json, and the page and plot beside it")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
