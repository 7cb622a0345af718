"""`agent-srl tasks`: make tasks from packages, and prove task files."""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from env_server.errors import TaskError
from env_server.schema import Task
from env_server.settings import Settings
from env_server.tasks.base import load_tasks
from env_server.tasks.make import make_tasks
from env_server.tasks.validate import Validation, validate_tasks
from sandboxes import open_backend

app = typer.Typer(no_args_is_help=True, help="Make tasks from real packages, and prove them.")

Sandbox = Annotated[str, typer.Option(help="auto, bubblewrap or docker")]
Workers = Annotated[int, typer.Option(min=1, help="Sandboxes at work at the same time.")]
CPUS = os.cpu_count() or 1


@app.command()
def make(
    packages: Annotated[str, typer.Option(help="Names on the Python index, with commas: inflection,schema==0.7.8")],
    out: Annotated[Path, typer.Option(help="Folder for tasks.jsonl and report.json.")],
    count: Annotated[int, typer.Option(min=1, help="Tasks in all, spread evenly.")] = 10,
    difficulty: Annotated[str, typer.Option(help="easy, medium, hard or mixed")] = "mixed",
    seed: Annotated[int, typer.Option(help="Another seed plants other bugs.")] = 0,
    workers: Workers = CPUS,
    sandbox: Sandbox = "auto",
) -> None:
    """Plant bugs in packages and keep those that their own tests notice."""
    names = [name.strip() for name in packages.split(",") if name.strip()]
    console = Console()

    async def run(progress: Progress) -> list[Task]:
        bar = progress.add_task("", total=count)

        def tell(what: str) -> None:
            progress.update(bar, description=escape(what[:80]))
            if what.startswith("skipped"):
                progress.console.print(f"[yellow]{escape(what)}[/]")

        backend = open_backend(sandbox)
        try:
            return await make_tasks(
                names,
                count,
                out,
                seed=seed,
                difficulty=difficulty,
                workers=workers,
                backend=backend,
                on_progress=lambda made, total: progress.update(bar, completed=made, total=total),
                on_note=tell,
            )
        finally:
            await backend.close()

    with _bar(console) as progress:
        try:
            tasks = asyncio.run(run(progress))
        except KeyboardInterrupt:
            made = sum(int(bar.completed) for bar in progress.tasks)
            console.print(f"Interrupted. Tasks made: {made}{_place(out) if made else ''}.")
            raise typer.Exit(130) from None
    _summary(console, tasks, out)
    if not tasks:
        raise TaskError(f"no tasks could be made; the reasons are in {out / 'report.json'}")


@app.command()
def validate(
    file: Annotated[Path, typer.Argument(help="Tasks: JSON Lines or a JSON list.")],
    workers: Workers = CPUS,
    sandbox: Sandbox = "auto",
    image: Annotated[str, typer.Option(help="Docker: the image for rows that name none.")] = "",
    timeout: Annotated[float, typer.Option(help="Seconds for one run of a row's tests.")] = 300.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per row instead of a table.")] = False,
) -> None:
    """Check that every row's gold patch resolves it and an empty one does not; exit code 1 if not."""
    if not 0 < timeout < math.inf:
        raise TaskError(f"--timeout is {timeout:g}: give seconds above 0, such as 300")
    tasks = load_tasks(file)
    console = Console()

    async def run(progress: Progress) -> list[Validation]:
        bar = progress.add_task("", total=len(tasks))

        def tell(done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total)

        backend = open_backend(sandbox)
        try:
            settings = Settings(evaluate_timeout_s=timeout, image=image)
            return await validate_tasks(tasks, backend, settings, workers, tell)
        finally:
            await backend.close()

    with _bar(Console(stderr=True)) as progress:
        try:
            found = asyncio.run(run(progress))
        except KeyboardInterrupt:
            checked = sum(int(bar.completed) for bar in progress.tasks)
            progress.console.print(f"Interrupted. Rows checked: {checked} of {len(tasks)}; nothing of it is kept.")
            raise typer.Exit(130) from None
    bad = [row for row in found if not row.ok]
    if as_json:
        for row in found:
            print(json.dumps({"ok": row.ok, **vars(row)}))
    else:
        _table(console, found)
    if bad:
        raise typer.Exit(1)


def _bar(console: Console) -> Progress:
    columns = (SpinnerColumn(), MofNCompleteColumn(), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, TextColumn("{task.description}"), console=console)


def _place(out: Path) -> str:
    """Of the tasks of this run; without any, the file is that of an earlier one."""
    return f" in {out / 'tasks.jsonl'}"


def _summary(console: Console, tasks: Sequence[Task], out: Path) -> None:
    report = json.loads((out / "report.json").read_text())
    table = Table("package", "tasks", "variants run", "edits", "kinds of bugs")
    for name, row in report["packages"].items():
        edits = ", ".join(f"{count} x {level}" for level, count in row["difficulty"].items())
        kinds = ", ".join(row["kinds"])
        table.add_row(escape(name), str(row["made"]), str(row["tried"]), edits, kinds or "-")
    console.print(table)
    console.print(f"{len(tasks)} of {report['wanted']} tasks{_place(out) if tasks else ''}")
    for row in report["packages"].values():
        if row["reason"]:
            console.print(f"[yellow]{escape(row['reason'])}[/]")


def _table(console: Console, found: Sequence[Validation]) -> None:
    table = Table("task", "gold resolves", "empty resolves", "problem")
    words = {True: "yes", False: "no", None: "-"}
    for row in found:
        colour = "green" if row.ok else "red"
        table.add_row(f"[{colour}]{escape(row.instance_id)}[/]", words[row.gold], words[row.empty], escape(row.problem))
    console.print(table)
    bad = sum(not row.ok for row in found)
    console.print(f"{len(found) - bad} of {len(found)} rows are good" + (f", {bad} fail" if bad else ""))
