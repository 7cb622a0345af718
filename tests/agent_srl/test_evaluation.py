"""Risks: an interval that does not cover, steps counted as independent, a constant that is not the best, agreement
claimed for another file, a perplexity of the wrong tokens."""

from __future__ import annotations

import json
import math
import random
from dataclasses import asdict

import pytest

from agent_srl.errors import DataError
from agent_srl.evaluate.agreement import agreement, files
from agent_srl.evaluate.baselines import baseline_actions, best_constant
from agent_srl.evaluate.perplexity import perplexity
from agent_srl.evaluate.report import resolve_summary
from agent_srl.evaluate.stats import bootstrap, paired, wilson
from agent_srl.evaluate.steps import Evaluation, score_actions, set_aside
from agent_srl.rewards.similarity import bare_call, ratio
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

    best = bare_call(best_constant(train, "ratio", 0))
    assert worth(best) == max(worth(c) for c in commands)


def test_baselines_are_scored_by_the_reward_of_the_run():
    train, heldout = [example(0, "ls")], [example(1, "pytest a.py", "python -m pytest a.py")]
    repeated = baseline_actions(train, heldout, "ratio", 0)["repeat the last action"]
    structured, ratio_ = (score_actions(repeated, heldout, w).per_step()[0] for w in ({"structured": 1.0}, "ratio"))
    assert structured > 0.9 > ratio_


def test_repeating_the_last_action_is_scored_against_the_expert():
    heldout = [example(1, "pwd", "pwd"), example(2, "pwd")]
    repeated = baseline_actions([example(0, "ls")], heldout, "ratio", 0)["repeat the last action"]
    scores = score_actions(repeated, heldout, "ratio")
    assert scores.per_step() == [1.0, 0.0]
    assert scores.shares()["exact_match"] == scores.shares()["tool_accuracy"] == 0.5


def edit(path: str, **arguments: object) -> Action:
    return Action(name="str_replace_editor", arguments={"command": "view", "path": path, **arguments})


@pytest.mark.parametrize(
    ("action", "named"),
    [
        (bash("cd /testbed && sed -n '1,20p' ./pkg/a.py | head"), {"pkg/a.py"}),
        (
            bash("python -m pytest tests/test_a.py::test_x tests/test_b.py -q 2>&1"),
            {"tests/test_a.py", "tests/test_b.py"},
        ),
        (bash("cat <<'EOF' > repro.py\nopen('inside.py')\nEOF\ncat after.txt"), {"repro.py", "after.txt"}),
        (bash("grep -rn self.pyramid pkg/ && ls /usr/lib/python3.11"), set()),
        (bash("cat setup.cfg;git diff -- a.rst"), {"setup.cfg", "a.rst"}),
        (edit("/testbed/pkg/a.py", file_text="b.py"), {"pkg/a.py"}),
        (edit("/workspace/owner__name__1.0/a.py"), {"a.py"}),
        (Action(name="submit"), set()),
    ],
)
def test_files_are_those_an_action_names(action, named):
    assert files(action) == named


def test_agreement_tells_the_same_call_from_the_same_tool_and_the_same_file():
    expert = bash("cd /testbed && cat pkg/a.py")
    assert agreement(bash("cat pkg/a.py\n"), expert) == agreement(expert, expert)
    near, wrong = agreement(bash("head pkg/a.py"), expert), agreement(bash("cat pkg/b.py"), expert)
    assert (near.exact, near.tool, near.file) == (False, True, True)
    assert (wrong.exact, wrong.tool, wrong.file) == (False, True, False)
    assert agreement(edit("/testbed/pkg/a.py"), expert).tool is False
    assert agreement(bash("ls"), bash("ls")).file is None  # says nothing of files
    broken = agreement(None, expert)
    assert (broken.exact, broken.tool, broken.file) == (False, False, False)


def test_steps_that_choose_a_checkpoint_share_no_trajectory_with_those_compared():
    examples = [example(i, "ls") for i in range(30)]
    chosen, compared = set_aside(examples, 8, 0)
    assert len(chosen) == 8 and {e.instance_id for e in compared} and len(compared) >= 10
    assert not {e.instance_id for e in chosen} & {e.instance_id for e in compared}
    assert set_aside(examples, 8, 0) == (chosen, compared)
    assert set_aside(examples, 1000, 0)[1]  # some are always left to compare
    with pytest.raises(DataError, match="two held-out trajectories"):
        set_aside([example(0, "ls"), example(3, "pwd")], 8, 0)


