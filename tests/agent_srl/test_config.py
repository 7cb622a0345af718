"""Risks: an unknown key that is ignored, a shipped config that does not load, a run resumed with other settings."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from agent_srl.config import Config
from agent_srl.config_file import dump_config, load_config, shipped_configs
from agent_srl.errors import ConfigError
from agent_srl.run_folder import _flat, locked, open_run


@pytest.mark.parametrize("name", shipped_configs())
def test_shipped_configs_load_and_survive_a_round_trip(name, tmp_path):
    config = load_config(name, [])
    (tmp_path / "saved.yaml").write_text(dump_config(config))
    assert load_config(str(tmp_path / "saved.yaml"), []) == config


def test_shipped_configs_open_with_hardware_command_and_time():
    from agent_srl.config_file import _config_root

    for name in shipped_configs():
        head = (_config_root() / f"{name}.yaml").read_text()[:400]
        assert head.startswith("# Hardware:") and "# Command:" in head and "# Time:" in head


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.max_stepz=3", "unknown key 'train.max_stepz'"),
        ("nothing.here=3", "unknown key 'nothing'"),
        ("train.max_steps=-1", "train.max_steps"),
        ("train.max_steps=many", "train.max_steps"),
        ("train.max_steps", "section.key=value"),
        ("seed.x=1", "seed is a value"),
        ("data.trajectories=[", "not valid YAML"),
        ("reward.weights={magic: 1}", "unknown reward 'magic'"),
        ("reward.weights={ratio: 0}", "reward.weights"),
        ("reward.weights={ratio: .inf}", "reward.weights"),
        ("reward.weights={}", "give at least one"),
        ("rollout.url=http://127.0.0.1:1", "rollout.url needs rollout.engine=vllm-server, not transformers"),
    ],
)
def test_a_wrong_override_is_named(override, message):
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        load_config("swe/quickstart", [override])


def test_the_training_default_is_the_papers_reward():
    assert all(load_config(name, []).reward.weights == {"ratio": 1.0} for name in shipped_configs())
    mixed = load_config("swe/quickstart", ["reward.weights={structured: 2, ratio: 1}"])
    assert mixed.reward.weights == {"structured": 2.0, "ratio": 1.0}


def test_whole_trajectories_fit_what_the_recipes_model_holds():
    config = load_config("swe/whole", [])
    assert config.data.context == "full" and config.train.steps_per_trajectory == 0
    assert config.data.max_prompt_tokens + config.train.max_new_tokens == 32768  # Qwen2.5-Coder-7B-Instruct
    assert config.train.row_tokens > config.data.max_prompt_tokens and config.train.gradient_checkpointing


def test_overrides_and_flags_reach_the_config():
    config = load_config("swe/quickstart", ["train.max_steps=3", "train.betas=[0.8, 0.9]"], {"model.path": "somewhere"})
    assert (config.train.max_steps, config.train.betas, config.model.path) == (3, (0.8, 0.9), "somewhere")


def test_files_that_are_no_config_are_named(tmp_path):
    with pytest.raises(ConfigError, match="swe/quickstart"):
        load_config("no/such", [])
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1\nb: 2")
    with pytest.raises(ConfigError, match="line 2"):
        load_config(str(broken), [])
    broken.write_text("- 1")
    with pytest.raises(ConfigError, match="keys and values"):
        load_config(str(broken), [])


def agent_srl(*args: str) -> str:
    done = subprocess.run([sys.executable, "-m", "agent_srl", *args], capture_output=True, text=True, check=True)
    return done.stdout


def test_every_key_is_printed_with_its_default_and_meaning_as_a_config(tmp_path):
    printed = agent_srl("config")
    (tmp_path / "all.yaml").write_text(printed)
    assert load_config(str(tmp_path / "all.yaml"), []) == Config()
    assert "  # Groups (step examples) trained on per update.\n  groups: 6\n" in printed
    assert "# One of: auto, cpu, cuda.\n  device: auto\n" in printed
    assert set(_flat(Config().model_dump())) == set(_flat(yaml.safe_load(printed)))
    assert "agent-srl config" in agent_srl("train", "--help")


def test_shipped_configs_are_listed_with_what_they_need():
    printed = agent_srl("config", "list").split("\n\n")
    assert [part.splitlines()[0] for part in printed if part.strip()] == shipped_configs()
    assert all("  Hardware: " in part and "  Command: " in part for part in printed if part.strip())


def test_a_run_goes_on_only_with_the_same_settings(tmp_path):
    def opened(out, config):
        with open_run(out, config):
            pass

    config = Config()
    opened(tmp_path / "run", config)
    longer = Config.model_validate({"train": {"max_steps": 99}, "eval": {"controls": True}})
    opened(tmp_path / "run", longer)
    with pytest.raises(ConfigError, match=r"data\.context='full'"):
        opened(tmp_path / "run", Config.model_validate({"data": {"context": "window"}}))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="not empty"):
        opened(tmp_path / "other", config)
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["thesis.txt"]


def test_a_run_killed_while_it_began_can_be_started_again(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / "config.yaml.tmp").write_text("task: s")
    with open_run(tmp_path, Config()):
        assert (tmp_path / "config.yaml").is_file()


def test_a_folder_in_use_is_refused_until_its_process_is_gone(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom agent_srl.run_folder import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match=f"{tmp_path} is in use.*--out"), open_run(tmp_path, Config()):
        pass
    other.kill()
    other.wait()
    with open_run(tmp_path, Config()), pytest.raises(ConfigError, match="in use"), locked(tmp_path):
        pass
