"""Risks: the sides compute different things, FLOPs are counted wrong, a number that no run made."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

pytest.importorskip("trl", reason="TRL is not installed")

from agent_srl.train.tree import Branch, pack
from agent_srl.train.update import minibatches
from benchmarks.train_update import __main__ as command
from benchmarks.train_update import ours, trl, worker
from benchmarks.train_update.job import Job
from benchmarks.train_update.measure import BenchmarkError, measure
from benchmarks.train_update.plot import growth_svg
from benchmarks.train_update.shapes import ModelShape, Shape, dense_work, flops_saved, tree_work

pytestmark = pytest.mark.filterwarnings("ignore:You are using 'rollout_func'")

MODEL = ModelShape(vocabulary=200, hidden=32, intermediate=64, layers=2)
SHAPE = Shape(trunk=40, steps=3, samples=4, new=6, trees=2)


def branches_of(shape: Shape) -> list[Branch]:
    """As our update makes them."""
    (part,) = minibatches(ours.make_batch(shape, 200, seed=0), ours.train_config("tree", shape))
    return [branch for _, branches in part for branch in branches]


def test_steps_of_a_trajectory_share_its_trunk():
    prompts = SHAPE.prompts(200, seed=0)
    assert [len(p) for p in prompts] == [10, 25, 40] * 2
    assert all(b[: len(a)] == a for tree in (prompts[:3], prompts[3:]) for a, b in pairwise(tree))
    assert prompts[0] != prompts[3][:10] and {len(c) for c in SHAPE.completions(200, 0)} == {6}


def test_work_is_what_is_packed_and_what_tokens_see():
    branches = branches_of(SHAPE)
    assert tree_work(SHAPE).tokens == sum(row.size() for row in pack(branches, 10_000))
    assert dense_work(SHAPE).tokens == sum(row.size() for row in pack(branches, 10_000, share=False))
    seen = sum(sum(range(1, 41)) + sum(4 * sum(p + 1 + i for i in range(5)) for p in (10, 25, 40)) for _ in range(2))
    assert tree_work(SHAPE).pairs == seen
    assert dense_work(SHAPE).pairs == 2 * 4 * sum(sum(range(1, p + 6)) for p in (10, 25, 40))


def test_flops_saved_at_the_main_shape_is_the_published_ratio():
    assert flops_saved(command.MAIN, ModelShape()) == pytest.approx(11.4, abs=0.05)


def test_trl_computes_every_given_row_once_padded_to_the_longest(tmp_path, monkeypatch):
    from trl import GRPOTrainer

    worker.make_model(MODEL, tmp_path, seed=0)
    rows, widths, compute = [], set(), GRPOTrainer._compute_loss

    def spy(trainer, model, inputs):
        ids, mask = inputs["prompt_ids"], inputs["prompt_mask"].bool()
        widths.add((ids.shape[1], inputs["completion_ids"].shape[1]))
        prompts = [tuple(row[keep].tolist()) for row, keep in zip(ids, mask, strict=True)]
        rows.extend(zip(prompts, map(tuple, inputs["completion_ids"].tolist()), strict=True))
        return compute(trainer, model, inputs)

    monkeypatch.setattr(GRPOTrainer, "_compute_loss", spy)
    clock = trl.measure(Job("trl", "update", SHAPE, MODEL, micro_batch=2), SHAPE, tmp_path)
    assert widths == {(40, 6)} and clock.cpu > 0
    assert sorted(rows) == sorted((b.prompt, b.tokens) for b in branches_of(SHAPE))


def test_both_sides_sample_as_many_tokens_from_the_same_prompts(tmp_path, monkeypatch):
    from trl import GRPOTrainer

    from agent_srl.rollout.hf import TransformersEngine

    worker.make_model(MODEL, tmp_path, seed=0)
    asked, generate, turn = {"trl": [], "ours": []}, TransformersEngine.generate, GRPOTrainer._generate_single_turn

    async def spy_ours(engine, prompt, n, sampling):
        found = await generate(engine, prompt, n, sampling)
        asked["ours"] += [(tuple(prompt), len(c.tokens_T)) for c in found]
        return found

    def spy_trl(trainer, prompts, *args, **kwargs):
        found = turn(trainer, prompts, *args, **kwargs)
        asked["trl"] += [(tuple(p), len(c)) for p, c in zip(prompts, found[0], strict=True)]
        return found

    monkeypatch.setattr(TransformersEngine, "generate", spy_ours)
    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", spy_trl)
    ours.measure(Job("tree", "sample", SHAPE, MODEL), SHAPE, tmp_path)
    trl.measure(Job("trl", "sample", SHAPE, MODEL), SHAPE, tmp_path)
    assert len(asked["ours"]) == SHAPE.rows and sorted(asked["ours"]) == sorted(asked["trl"])


@pytest.mark.slow
def test_the_command_ends_in_the_promised_line_and_writes_its_page(tmp_path, capsys):
    command.main(["--quick", "--rounds", "1", "--threads", "1", "--out", str(tmp_path / "result.json")])
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    promised = (
        "update_vs_trl_cpu update_vs_dense_cpu step_vs_trl_cpu grpo_small_overhead peak_memory_vs_trl flops_saved"
    )
    assert {*promised.split(), "threads", "load"} <= line.keys()
    assert all(line[key] > 0 for key in promised.split()) and line["threads"] == 1
    result = json.loads((tmp_path / "result.json").read_text())
    peaks = {name: measured[0]["peak_mib"] for name, measured in result["rounds"].items()}
    assert line["peak_memory_vs_trl"] == pytest.approx(peaks["thrifty update"] / peaks["trl_thrifty update"])
    assert line["one_pass_peak_memory_vs_trl"] == pytest.approx(peaks["tree update"] / peaks["trl update"])
    assert result["line"] == line and len(result["rounds"]["trl update"]) == 1
    assert "make bench-train" in (tmp_path / "result.md").read_text()


def test_a_measurement_is_a_process_of_its_own_and_its_failure_one_line():
    found = measure(Job("tree", "update", Shape(trunk=16, steps=1, samples=2, new=4), MODEL, threads=1))
    assert found["cpu_s"] > 0 and found["peak_mib"] >= found["before_mib"] > 50
    with pytest.raises(BenchmarkError, match=r"tree update on Shape.* failed: "):
        measure(Job("tree", "update", SHAPE, SHAPE))  # no shape of a model


def test_the_plot_shows_every_point():
    arms = {
        arm: {"cpu_s": s, "peak_mib": 100.0}
        for arm, s in (("thrifty", 1.0), ("dense", 4.0), ("trl", 8.0), ("trl_thrifty", 9.0))
    }
    svg = growth_svg([{"series": "trunk", "value": v, **arms} for v in (500, 1000)])
    assert svg.count("<circle") == 6 and ">500<" in svg and svg.startswith("<svg")
