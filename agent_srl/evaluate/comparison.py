"""Compare policies on the same held-out steps, beside the baselines that cost nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from agent_srl.config import Config
from agent_srl.evaluate.baselines import baseline_rewards
from agent_srl.evaluate.stats import bootstrap
from agent_srl.evaluate.steps import Row, Scores, difference_row, policy_row, read_scores, score_policy
from agent_srl.progress import Console
from agent_srl.train.sft import fine_tune
from agent_srl.types import StepExample

if TYPE_CHECKING:
    from agent_srl.policy import Policy

LoadPolicy = Callable[[str], "Policy"]
_SEED = 7


class Comparison:
    """Scores policies and remembers them in the order they were added."""

    def __init__(
        self,
        config: Config,
        train: list[StepExample],
        heldout: list[StepExample],
        out: Path,
        console: Console,
    ) -> None:
        self.config, self.train, self.heldout, self.out, self.console = config, train, heldout, out, console
        self.scores: dict[str, tuple[Scores, Scores | None]] = {}

    async def add(self, name: str, load: LoadPolicy, folder: str) -> None:
        """Score the model in `folder` at temperature 1 and greedy."""
        if self.heldout:
            scores = await self._score(name, load, folder, 1.0, greedy=self.config.eval.greedy)
            self.scores[name] = (scores["sampled"], scores.get("greedy"))

    async def add_controls(self, load: LoadPolicy, start: str) -> None:
        """Temperature 0.5 for both models, and SFT continued from the warm-up for SRL's CPU seconds."""
        if not self.heldout:
            return
        for name, folder in (("warm-up", start), ("SRL", str(self.out / "model"))):
            scores = await self._score(f"{name}, T=0.5", load, folder, 0.5, greedy=False)
            self.scores[f"{name}, T=0.5"] = (scores["sampled"], None)
        await self.add("SFT continued", load, str(self._sft_continued(load, start)))

    def rows(self) -> list[Row]:
        """The table: baselines, policies, paired differences."""
        if not self.scores:
            return []
        draws, clusters = self.config.eval.bootstrap, [e.instance_id for e in self.heldout]
        baselines = baseline_rewards(self.train, self.heldout, self.config.seed)
        rows = [Row(name, bootstrap(r, clusters, draws=draws)) for name, r in baselines.items()]
        rows += [policy_row(name, self.heldout, *pair, draws) for name, pair in self.scores.items()]
        names = [n for n in self.scores if "T=0.5" not in n]
        for before in names:
            if before != "SRL" and "SRL" in self.scores:
                title = f"SRL minus {before}"
                rows.append(difference_row(title, self.heldout, self.scores["SRL"], self.scores[before], draws))
        return rows

    async def _score(
        self, name: str, load: LoadPolicy, folder: str, temperature: float, *, greedy: bool
    ) -> dict[str, Scores]:
        cache = self.out / "eval" / f"{name.replace(', ', '-').replace(' ', '-')}.json"
        if cache.exists():
            return read_scores(cache)
        policy = load(folder)
        wanted = {"sampled": (self.config.eval.samples, policy.sampling(temperature, _SEED))}
        if greedy:
            wanted["greedy"] = (1, policy.sampling(0.0, _SEED))
        with self.console.progress(f"held-out steps: {name}", len(self.heldout)) as tick:
            return await score_policy(policy.sampler, self.heldout, wanted, cache, tick)

    def _sft_continued(self, load: LoadPolicy, start: str) -> Path:
        folder = self.out / "sft-continued" / "model"
        if folder.is_dir():
            return folder
        seconds = _cpu_seconds(self.out / "srl" / "metrics.jsonl")
        learner = load(start)
        with self.console.live(f"SFT continued for {seconds:.0f} CPU seconds", 0) as show:
            fine_tune(
                learner.model,
                self.train,
                self.config.warmup,
                seed=self.config.seed + 1,
                folder=self.out / "sft-continued" / "checkpoints",
                cpu_seconds=seconds,
                on_step=lambda step, loss: show(step, f"loss {loss:.3f}"),
            )
        learner.save(folder)
        return folder


def _cpu_seconds(metrics: Path) -> float:
    return sum(float(json.loads(line)["cpu_s"]) for line in metrics.read_text(encoding="utf-8").splitlines())
