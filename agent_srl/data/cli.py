"""`agent-srl trajectories`: record an expert on tasks.

Left out: making the tasks (`agent-srl tasks make`) and training on the result (`agent-srl train
--trajectories`).
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from agent_srl.data.expert import Dropped, record_trajectories
from agent_srl.data.formats import write_trajectories
from agent_srl.errors import DataError
from agent_srl.progress import Console
from env_server.schema import Action, Task, Trajectory

app = typer.Typer(help="Expert trajectories.", no_args_is_help=True)
TOP_WORDS = 8


@app.callback()
def trajectories() -> None:
    """Expert trajectories."""


@app.command()
def record(
    tasks: Annotated[Path, typer.Option(help="Tasks with gold patches: a JSONL file of `agent-srl tasks make`.")],
    out: Annotated[Path, typer.Option(help="Where to write the trajectories: .jsonl or .jsonl.gz.")],
    seed: Annotated[int, typer.Option(help="Routes and words vary with it.")] = 0,
    per_task: Annotated[int, typer.Option(help="Runs of each task, with seeds counting up.", min=1)] = 1,
    workers: Annotated[int, typer.Option(help="Tasks at a time.", min=1)] = 2,
    sandbox: Annotated[str, typer.Option(help="auto, bubblewrap or docker.")] = "auto",
) -> None:
    """Record an expert that solves each task in a sandbox; runs that do not end resolved are dropped.

    Example:

      agent-srl trajectories record --tasks tasks.jsonl --out expert.jsonl.gz
    """
    from env_server.local import load_tasks

    _check_writable(out)
    rows = [task for task in load_tasks(tasks) if task.kind == "swe"]
    if not rows:
        raise DataError(f"{tasks} holds no software task; make some with `agent-srl tasks make --out DIR`")
    console = Console()
    dropped: list[Dropped] = []
    found = asyncio.run(_record(rows, seed, per_task, workers, sandbox, console, dropped))
    for run in dropped:
        console.say(f"not kept: {run}")
    if not found:
        raise DataError(f"no run of {tasks} ended resolved; check the tasks with `agent-srl tasks validate {tasks}`")
    write_trajectories(out, found)
    summarise(found, len(dropped), out, console)


def _check_writable(out: Path) -> None:
    """Before minutes of work, not after."""
    if out.is_dir():
        raise DataError(f"{out} is a folder; name a file, such as {out / 'expert.jsonl.gz'}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise DataError(f"cannot write {out}: {error.strerror}; choose another --out") from None


async def _record(
    rows: list[Task],
    seed: int,
    per_task: int,
    workers: int,
    sandbox: str,
    console: Console,
    dropped: list[Dropped],
) -> list[Trajectory]:
    from env_server.local import open_environment

    service = open_environment(rows, sandbox)
    try:
        with console.progress("recording the expert", len(rows)) as tick:
            return await record_trajectories(
                rows,
                service,
                seed=seed,
                workers=workers,
                per_task=per_task,
                on_progress=tick,
                on_drop=dropped.append,
            )
    finally:
        await service.close()


def summarise(found: list[Trajectory], dropped: int, out: Path, console: Console) -> None:
    """A table of what was recorded."""
    from rich.table import Table

    steps = [step for trajectory in found for step in trajectory.steps]
    words = Counter(first_word(step.action) for step in steps if step.action is not None)
    shares = ", ".join(f"{word} {count / len(steps):.0%}" for word, count in words.most_common(TOP_WORDS))
    table = Table(show_header=False)
    for name, value in (
        ("trajectories", f"{len(found)} over {len({t.repo for t in found})} packages"),
        ("resolved", f"{len(found)} of {len(found) + dropped} runs"),
        ("steps", f"{len(steps)}, {len(steps) / len(found):.1f} per trajectory"),
        ("first words", shares),
        ("written to", str(out)),
    ):
        table.add_row(name, value)
    console.rich.print(table)


def first_word(action: Action) -> str:
    """The program that a command starts, the editor's command, or the name of the tool."""
    command = str(action.arguments.get("command", "")).split()
    if action.name == "submit" or not command:
        return action.name
    return command[0] if action.name == "bash" else f"edit:{command[0]}"
