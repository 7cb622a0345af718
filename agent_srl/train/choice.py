"""Which step's model a run keeps: the best by mean reward on held-out steps, as in arXiv 2510.25992, 5.1.

The best model stands in a folder of its step, so that a killed run finds the one its checkpoint names.
"""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent_srl.errors import TrainingError

Metrics = dict[str, float | None]


@dataclass(frozen=True)
class Best:
    """The step that scored best so far."""

    step: int
    reward: float


class BestModel:
    """Scores the model of a step and keeps the best one. Ties go to the earlier step."""

    def __init__(
        self, every: int, measure: Callable[[], Awaitable[Metrics]], save: Callable[[Path], None], folder: Path
    ) -> None:
        """`measure` scores the model as it stands (its `reward` decides); `save` writes it to a folder, whole or not at
        all."""
        self.every, self.folder = every, folder
        self._measure, self._save = measure, save
        self.best: Best | None = None

    def due(self, step: int, last: int) -> bool:
        return step % self.every == 0 or step == last

    async def consider(self, step: int) -> dict[str, Any]:
        """Score the model of `step` and save it if it is the best. Returns what goes into the step's metrics."""
        metrics = await self._measure()
        reward = metrics["reward"]
        if reward is None:
            raise TrainingError("no held-out step was scored, so no model can be chosen")
        if self.best is None or reward > self.best.reward:
            self._save(self._place(step))
            self.best = Best(step, reward)
        return {"heldout": metrics, "best_step": self.best.step}

    def resume(self, best: dict[str, Any] | None) -> None:
        """Go on from what the checkpoint holds."""
        self.best = Best(**best) if best else None
        if self.best is not None and not self._place(self.best.step).is_dir():
            raise TrainingError(
                f"{self._place(self.best.step)}, the best model so far, is gone: start anew in another --out"
            )

    def tidy(self) -> None:
        """Remove models that are no longer the best; call it when the checkpoint that says so is written."""
        for old in self.folder.glob("step-*"):
            if self.best is None or old != self._place(self.best.step):
                shutil.rmtree(old)

    def copy(self, target: Path) -> None:
        """The best model to `target`, whole or absent."""
        if self.best is None:
            raise TrainingError("no step was scored, so no model can be chosen")
        aside = target.with_name(target.name + ".tmp")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(self._place(self.best.step), aside)
        shutil.rmtree(target, ignore_errors=True)
        aside.rename(target)

    def _place(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"
