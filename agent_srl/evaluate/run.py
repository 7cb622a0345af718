"""`agent-srl eval`: choose the tasks or steps, the environment and the policy, evaluate, print."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from agent_srl.config import Config
from agent_srl.data.prepare import read_all
from agent_srl.errors import DataError
from agent_srl.evaluate.comparison import Comparison
from agent_srl.evaluate.episodes import Solver, evaluate, model_solver, patch_solver
from agent_srl.evaluate.report import report, resolve_summary
from agent_srl.evaluate.stats import bootstrap
from agent_srl.evaluate.steps import choose
from agent_srl.models import check_context
from agent_srl.policy import load_policy
from agent_srl.progress import Console
from agent_srl.run_folder import locked
from env_server.client import EnvClient, Environment
from env_server.local import generate_problems, load_math, load_tasks, open_environment
from env_server.schema import Task, Verdict


@dataclass(frozen=True)
class Source:
    """Who answers: a model, or the `gold` or `empty` patches."""

    model: str
    patches: str


async def evaluate_run(
    config: Config,
    source: Source,
    tasks: str,
    out: Path | None,
    *,
    samples: int,
    limit: int,
    sandbox: str,
    url: str,
) -> None:
    """Evaluate and print. Raises AgentSRLError, EnvError or SandboxError with the way out."""
    console = Console()
    rows = _tasks(config, tasks)[: limit or None]
    if not rows:
        raise DataError(f"{tasks} holds no task")
    folder = out or _folder(config)
    with locked(folder):
        policy = load_policy(source.model, config) if source.model else None
        environment: Environment = EnvClient(url) if url else open_environment(rows, sandbox)

        def solver(temperature: float, seed: int) -> Solver:
            if policy is None:
                return patch_solver(environment, gold=source.patches == "gold")
            turns = config.eval.max_turns
            return model_solver(environment, policy, source.model, temperature=temperature, max_turns=turns, seed=seed)

        name = source.patches or source.model
        workers = config.eval.workers
        try:
            verdicts = await evaluate(rows, solver(0.0, 0), folder, name, workers, console)
            _print(verdicts, "greedy" if policy else name, "solved" if config.task == "math" else "resolved")
            if policy and config.task == "math":
                runs = [
                    await evaluate(rows, solver(1.0, k + 1), folder / f"sample-{k + 1}", name, workers, console)
                    for k in range(samples)
                ]
                _print_average(runs)
        finally:
            await environment.close()
    console.say(f"predictions, verdicts and episodes: {folder}")


async def evaluate_steps(config: Config, model: str, out: Path | None) -> None:
    """Score a model on `eval.steps` steps of `data.trajectories` and print the table.

    The constant is chosen on the same trajectories, so that baseline is, if anything, too good. Raises AgentSRLError.
    """
    from agent_srl.train.loop import threads_and_seed

    console = Console()
    threads_and_seed(config.model.threads, config.seed)
    trajectories = read_all(config.data, console)
    policy = load_policy(model, config, trajectories)
    if policy.builder.renderer.note:
        console.say(policy.builder.renderer.note)
    with console.progress("cutting steps", len(trajectories)) as tick:
        steps = policy.builder.build(trajectories, tick)
    reasons = ", ".join(f"{n} {reason}" for reason, n in steps.dropped.most_common()) or "none"
    console.say(f"{len(steps.examples)} steps; steps that are no targets: {reasons}")
    if not steps.examples:
        raise DataError(f"no step of {', '.join(config.data.trajectories)} can be scored ({reasons})")
    check_context(model, steps.examples, config.train.max_new_tokens)
    folder = out or _folder(config)
    chosen = choose(steps.examples, config.eval.steps, config.seed)
    comparison = Comparison(config, steps.examples, chosen, folder, console)
    with locked(folder):
        await comparison.add(model, lambda _: policy, model)
        report(comparison, [], folder, console)


def _folder(config: Config) -> Path:
    return Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{config.task}-eval"


def _tasks(config: Config, source: str) -> list[Task]:
    if config.task == "swe":
        return load_tasks(Path(source))
    # A seed of its own: the training problems are never asked again.
    return load_math(source) if source else generate_problems(50, config.seed + 1)


def _print(verdicts: list[Verdict], name: str, what: str) -> None:
    for verdict in verdicts:
        if verdict.failure:
            print(f"{verdict.instance_id}: masked, {verdict.failure.kind}: {verdict.failure.reason}")
    summary = resolve_summary(verdicts, what)
    print(f"{name}: {summary['text']}" if summary else f"{name}: nothing to judge")


def _print_average(runs: list[list[Verdict]]) -> None:
    """avg@k: mean over problems of the share of right samples; masked samples left out."""
    values: list[float] = []
    names: list[str] = []
    for verdicts in runs:
        for verdict in verdicts:
            if verdict.reward is not None:
                values.append(verdict.reward)
                names.append(verdict.instance_id)
    if values:
        print(f"avg@{len(runs)} at temperature 1: {bootstrap(values, names)} (bootstrap over problems)")
