"""Compare policies on the same held-out steps, beside the baselines that cost nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from agent_srl.config import Config
from agent_srl.evaluate.baselines import baseline_actions
from agent_srl.evaluate.perplexity import perplexity
from agent_srl.evaluate.steps import (
    Evaluation,
    Row,
    baseline_row,
    difference_row,
    policy_row,
    score_actions,
    score_policy,
)
from agent_srl.progress import Console
from agent_srl.run_folder import model_version, whole, write_text
from agent_srl.train.metrics import read_lines
from agent_srl.types import StepExample

if TYPE_CHECKING:
    from agent_srl.policy import Policy

LoadPolicy = Callable[[str], "Policy"]
_SEED = 7
_EVALUATION = TypeAdapter(Evaluation)


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
        self.found: dict[str, Evaluation] = {}

    async def add(self, name: str, load: LoadPolicy, folder: str) -> None:
        """Score the model in `folder` at temperature 1 and greedy, and how likely it finds the expert's actions."""
        if self.heldout:
            self.found[name] = await self._evaluate(name, load, folder, 1.0)

    async def add_controls(self, load: LoadPolicy, start: str) -> None:
        """Temperature 0.5 for both models, and SFT continued from the warm-up for SRL's CPU seconds."""
        if not self.heldout:
            return
        for name, folder in (("warm-up", start), ("SRL", str(self.out / "model"))):
            self.found[f"{name}, T=0.5"] = await self._evaluate(f"{name}, T=0.5", load, folder, 0.5)
        await self.add("SFT continued", load, str(self._sft_continued(load, start)))

    def rows(self) -> list[Row]:
        """The table: baselines, policies, paired differences."""
        if not self.found:
            return []
        draws, rows, weights = self.config.eval.bootstrap, [], self.config.reward.weights
        for name, actions in baseline_actions(self.train, self.heldout, weights, self.config.seed).items():
            scores = score_actions(actions, self.heldout, weights)
            rows.append(baseline_row(name, self.heldout, scores, draws))
        rows += [policy_row(name, self.heldout, found, draws) for name, found in self.found.items()]
        for before in self.found:
            if before != "SRL" and "SRL" in self.found and "T=0.5" not in before:
                title = f"SRL minus {before}"
                rows.append(difference_row(title, self.heldout, self.found["SRL"], self.found[before], draws))
        return rows

    async def _evaluate(self, name: str, load: LoadPolicy, folder: str, temperature: float) -> Evaluation:
        """At temperature 1 with the greedy replies and the perplexity, where they are wanted. Kept in a file for a run
        that goes on."""
        slug = re.sub(r"[^\w.=-]+", "-", name)
        cache = self.out / "eval" / f"{slug}.json"
        asked = {
            "model": model_version(folder),
            "examples": [e.example_id for e in self.heldout],
            "samples": self.config.eval.samples,
            "greedy": self.config.eval.greedy,
            "perplexity": self.config.eval.perplexity,
        }
        if (kept := _kept(cache, asked)) is not None:
            return kept
        policy = load(folder)
        wanted = {"sampled": (self.config.eval.samples, policy.sampling(temperature, _SEED))}
        if temperature == 1.0 and self.config.eval.greedy:
            wanted["greedy"] = (1, policy.sampling(0.0, _SEED))
        with self.console.progress(f"held-out steps: {name}", len(self.heldout)) as tick:
            scores = await score_policy(policy.sampler, self.heldout, wanted, tick)
        likely = None
        if temperature == 1.0 and self.config.eval.perplexity:
            likely = perplexity(policy.model, self.heldout, self.config.train.row_tokens)
        found = Evaluation(scores["sampled"], scores.get("greedy"), likely)
        write_text(cache, json.dumps(asked | {"found": asdict(found)}))
        return found

    def _sft_continued(self, load: LoadPolicy, start: str) -> Path:
        from agent_srl.train.sft import fine_tune

        folder = self.out / "sft-continued" / "model"
        if folder.is_dir():
            return folder
        seconds = _cpu_seconds(self.out / "srl" / "metrics.jsonl")
        learner = load(start)
        learner.prepare_training()
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
    return sum(float(record["cpu_s"]) for _, record in read_lines(metrics))


def _kept(cache: Path, asked: dict[str, Any]) -> Evaluation | None:
    """What an earlier call found, if it was asked the same."""
    if not cache.exists():
        return None
    with whole(cache):
        saved = json.loads(cache.read_text(encoding="utf-8"))
        if any(saved.get(key) != value for key, value in asked.items()):
            return None
        return _EVALUATION.validate_python(saved["found"])
