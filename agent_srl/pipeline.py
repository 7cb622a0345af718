"""`agent-srl train`: data, warm-up, SRL, comparison on held-out steps, episodes, table. Every stage resumes.

run/
  config.yaml environment.json     what was run
  warmup/model  srl/  model        weights; srl/ holds checkpoints, metrics.jsonl, samples.jsonl, the best model so far
  eval/                            rewards per held-out step and policy
  episodes/                        predictions, verdicts, trajectories of the trained agent
  results.json  report.md          the table
"""

from __future__ import annotations

import contextlib
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_srl.config import Config, DataConfig, ModelConfig
from agent_srl.data.actions import ActionFormat, choose_format
from agent_srl.data.prepare import Prepared, prepare
from agent_srl.data.render import Renderer
from agent_srl.data.steps import StepBuilder, split
from agent_srl.errors import ConfigError, DataError, ModelError
from agent_srl.evaluate.comparison import Comparison
from agent_srl.evaluate.episodes import evaluate, model_solver
from agent_srl.evaluate.report import report
from agent_srl.evaluate.steps import choose, set_aside, validate
from agent_srl.memory import release_memory
from agent_srl.progress import Console
from agent_srl.run_folder import open_run, saved_config
from agent_srl.train.choice import BestModel, Metrics
from agent_srl.types import StepExample
from env_server.local import open_environment
from env_server.schema import Verdict
from env_server.settings import Settings

if TYPE_CHECKING:
    from agent_srl.train.processes import Processes


@dataclass
class Steps:
    """What training, the choice of a checkpoint and the comparison see. No trajectory is in two of them."""

    train: list[StepExample]
    validation: list[StepExample]
    heldout: list[StepExample]
    fmt: ActionFormat
    builder: StepBuilder


async def train(config: Config, out: Path, console: Console) -> None:
    """Run every stage that `out` does not hold yet. Raises AgentSRLError, EnvError or SandboxError."""
    with contextlib.ExitStack() as held:
        await _stages(config, out, console, held)


async def _stages(config: Config, out: Path, console: Console, held: contextlib.ExitStack) -> None:
    """`held` keeps the folder from other runs."""
    from agent_srl.models import check_context, load_model, load_tokenizer
    from agent_srl.policy import Policy, faster_dtype, pick_device, pick_dtype
    from agent_srl.self_check import self_check
    from agent_srl.train.loop import threads_and_seed
    from agent_srl.train.processes import Processes

    if config.train.trainer == "trl":
        from agent_srl.train.trl import check_trl, what_trl_lacks

        check_trl(config)
        console.say(what_trl_lacks(config.train))
    device = pick_device(config.model.device)
    processes = Processes.start(device)
    if not processes.main:
        console = Console(silent=True)
    threads_and_seed(config.model.threads, config.seed)

    async def begin() -> tuple[ModelConfig, Path]:
        if config.model.dtype == "auto":  # settled once: a run that is gone on with must not change it
            config.model.dtype = _saved_dtype(out) or faster_dtype(device)
        held.enter_context(open_run(out, config))
        return config.model, out

    async def data() -> tuple[Prepared, DataConfig]:
        return await prepare(config, console), config.data

    config.model, out = await processes.first(begin)
    dtype = pick_dtype(config.model.dtype, device)
    with processes.agreed():  # before the data: a model that cannot be had, or used, is said at once
        tokenizer = load_tokenizer(config.model.path)
        if not _trained(config, out):
            model = load_model(config.model.path, dtype, device)
            await self_check(model, {tokenizer.eos_token_id}, config, processes, console)
            del model
    renderer = Renderer(tokenizer)
    if renderer.note:
        console.say(renderer.note)
    prepared, config.data = await processes.first(data)
    with processes.agreed():
        steps = _steps(prepared, renderer, config, console)
        every = [*steps.train, *steps.validation, *steps.heldout]
        check_context(config.model.path, every, config.train.max_new_tokens)

    def policy(folder: str) -> Policy:
        release_memory()  # every stage loads its model here, when the one before is done
        try:
            model = load_model(folder, dtype, device)
        except ModelError as error:
            if folder == config.model.path:
                raise
            raise ModelError(
                f"{error}; delete {folder} and start the same command again, which makes it anew"
            ) from error
        return Policy(model, tokenizer, steps.builder, config, processes)

    async def before() -> str:
        start = _warm_up(policy, steps, config, out, console)
        await comparison.add("warm-up" if config.warmup.steps else "before", policy, start)
        return start

    comparison = Comparison(config, steps.train, choose(steps.heldout, config.eval.steps, config.seed), out, console)
    start = await processes.first(before)
    await _srl(policy, start, steps, config, out, console, processes)
    processes.close()
    if not processes.main:
        return
    await comparison.add("SRL", policy, str(out / "model"))
    if config.eval.controls:
        await comparison.add_controls(policy, start)
    verdicts = await _episodes(policy, prepared, config, out, console)
    console.say(f"model:   {out / 'model'}")
    console.say(f"samples: {out / 'srl' / 'samples.jsonl'} and {out / 'srl' / 'metrics.jsonl'}")
    report(comparison, verdicts, out, console)