def test_perplexity_is_that_of_the_actions_tokens_alone(tiny_model):
    import torch

    from agent_srl.models import load_model

    model = load_model(str(tiny_model), torch.float32, torch.device("cpu"))
    trunk = tuple(range(50, 90))
    cases = [(trunk, (11, 12, 13, 14), 2), (trunk[:25], (21, 22), 1), ((3, 4), (5,), 0), (trunk, (11, 12, 13, 14), 2)]
    examples = [
        StepExample(f"t#{i}", "r", "t", i, prompt, bash("x"), target, (-100,) * len(prompt), None, start)
        for i, (prompt, target, start) in enumerate(cases)
    ]
    losses: list[float] = []
    for prompt, target, start in cases:
        logits = model(torch.tensor([prompt + target])).logits[0].detach().double().log_softmax(-1)
        losses += [-float(logits[len(prompt) + i - 1, target[i]]) for i in range(start, len(target))]
    model.train()
    expected = math.exp(sum(losses) / len(losses))
    for row_tokens in (30, 4096):
        assert perplexity(model, examples, row_tokens) == pytest.approx(expected, rel=1e-4)
    assert model.training


def test_masked_verdicts_are_counted_apart_and_never_as_failures():
    masked = Verdict.masked("c", "infra", "engine down")
    done = [Verdict(instance_id=n, resolved=r, reward=float(r)) for n, r in (("a", True), ("b", False))]
    summary = resolve_summary([*done, masked])
    assert summary is not None and (summary["tasks"], summary["masked"], summary["resolved"]["mean"]) == (2, 1, 0.5)
    assert resolve_summary([masked])["tasks"] == 0  # type: ignore[index]


@pytest.mark.parametrize(
    "text", [b'{"model": "m", "found": {"sam', b"", b"[]", b"\xff", b'{"model": "m", "found": {"sampled": {}}}']
)
def test_a_broken_file_of_an_evaluation_is_named(text, tmp_path):
    from agent_srl.evaluate.comparison import _kept

    file = tmp_path / "SRL.json"
    file.write_bytes(text)
    with pytest.raises(DataError, match=r"SRL\.json is broken: delete it"):
        _kept(file, {"model": "m"})
    if text.startswith(b'{"model": "m", "found": {"sampled"'):
        assert _kept(file, {"model": "another"}) is None


def test_a_kept_evaluation_is_read_back_as_it_was(tmp_path):
    from agent_srl.evaluate.comparison import _kept

    scores = score_actions([bash("ls"), None], [example(0, "ls"), example(1, "pwd")], "ratio")
    for found in (Evaluation(scores), Evaluation(scores, scores, 1.5)):
        (tmp_path / "a.json").write_text(json.dumps({"model": "m", "found": asdict(found)}))
        assert _kept(tmp_path / "a.json", {"model": "m"}) == found


async def test_a_broken_file_of_an_episode_is_named(tmp_path):
    from agent_srl.evaluate.episodes import Solver, evaluate
    from agent_srl.progress import Console
    from agent_srl.rollout.episodes import Episode
    from env_server.schema import Task, Trajectory

    async def solve(task: Task) -> Episode:
        trajectory = Trajectory(instance_id="a", repo="r", problem_statement="p", steps=[], source="t", patch="")
        return Episode(trajectory, Verdict(instance_id="a", resolved=True, reward=1.0))

    def again():
        task = Task(instance_id="a", problem_statement="p")
        return evaluate([task], Solver(solve, "me"), tmp_path, "me", 1, Console(silent=True))

    first, file = await again(), tmp_path / "instances" / "a.json"
    whole = file.read_bytes()
    assert await again() == first and file.read_bytes() == whole
    file.write_bytes(whole[:-9])
    with pytest.raises(DataError, match=r"a\.json is broken: delete it"):
        await again()


async def test_a_session_that_does_not_close_leaves_the_episode_standing(caplog):
    from agent_srl.rollout.episodes import _close

    class Broken:
        async def close_session(self, session_id):
            raise RecursionError("too deep")

    await _close(Broken(), "a session")
    assert "too deep" in caplog.text
