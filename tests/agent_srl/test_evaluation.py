"""Risks: an interval that does not cover, steps counted as independent, a constant that is not the best."""

from __future__ import annotations

import random

from agent_srl.evaluate.baselines import baseline_rewards, best_constant
from agent_srl.evaluate.report import resolve_summary
from agent_srl.evaluate.stats import bootstrap, paired, wilson
from agent_srl.rewards.similarity import ratio
from agent_srl.types import StepExample
from env_server.schema import Action, Verdict


def bash(command: str) -> Action:
    return Action(name="bash", arguments={"command": command})


def example(i: int, command: str, previous: str | None = None) -> StepExample:
    return StepExample(
        f"t#{i}", "r", f"t{i % 3}", i, (1,), bash(command), (2,), (-100,), bash(previous) if previous else None
    )


def test_bootstrap_intervals_cover_the_mean_about_as_often_as_they_say():
    rng, hits = random.Random(0), 0
    for trial in range(200):
        values = [rng.gauss(0.3, 1) for _ in range(60)]
        estimate = bootstrap(values, [str(i) for i in range(60)], draws=300, seed=trial)
        hits += estimate.low <= 0.3 <= estimate.high
    assert 175 <= hits <= 199


def test_clusters_widen_the_interval():
    values = [float(i // 10) for i in range(100)]
    apart = bootstrap(values, [str(i) for i in range(100)])
    clustered = bootstrap(values, [str(i // 10) for i in range(100)])
    assert clustered.high - clustered.low > 2 * (apart.high - apart.low)


def test_a_paired_difference_sees_what_unpaired_means_hide():
    before = [float(i) for i in range(50)]
    estimate = paired([b + 0.5 for b in before], before, [str(i) for i in range(50)])
    assert estimate.low == estimate.high == estimate.mean == 0.5


def test_wilson_means_something_at_zero_and_one():
    assert wilson(0, 10).low == 0 and 0.25 < wilson(0, 10).high < 0.30
    assert wilson(10, 10).high > 0.999 and 0.70 < wilson(10, 10).low < 0.75


def test_the_best_constant_beats_every_other_training_action():
    commands = ["ls", "python run.py", "python run.py -v", "python run_all.py", "cat setup.cfg"]
    train = [example(i, c) for i, c in enumerate(commands)]

    def worth(constant: str) -> float:
        return sum(ratio(constant, c) for c in commands)

    assert worth(best_constant(train, 0)) == max(worth(c) for c in commands)


def test_repeating_the_last_action_is_scored_against_the_expert():
    rewards = baseline_rewards([example(0, "ls")], [example(1, "pwd", "pwd"), example(2, "pwd")], 0)
    assert rewards["repeat the last action"] == [1.0, 0.0]


def test_masked_verdicts_are_counted_apart_and_never_as_failures():
    masked = Verdict.masked("c", "infra", "engine down")
    done = [Verdict(instance_id=n, resolved=r, reward=float(r)) for n, r in (("a", True), ("b", False))]
    summary = resolve_summary([*done, masked])
    assert summary is not None and (summary["tasks"], summary["masked"], summary["resolved"]["mean"]) == (2, 1, 0.5)
    assert resolve_summary([masked])["tasks"] == 0  # type: ignore[index]