def _done(config: Config, out: Path) -> Path:
    return out / "srl" / f"done-{config.train.max_steps}"


def _trained(config: Config, out: Path) -> bool:
    return _done(config, out).exists() and (out / "model").is_dir()


def _saved_dtype(out: Path) -> Any:
    saved = saved_config(out) or {}
    return saved.get("model", {}).get("dtype")


def _steps(prepared: Prepared, renderer: Renderer, config: Config, console: Console) -> Steps:
    fmt = choose_format(config.data.action_format, prepared.trajectories)
    builder = StepBuilder(renderer, fmt, config.data)
    train, heldout = split(prepared.trajectories, config.data, config.seed)
    with console.progress("cutting steps", len(train) + len(heldout)) as tick:
        train_steps, heldout_steps = builder.build(train, tick), builder.build(heldout, tick)
    dropped = train_steps.dropped + heldout_steps.dropped
    reasons = ", ".join(f"{n} {reason}" for reason, n in dropped.most_common()) or "none"
    console.say(
        f"{len(train)} trajectories to train on ({len(train_steps.examples)} steps), {len(heldout)} held out "
        f"({len(heldout_steps.examples)} steps); steps that are no targets: {reasons}"
    )
    if not train_steps.examples:
        raise DataError(
            f"no step can be trained on ({reasons}): raise data.max_target_tokens or give other trajectories"
        )
    if not heldout_steps.examples:
        console.say("nothing is held out (one trajectory, or data.heldout_fraction=0): there will be no comparison")
    validation, compared = list[StepExample](), heldout_steps.examples
    if config.train.eval_every:
        validation, compared = set_aside(compared, config.train.eval_steps, config.seed)
        console.say(
            f"{len(validation)} held-out steps choose the model; {len(compared)} of other trajectories are compared on"
        )
    return Steps(train_steps.examples, validation, compared, fmt, builder)


def _warm_up(policy: Any, steps: Steps, config: Config, out: Path, console: Console) -> str:
    """The folder of the model that SRL starts from."""
    from agent_srl.train.sft import fine_tune

    if not config.warmup.steps:
        return config.model.path
    folder = out / "warmup" / "model"
    if folder.is_dir():
        return str(folder)
    learner = policy(config.model.path)
    learner.prepare_training()
    with console.live("warm-up (SFT)", config.warmup.steps) as show:
        fine_tune(
            learner.model,
            steps.train,
            config.warmup,
            seed=config.seed,
            folder=out / "warmup" / "checkpoints",
            on_step=lambda step, loss: show(step, f"loss {loss:.3f}"),
        )
    learner.save(folder)
    shutil.rmtree(out / "warmup" / "checkpoints", ignore_errors=True)
    return str(folder)


