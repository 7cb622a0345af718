"""`agent-srl trajectories`: record an expert on tasks, inspect and convert trajectories of any format.

Left out: making the tasks (`agent-srl tasks make`) and training on the result (`agent-srl train
--trajectories`).
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from agent_srl.config import DataConfig
from agent_srl.data.audit import audit, count_tokens, first_word
from agent_srl.data.expert import Dropped, Part, record_trajectories
from agent_srl.data.formats import READERS, WRITERS, read_records, read_trajectories, write_trajectories
from agent_srl.data.formats.write import LOST
from agent_srl.errors import DataError
from agent_srl.models import DEFAULT_MODEL, default_model_folder
from agent_srl.progress import Console
from env_server.schema import Task, Trajectory

app = typer.Typer(help="Expert trajectories.", no_args_is_help=True)
TOP_WORDS = 8

FORMAT_HELP = f"auto (told by content), or {', '.join(READERS)}."
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first record that cannot be read.")]


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

    After an interruption the same command goes on from the runs in the file OUT.part.

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
    part = Part(out)
    if part:
        console.say(f"going on from {part.path} ({len(part)} runs)")
    try:
        found = asyncio.run(_record(rows, seed, per_task, workers, sandbox, console, part, dropped))
    except KeyboardInterrupt:
        kept = f"; {len(part)} runs are in {part.path}, and the same command goes on from there" if part else ""
        console.say(f"interrupted{kept}")
        raise typer.Exit(130) from None
    for run in dropped:
        console.say(f"not kept: {run}")
    if not found:
        raise DataError(f"no run of {tasks} ended resolved; check the tasks with `agent-srl tasks validate {tasks}`")
    write_trajectories(out, found)
    part.drop()
    summarise(found, len(dropped), out, console)


@app.command()
def inspect(
    file: Annotated[str, typer.Argument(help="A file, a folder, or a data set of the hub (owner/name:split).")],
    format_: Annotated[str, typer.Option("--format", help=FORMAT_HELP)] = "auto",
    strict: Strict = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Save the histograms: a name ending in .svg.")] = None,
    tokenizer: Annotated[
        str, typer.Option(help="A folder or hub id; counts tokens. Default: the default model's, where it is present.")
    ] = "",
    exclude_benchmark: Annotated[
        bool, typer.Option("--exclude-benchmark", help="Leave out instances of SWE-bench (data.exclude_benchmark).")
    ] = False,
    benchmark: Annotated[
        list[str], typer.Option(help="A file or data set whose instance_ids are a benchmark's. Repeatable.")
    ] = [],  # noqa: B006
    mask_failed_edits: Annotated[
        bool, typer.Option("--mask-failed-edits", help="Edits that the tool refused are no targets.")
    ] = False,
    mask_reverted_edits: Annotated[
        bool, typer.Option("--mask-reverted-edits", help="Edits that were undone later are no targets.")
    ] = False,
    max_thought_chars: Annotated[int, typer.Option(help="Longer thoughts are outliers; 0: no limit.", min=0)] = 0,
    max_action_chars: Annotated[int, typer.Option(help="Longer actions are outliers; 0: no limit.", min=0)] = 0,
) -> None:
    """Say what is in trajectories of any format, read and masked as training does with the same settings.

    Training then also drops replies that are too long for its budget of tokens, or whose exact text its tokenizer
    cannot render: those are counted here as targets.

    Examples:

      agent-srl trajectories inspect runs.jsonl.gz

      agent-srl trajectories inspect folder_of_traj_files --json
    """
    from rich.console import Console as RichConsole

    from agent_srl.data.audit_report import save_plot, show
    from agent_srl.data.formats.read import require_some

    config = DataConfig(
        format=format_,
        strict=strict,
        exclude_benchmark=exclude_benchmark,
        benchmark_lists=benchmark,
        mask_failed_edits=mask_failed_edits,
        mask_reverted_edits=mask_reverted_edits,
        max_thought_chars=max_thought_chars,
        max_action_chars=max_action_chars,
    )
    found = audit(read_records(file, format_, strict=strict), config)
    require_some(file, found.steps or found.on_benchmark, found.skipped)
    if plot is not None:
        save_plot(found, plot)
    if tokenizer or default_model_folder().is_dir():
        name = tokenizer or DEFAULT_MODEL
        count_tokens(found, name, _load_counter(tokenizer or str(default_model_folder())))
    if json_:
        typer.echo(json.dumps(found.to_json(), ensure_ascii=False))
    else:
        show(found, RichConsole(highlight=False))


@app.command()
def convert(
    file: Annotated[str, typer.Argument(help="A file, a folder, or a data set of the hub (owner/name:split).")],
    out: Annotated[Path, typer.Argument(help="Where to write: .jsonl or .jsonl.gz.")],
    to: Annotated[str, typer.Option(help=f"{', '.join(WRITERS)}.")] = "atif",
    format_: Annotated[str, typer.Option("--format", help=FORMAT_HELP)] = "auto",
    strict: Strict = False,
) -> None:
    """Write trajectories of any format as ATIF (canonical), OpenAI chat with tools, or SWE-smith XML.

    Example:

      agent-srl trajectories convert runs/ runs.atif.jsonl.gz --to atif
    """
    if to not in WRITERS:
        raise DataError(f"unknown format {to!r} to write: choose one of {', '.join(WRITERS)}")
    _check_writable(out)
    console = Console()
    found, rejected = read_trajectories(file, format_, strict=strict)
    for record in rejected:
        console.say(f"skipped {record}")
    unwritten = write_trajectories(out, found, to, strict=strict)
    for reason in unwritten:
        console.say(f"skipped {reason}")
    if LOST[to]:
        console.say(f"{to} cannot hold: {LOST[to]}")
    console.say(
        f"{len(found) - len(unwritten)} trajectories written to {out}, {len(rejected) + len(unwritten)} skipped"
    )


def _load_counter(source: str) -> Callable[[str], int]:
    """Counts tokens. Raises DataError; a tokenizer needs no model beside it here."""
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise DataError("counting tokens needs transformers: pip install 'agent-srl[train]'") from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"cannot load the tokenizer {source}: {reason}") from None
    tokenizer.model_max_length = 10**9  # longer texts are measured, not fed to a model: no warning
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False))


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
    part: Part,
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
                part=part,
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
