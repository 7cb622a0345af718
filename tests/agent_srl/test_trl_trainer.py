"""Risks: TRL trains on other tokens, in another order or at another rate than our loop; a run that starts anew.

Real runs in TRL's GRPOTrainer on a tiny model.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

pytest.importorskip("trl", reason="TRL is not installed")

from agent_srl.config_file import load_config
from agent_srl.data.formats import write_trajectories
from agent_srl.errors import ConfigError, TrainingError
from agent_srl.pipeline import train
from agent_srl.progress import Console
from agent_srl.train.sampling import take, trajectories
from agent_srl.train.trl import check_trl, prompt_text, what_trl_lacks

SETTINGS = [
    "train.trainer=trl",
    "model.threads=1",
    "model.dtype=float32",
    "warmup.steps=0",
    "train.groups=2",
    "train.samples=2",
    "train.max_new_tokens=4",
    "train.checkpoint_every=1",
    "train.lr=0.001",
    "train.lr_warmup_steps=2",
    "eval.steps=2",
    "eval.samples=1",
    "eval.bootstrap=100",
]


def config_of(file, model, *sets):
    given = {"model.path": str(model), "data.trajectories": [str(file)]}
    return load_config("swe/trajectories", [*SETTINGS, *sets], given)


@pytest.fixture
def file(trajectories, tmp_path):
    write_trajectories(tmp_path / "expert.jsonl", trajectories)
    return tmp_path / "expert.jsonl"


@pytest.fixture
def prompts_seen(monkeypatch):
    """The token ids that TRL generates from, one list per update."""
    from trl import GRPOTrainer

    seen, generate = [], GRPOTrainer._generate_single_turn

    def spy(trainer, prompt_ids, *args, **kwargs):
        seen.append([tuple(ids) for ids in prompt_ids])
        return generate(trainer, prompt_ids, *args, **kwargs)

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", spy)
    return seen


def test_a_run_sees_our_prompts_in_our_order_and_is_gone_on_with(file, tiny_model, tmp_path, prompts_seen, monkeypatch):
    import agent_srl.train.trl as ours

    given, real = [], ours.train_with_trl

    def spy(learner, examples, *args):
        given.append(examples)
        real(learner, examples, *args)

    monkeypatch.setattr(ours, "train_with_trl", spy)
    out = tmp_path / "run"
    for steps in (1, 2):
        asyncio.run(train(config_of(file, tiny_model, f"train.max_steps={steps}"), out, Console()))
    places = [place for chunk in take(trajectories(given[0]), 1, 0, 0, 4)[0] for place in chunk]
    expected = [given[0][i].prompt_P for i in places for _ in range(2)]
    assert prompts_seen == [expected[:4], expected[4:]]
    rows = [json.loads(line) for line in (out / "srl" / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [1, 2] and [r["lr"] for r in rows] == pytest.approx([0.0005, 0.001])
    assert all(r["reward"] == -1 and r["format_valid"] == 0 and r["entropy"] > 0 for r in rows)
    samples = [json.loads(line) for line in (out / "srl" / "samples.jsonl").read_text().splitlines()]
    assert [s["example"] for s in samples] == [given[0][i].example_id for i in places]
    results = json.loads((out / "results.json").read_text())
    assert [r["policy"] for r in results["rows"]][-2:] == ["SRL", "SRL minus before"]


def test_a_prompt_whose_text_reads_back_as_other_tokens_is_named(tokenizer, trajectories):
    from agent_srl.config import DataConfig
    from agent_srl.data.actions import FORMATS
    from agent_srl.data.render import Renderer
    from agent_srl.data.steps import StepBuilder

    example = StepBuilder(Renderer(tokenizer), FORMATS["xml"], DataConfig()).build(trajectories).examples[0]
    assert tokenizer(prompt_text(tokenizer, example))["input_ids"] == list(example.prompt_P)
    split = (*tokenizer.encode("th", add_special_tokens=False), *tokenizer.encode("e", add_special_tokens=False))
    with pytest.raises(TrainingError, match=r"#0: .*train\.trainer=own"):
        prompt_text(tokenizer, replace(example, prompt_P=split))


@pytest.mark.parametrize(
    "setting", ["train.eval_every=2", "train.minibatches=2", "model.lora.rank=4", "rollout.engine=vllm"]
)
def test_what_trl_cannot_do_is_refused_before_anything_is_read(file, tiny_model, setting):
    with pytest.raises(ConfigError, match=setting.split("=")[0].replace(".rank", "") + r".* needs train\.trainer=own"):
        check_trl(config_of(file, tiny_model, setting))


def test_keys_that_trl_never_reads_are_named(file, tiny_model):
    assert "without effect" not in what_trl_lacks(config_of(file, tiny_model, "train.refill_rounds=3").train)
    said = what_trl_lacks(config_of(file, tiny_model, "train.attention=masked", "train.max_staleness=4").train)
    assert said.endswith("without effect there: train.refill_rounds, train.max_staleness, train.attention")


def test_a_checkpoint_of_trls_that_is_cut_off_is_named(file, tiny_model, tmp_path):
    out = tmp_path / "run"
    asyncio.run(train(config_of(file, tiny_model, "train.max_steps=1"), out, Console()))
    checkpoint = out / "srl" / "trl" / "checkpoint-1"
    for name in ("optimizer.pt", "model.safetensors"):
        (checkpoint / name).write_bytes((checkpoint / name).read_bytes()[:500])
        with pytest.raises(TrainingError, match=r"checkpoint-1 is no whole checkpoint.*delete it"):
            asyncio.run(train(config_of(file, tiny_model, "train.max_steps=2"), out, Console()))


def test_several_processes_are_refused(file, tiny_model, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="accelerate launch"):
        check_trl(config_of(file, tiny_model))