async def _srl(
    policy: Any, start: str, steps: Steps, config: Config, out: Path, console: Console, processes: Processes
) -> None:
    from agent_srl.train.loop import SRLLoop

    done = _done(config, out)
    reached = max((int(file.name.removeprefix("done-")) for file in done.parent.glob("done-*")), default=0)
    if reached > config.train.max_steps:
        raise processes.once(
            ConfigError(
                f"{out} holds a model of {reached} steps: give train.max_steps={reached} or more, or another --out"
            )
        )
    if _trained(config, out):
        console.say(f"SRL is already trained for {config.train.max_steps} steps in {out}; using it")
        return
    with processes.agreed():
        learner = policy(start)
    if config.train.trainer == "trl":
        _srl_in_trl(learner, steps, config, out, console)
        done.touch()
        return
    with processes.agreed():
        learner.prepare_training()
    best = _best_model(learner, steps, config, out) if config.train.eval_every else None
    with console.live("SRL", config.train.max_steps) as show:
        loop = SRLLoop(
            learner.model,
            learner.sampler,
            steps.train,
            config.train,
            seed=config.seed,
            folder=out / "srl",
            best=best,
            on_step=lambda r: show(r["step"], _line(r)),
            on_progress=lambda step, note: show(step, note, passing=True),
            processes=processes,
        )
        await loop.run()
    if not processes.main:
        return
    if best and best.best:
        best.copy(out / "model")
        console.say(f"kept the model of step {best.best.step}: it scores best on the steps held out for the choice")
    else:
        learner.save(out / "model")
    done.touch()


def _srl_in_trl(learner: Any, steps: Steps, config: Config, out: Path, console: Console) -> None:
    from agent_srl.train.trl import train_with_trl

    with console.live("SRL in TRL", config.train.max_steps) as show:
        train_with_trl(learner, steps.train, config, out / "srl", lambda r: show(r["step"], _line(r)))
    learner.save(out / "model")


def _best_model(learner: Any, steps: Steps, config: Config, out: Path) -> BestModel:
    async def measure() -> Metrics:
        return await validate(learner, steps.validation, config.train.row_tokens)

    return BestModel(config.train.eval_every, measure, learner.save, out / "srl" / "best")


async def _episodes(policy: Any, prepared: Prepared, config: Config, out: Path, console: Console) -> list[Verdict]:
    """The trained model as an agent on held-out tasks, drawn once."""
    count = min(config.eval.episodes, len(prepared.eval_tasks))
    if not count:
        if prepared.eval_tasks:
            console.say("eval.episodes=0: the trained agent is driven on no task")
        return []
    tasks = random.Random(config.seed).sample(prepared.eval_tasks, count)
    environment = open_environment(tasks, settings=Settings(command_timeout_s=config.eval.command_timeout_s))
    try:
        solve = model_solver(
            environment,
            policy(str(out / "model")),
            str(out / "model"),
            temperature=0.0,
            max_turns=config.eval.max_turns,
            seed=config.seed,
        )
        return await evaluate(tasks, solve, out / "episodes", out.name, config.eval.workers, console)
    finally:
        await environment.close()


def _line(r: dict[str, Any]) -> str:
    """The live line: reward, format errors, kept groups, tokens per second."""
    valid = f"{1 - r['format_valid']:.0%}" if r["format_valid"] is not None else "-"
    reward = f"{r['reward']:+.3f}" if r["reward"] is not None else "-"
    heldout = f"  held-out {r['heldout']['reward']:+.3f}" if "heldout" in r else ""
    return (
        f"reward {reward}  format errors {valid}  kept {r['kept_groups']}/{r['sampled_groups']} groups "
        f"{r['tokens_per_s']:.0f} tokens/s{heldout}"
    )
