"""Risks: a model kept that was not the best, one lost between a kill and the checkpoint that names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent_srl.errors import TrainingError
from agent_srl.train.choice import BestModel


class Model:
    """Scores what it is told to, and saves its step."""

    def __init__(self, folder: Path, rewards: dict[int, float]) -> None:
        self.step, self.rewards = 0, rewards
        self.best = BestModel(2, self.measure, self.save, folder)

    async def measure(self) -> dict[str, float | None]:
        return {"reward": self.rewards[self.step]}

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weights").write_text(str(self.step))

    async def train(self, start: int, stop: int) -> list[int]:
        found = []
        for self.step in range(start, stop + 1):
            if self.best.due(self.step, 7):
                found.append((await self.best.consider(self.step))["best_step"])
        return found


REWARDS = {2: 0.1, 4: 0.5, 6: 0.5, 7: 0.3}


async def test_the_best_is_kept_and_ties_go_to_the_earlier_step(tmp_path):
    model = Model(tmp_path / "best", REWARDS)
    assert await model.train(1, 7) == [2, 4, 4, 4]
    model.best.tidy()
    assert [p.name for p in (tmp_path / "best").iterdir()] == ["step-000004"]
    model.best.copy(tmp_path / "model")
    assert (tmp_path / "model" / "weights").read_text() == "4"


async def test_a_run_killed_before_its_checkpoint_reaches_the_same_choice(tmp_path):
    killed = Model(tmp_path / "best", REWARDS)
    await killed.train(1, 2)
    checkpoint = vars(killed.best.best)
    killed.best.tidy()
    await killed.train(3, 4)  # saves a better model, and is killed before it writes the next checkpoint
    again = Model(tmp_path / "best", REWARDS)
    again.best.resume(checkpoint)
    assert await again.train(3, 7) == [4, 4, 4]
    again.best.copy(tmp_path / "model")
    assert (tmp_path / "model" / "weights").read_text() == "4"
    worse = Model(tmp_path / "best", {4: 0.0, 6: 0.0, 7: 0.0})
    worse.best.resume(checkpoint)
    assert await worse.train(3, 7) == [2, 2, 2]
    worse.best.copy(tmp_path / "model")
    assert (tmp_path / "model" / "weights").read_text() == "2"


async def test_a_best_model_that_is_gone_stops_the_run_with_its_place(tmp_path):
    model = Model(tmp_path / "best", REWARDS)
    with pytest.raises(TrainingError, match="step-000002"):
        model.best.resume({"step": 2, "reward": 0.1})
