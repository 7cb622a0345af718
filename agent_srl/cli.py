"""The command line. Parsing only: it alone imports from all packages, and what a person can mend ends in one line
and exit 2."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from agent_srl import __version__
from agent_srl.config_cli import app as config_app
from agent_srl.data.cli import app as trajectories_app
from agent_srl.doctor import doctor
from agent_srl.errors import AgentSRLError, ConfigError, PeerFailed, Stopped
from agent_srl.rewards.cli import app as rewards_app
from env_server.cli import serve
from env_server.errors import EnvError
from env_server.tasks.cli import app as tasks_app
from sandboxes.errors import SandboxError

app = typer.Typer(
    help="Train software-engineering agents from expert trajectories (SRL, arXiv 2510.25992).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(tasks_app, name="tasks")
app.add_typer(trajectories_app, name="trajectories")
app.add_typer(rewards_app, name="rewards")
app.add_typer(config_app, name="config")
app.command()(serve)
app.command()(doctor)

Task = Annotated[str, typer.Option(help="swe or math.")]
Set = Annotated[
    list[str],
    typer.Option(
        "--set", help="Override a config value: section.key=value. Repeatable. `agent-srl config` prints all keys."
    ),
]


@app.command()
def train(
    task: Task = "swe",
    config: Annotated[
        str,
        typer.Option(
            help="A YAML file or a shipped config (`agent-srl config list`). Default: TASK/quickstart, or "
            "swe/trajectories with --trajectories."
        ),
    ] = "",
    trajectories: Annotated[
        list[Path],
        typer.Option(help="Expert trajectories (swe): a file, a folder, or a data set of the hub. Repeatable."),
    ] = [],  # noqa: B006
    data: Annotated[str, typer.Option(help="Math problems with solutions: a JSONL file or a hub id.")] = "",
    tasks: Annotated[str, typer.Option(help="Tasks (JSONL) to drive the trained agent on afterwards.")] = "",
    model: Annotated[str, typer.Option(help="A folder, a hub id, or smollm2.")] = "",
    method: Annotated[str, typer.Option(help="srl (others follow in later versions).")] = "srl",
    trainer: Annotated[str, typer.Option(help="own, or trl: the same data and rewards in TRL's GRPOTrainer.")] = "",
    out: Annotated[Path | None, typer.Option(help="Run folder; an unfinished run in it is gone on with.")] = None,
    set_: Set = [],  # noqa: B006
) -> None:
    """Warm up, train with step-wise similarity rewards, compare on held-out steps.

    Without --trajectories, `--task swe` makes tasks from real packages, records an expert on them in sandboxes and
    trains on that. Start the same command with the same --out after an interruption: it goes on. SIGTERM ends it after
    the step in progress, saved; torchrun waits for that as long as its --shutdown-timeout says.

    On several GPUs: accelerate launch --num_processes 8 -m agent_srl train ... (or torchrun, also on CPUs).

    Examples:

      agent-srl train --task swe

      agent-srl train --task swe --trajectories runs.jsonl.gz --set train.max_steps=50

      agent-srl train --task math --data gsm8k_train.jsonl
    """
    from agent_srl.config_file import load_config
    from agent_srl.pipeline import train as run
    from agent_srl.progress import Console
    from agent_srl.run_folder import default_out

    _known_task(task)
    if task == "math" and trajectories:
        raise ConfigError("--trajectories is for --task swe; give math problems with --data FILE")
    if task == "swe" and data:
        raise ConfigError("--data is for --task math; give expert runs with --trajectories FILE")
    name = config or (f"{task}/trajectories" if trajectories else f"{task}/quickstart")
    given: dict[str, Any] = {"task": task, "method": method}
    given |= {"model.path": model} if model else {}
    given |= {"train.trainer": trainer} if trainer else {}
    given |= {"math.data": data} if data else {}
    given |= {"data.tasks": tasks} if tasks else {}
    given |= {"data.trajectories": [str(p) for p in trajectories]} if trajectories else {}
    resolved = load_config(name, set_, given)
    folder = out or default_out(resolved)
    if os.environ.get("RANK", "0") == "0":  # a launcher starts this once for each process
        _say(f"run folder: {folder} (config {name}, seed {resolved.seed})")
    _run(run(resolved, folder, Console()), f"start the same command with --out {folder} to go on")


@app.command("eval")
def eval_(
    tasks: Annotated[str, typer.Option(help="Tasks to solve: JSONL (math: also a hub id; empty generates some).")] = "",
    task: Task = "swe",
    model: Annotated[str, typer.Option(help="A folder, a hub id, or smollm2.")] = "",
    trajectories: Annotated[
        list[Path],
        typer.Option(help="Instead of tasks: score the model on the steps of expert trajectories. Repeatable."),
    ] = [],  # noqa: B006
    gold: Annotated[bool, typer.Option("--gold", help="Grade the gold patches: must resolve.")] = False,
    empty: Annotated[bool, typer.Option("--empty", help="Grade empty patches: must not resolve.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for predictions and verdicts; goes on if it holds some.")
    ] = None,
    config: Annotated[str, typer.Option(help="A YAML file or a shipped config (`agent-srl config list`).")] = "",
    samples: Annotated[int, typer.Option(help="Math: samples for avg@k at temperature 1.", min=1)] = 4,
    limit: Annotated[int, typer.Option(help="Only the first tasks or trajectories; 0 takes all.", min=0)] = 0,
    sandbox: Annotated[str, typer.Option(help="auto, bubblewrap or docker.")] = "auto",
    url: Annotated[str, typer.Option(help="An environment server instead of sandboxes here.")] = "",
    set_: Set = [],  # noqa: B006
) -> None:
    """Drive a model as an agent and grade its patches in fresh sandboxes (swe), or judge its answers (math).

    With --trajectories, compare its next actions with the expert's instead: reward, exact match, tool, file and
    perplexity on eval.steps of their steps, beside the baselines that cost nothing. No sandbox is needed.

    Examples:

      agent-srl eval --task swe --model runs/quickstart/model --tasks tasks.jsonl

      agent-srl eval --task swe --tasks tasks.jsonl --gold

      agent-srl eval --task swe --model runs/quickstart/model --trajectories heldout.jsonl

      agent-srl eval --task math --model runs/math/model --tasks gsm8k_test.jsonl --limit 50
    """
    from agent_srl.config_file import load_config
    from agent_srl.evaluate.run import Source, evaluate_run, evaluate_steps

    _known_task(task)
    if sum((gold, empty, bool(model))) != 1:
        raise ConfigError("give exactly one of --model, --gold and --empty")
    if trajectories:
        if task != "swe" or tasks or not model:
            raise ConfigError("--trajectories goes with --task swe and --model, and without --tasks")
        given = {"data.trajectories": [str(p) for p in trajectories]}
        resolved = load_config(config or "swe/trajectories", set_, given | {"data.limit": limit})
        _run(evaluate_steps(resolved, model, out), _again(out))
        return
    if task == "swe" and not tasks:
        raise ConfigError("give --tasks FILE (make one with `agent-srl tasks make`), or --trajectories FILE")
    resolved = load_config(config or f"{task}/quickstart", set_, {"task": task})
    source = Source(model=model, patches="gold" if gold else "empty" if empty else "")
    work = evaluate_run(resolved, source, tasks, out, samples=samples, limit=limit, sandbox=sandbox, url=url)
    _run(work, _again(out))


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Entry point: known failures become one line and exit 2; anything else is a bug and shows itself."""
    try:
        app()
    except PeerFailed:
        sys.exit(2)
    except (AgentSRLError, EnvError, SandboxError) as error:
        _fail(str(error))
    except OSError as error:
        if error.errno not in (
            errno.ENOSPC,
            errno.EACCES,
            errno.EROFS,
            errno.EPERM,
            errno.ENOTDIR,
            errno.EISDIR,
            errno.ENOENT,
            errno.EEXIST,
            errno.ENAMETOOLONG,
            errno.ELOOP,
            errno.EIO,
        ):
            raise
        _fail(f"{error.filename or 'output'}: {os.strerror(error.errno)}" + _way_out(error.errno))


def _way_out(code: int) -> str:
    if code == errno.ENOSPC:
        return "; free some space and start the same command again: finished parts are kept"
    return "; give another path, or mend its permissions"


def _known_task(task: str) -> None:
    if task not in ("swe", "math"):
        raise ConfigError(f"unknown task {task!r}: choose swe or math")


def _run(work: Coroutine[Any, Any, None], go_on: str) -> None:
    """`go_on` says how, after an interruption."""
    try:
        asyncio.run(work)
    except KeyboardInterrupt:
        _say(f"interrupted; {go_on}")
        raise typer.Exit(130) from None
    except Stopped as stopped:
        if os.environ.get("RANK", "0") == "0":
            _say(f"{stopped}; {go_on}")
        raise typer.Exit(143) from None


def _again(out: Path | None) -> str:
    return f"start the same command again to go on in {out}" if out else "give it --out to be able to go on"


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _fail(text: str) -> None:
    _say(f"agent-srl: {text}")
    sys.exit(2)
