"""Tables for people, the page and the plot beside the JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.reward_ranking.report import table as columns
from benchmarks.train_update.measure import Measured, median
from benchmarks.train_update.plot import growth_svg
from benchmarks.train_update.shapes import ModelShape, Shape, dense_work, flops_saved, tree_work

NAMES = {
    "tree": "token trees",
    "thrifty": "token trees, thrifty",
    "dense": "one row per sample",
    "trl": "TRL GRPOTrainer",
    "trl_thrifty": "TRL GRPOTrainer, thrifty",
}


def machine() -> dict[str, Any]:
    """What numbers depend on."""
    packages = {name: version(name) for name in ("torch", "transformers", "trl")}
    return {"cpu": _cpu(), "cores": os.cpu_count(), "python": platform.python_version(), **packages}


def work(shape: Shape, model: ModelShape) -> str:
    """What is computed, in one line."""
    tree, dense = tree_work(shape), dense_work(shape)
    padded = shape.rows * (shape.trunk + shape.new)
    return (
        f"{shape.rows} samples of {shape.new} tokens at {shape.trees * shape.steps} steps, trunk {shape.trunk}: "
        f"{tree.tokens:,} unique tokens, {dense.tokens:,} in rows, {padded:,} in rows padded as TRL pads; "
        f"FLOPs saved {flops_saved(shape, model):.1f}"
    )


def table(found: Mapping[tuple[str, str], Sequence[Measured]]) -> str:
    """Medians by arm and task."""
    return columns(["median of rounds", "CPU s", "wall s", "peak MiB", "before it"], _cells(found))


def write(path: Path, result: dict[str, Any]) -> None:
    """`path` (JSON), and the page and the plot beside it under the same name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(page(result, path.stem), encoding="utf-8")
    if "growth" in result:
        path.with_suffix(".svg").write_text(growth_svg(result["growth"]), encoding="utf-8")


def page(result: dict[str, Any], name: str) -> str:
    """The Markdown page."""
    line, box = result["line"], result["machine"]
    shape, small, model = Shape(**result["shape"]), Shape(**result["small"]), ModelShape(**result["model"])
    tried = {"main": result["tried"], "small": result["small_rounds"]["tried"]}
    parts = [
        "# What an update costs",
        "```\nmake bench-train\n```",
        f"{box['cpu']}, {box['cores']} cores, {line['threads']} threads of torch {box['torch']}, transformers "
        f"{box['transformers']}, TRL {box['trl']}, float32, seed {result['seed']}; load average {line['load']:.1f} at "
        f"most at the ends. Qwen2 with random weights: {model.layers} layers of {model.hidden}, vocabulary "
        f"{model.vocabulary}.",
        f"Main shape: {work(shape, model)}.",
        _markdown(result["rounds"]),
        "| | |\n|---|---|\n" + "\n".join(f"| `{key}` | {_number(value)} |" for key, value in line.items()),
        f"Short prompts: {work(small, model)}.",
        _markdown(result["small_rounds"]["rounds"]),
        "TRL's micro-batches (main: one group of 8 at the longest prompt; small: the whole shape), CPU s (peak MiB): "
        + "; ".join(f"{n}: " + ", ".join(_tried(size, m) for size, m in t.items()) for n, t in tried.items())
        + ". The fastest was used.",
        NOTES,
    ]
    if "growth" in result:
        parts += [f"![How each ratio grows]({name}.svg)", "One measurement per point; others than the one named stay."]
    return "\n\n".join(parts) + "\n"


NOTES = """Each number is a process of its own. Times are CPU seconds of the process unless they say wall; arms take
turns; medians. An update is forward, backward and optimizer step on the same given rows; a step adds generation and the
reward of as many samples. Peak memory is the whole process's, imports and weights included; both sides are imported in
every process, so all start from the same. Thrifty trees keep memory down: passes of at most 6,144 unique tokens
(`train.row_tokens`) and activations computed again in the backward pass (`train.gradient_checkpointing`); the others
take a tree in one pass, and so does `grpo_small_overhead`. TRL pads the batch to its longest prompt and, on a CPU, runs
its output head at every position (its kernel that leaves the prompt out needs Triton), so the measured ratio is above
`flops_saved`, which compares trees with rows that pad nothing. TRL runs without gradient checkpointing where its time
counts, faster than by default; thrifty TRL has it on, at the same micro-batch. Memory is compared like with like:
`peak_memory_vs_trl` with checkpointing on both sides, `one_pass_peak_memory_vs_trl` on neither;
`thrifty_peak_memory_vs_one_pass_trl`, on ours alone, is no fair pair and stands here because time is measured so."""


def _cells(found: Mapping[tuple[str, str], Sequence[Measured]]) -> list[list[str]]:
    keys = (("cpu_s", ".1f"), ("wall_s", ".1f"), ("peak_mib", ".0f"), ("before_mib", ".0f"))
    return [
        [f"{NAMES[arm]}, {task}", *(format(median(measured, key), spec) for key, spec in keys)]
        for (arm, task), measured in found.items()
    ]


def _markdown(named: dict[str, list[Measured]]) -> str:
    found = {(name.split()[0], name.split()[1]): measured for name, measured in named.items()}
    rows = "\n".join("| " + " | ".join(cells) + " |" for cells in _cells(found))
    return "| median of rounds | CPU s | wall s | peak MiB | before it |\n|---|---|---|---|---|\n" + rows


def _tried(size: int, measured: Measured) -> str:
    return f"{size} {measured['cpu_s']:.1f} ({measured['peak_mib']:.0f})"


def _number(value: float | str) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), platform.machine())
