"""A model ready to act: weights, engine, step sampler, and how its prompts are built. Saved with the weights, read
back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from agent_srl.config import Config, DataConfig
from agent_srl.data.actions import choose_format, make_format
from agent_srl.data.render import Renderer
from agent_srl.data.steps import StepBuilder
from agent_srl.data.tools import DEFAULT_TOOLS
from agent_srl.errors import ModelError
from agent_srl.lora import add_adapters
from agent_srl.rollout.engine import Engine, Sampling
from agent_srl.rollout.steps import StepSampler
from env_server.schema import Trajectory

if TYPE_CHECKING:
    from agent_srl.train.processes import Processes

_SIDECAR = "agent_srl.yaml"


class Policy:
    """One model with everything that generation needs."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        builder: StepBuilder,
        config: Config,
        processes: Processes | None = None,
    ) -> None:
        """`processes`: those that train it together."""
        self.model, self.tokenizer, self.builder, self.config = model, tokenizer, builder, config
        self.engine = make_engine(model, {tokenizer.eos_token_id}, config, processes)
        self.sampler = StepSampler(
            self.engine,
            builder.renderer,
            builder.fmt,
            min_thought_words=config.train.min_thought_words,
            reward=config.reward.weights,
        )

    def prepare_training(self) -> None:
        """Adapters and recomputation as configured. Raises ModelError."""
        prepare_training(self.model, self.config)

    def sampling(self, temperature: float, seed: int) -> Sampling:
        return Sampling(temperature, self.config.train.max_new_tokens, seed)

    def save(self, folder: Path) -> None:
        """Weights, tokenizer, and how prompts were built. Raises OSError."""
        from agent_srl.train.checkpoint import save_model

        sidecar = {
            "data": self.builder.config.model_dump(mode="json"),
            "action_format": self.builder.fmt.name,
            "tools": list(self.builder.fmt.tools),
        }
        save_model(self.model, self.tokenizer, folder, {_SIDECAR: yaml.safe_dump(sidecar, sort_keys=False)})


def prepare_training(model: Any, config: Config) -> None:
    """Adapters and recomputation as configured. Raises ModelError."""
    if config.model.lora.rank:
        add_adapters(model, config.model.lora, config.seed)
    if config.train.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def make_engine(model: Any, end_tokens: set[int], config: Config, processes: Processes | None = None) -> Engine:
    """The engine that `config.rollout` names; it starts with the first call. Raises ModelError."""
    rollout = config.rollout
    if rollout.engine == "vllm":
        from agent_srl.rollout.vllm import Limits, VllmEngine

        longest = rollout.max_tokens or config.data.max_prompt_tokens + config.train.max_new_tokens
        return VllmEngine(model, end_tokens, Limits(longest, rollout.memory_share, rollout.sleep))
    if rollout.engine == "vllm-server":
        from agent_srl.rollout.vllm_server import VllmServerEngine

        return VllmServerEngine(
            model, end_tokens, url=rollout.url, weights_folder=rollout.weights_folder, processes=processes
        )
    from agent_srl.rollout.hf import TransformersEngine

    return TransformersEngine(model, end_tokens, max_rows=rollout.max_rows, inline=model.device.type == "cpu")


def load_policy(path: str, config: Config, trajectories: list[Trajectory] | None = None) -> Policy:
    """A policy from a model folder or hub id; prompts as it was trained on. If it was not ours, as `config` says,
    with the tools of `trajectories` if there are some.

    Raises:
        ModelError: it cannot be loaded.
        DataError: its chat template cannot be used.
    """
    from agent_srl.models import load_model, load_tokenizer, resolve_model

    tokenizer = load_tokenizer(path)
    sidecar = Path(resolve_model(path)) / _SIDECAR
    data, fmt = config.data, choose_format(_known_format(config, trajectories), trajectories or [])
    if sidecar.is_file():
        try:
            saved = yaml.safe_load(sidecar.read_text(encoding="utf-8"))
            data = DataConfig.model_validate(saved["data"])
            fmt = make_format(saved["action_format"], saved.get("tools") or DEFAULT_TOOLS)
        except (yaml.YAMLError, ValueError, TypeError, KeyError) as error:
            raise ModelError(
                f"{sidecar} is broken: delete {path} and go on with its run, which makes it anew"
            ) from error
        if (fmt.name == "text") != (config.task == "math"):
            raise ModelError(f"{path} was trained on another task than {config.task}: give --task {_task(fmt.name)}")
    builder = StepBuilder(Renderer(tokenizer), fmt, data)
    device = pick_device(config.model.device)
    model = load_model(path, pick_dtype(config.model.dtype, device), device)
    return Policy(model, tokenizer, builder, config)


def _known_format(config: Config, trajectories: list[Trajectory] | None) -> str:
    """Without trajectories `auto` has nothing to go by but the task."""
    if config.data.action_format != "auto" or trajectories:
        return config.data.action_format
    return "text" if config.task == "math" else "xml"


def pick_device(name: str) -> Any:
    """The torch device; `auto` takes a GPU if there is one. Raises ModelError."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise ModelError("model.device=cuda, but torch sees no GPU here: use --set model.device=auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def pick_dtype(name: str, device: Any) -> Any:
    """The torch dtype of a name; `auto` takes the one that `faster_dtype` finds."""
    import torch

    return getattr(torch, faster_dtype(device) if name == "auto" else name)


def faster_dtype(device: Any) -> Literal["bfloat16", "float32"]:
    """bfloat16 on a GPU; on a CPU whichever multiplies faster here.

    What a CPU says of itself does not tell: one without bfloat16 instructions emulates them, several times slower than
    float32; of two that have them one (Xeon, avx512_bf16 without AMX) took 1.8 times as long as in float32, the other
    (Zen 5) half.
    """
    import torch

    if device.type == "cuda":
        return "bfloat16"
    return "bfloat16" if _matmul_seconds(torch.bfloat16) < _matmul_seconds(torch.float32) else "float32"


def _matmul_seconds(dtype: Any) -> float:
    """Of the three products of a linear layer's forward and backward pass; the best of a few tries."""
    import torch

    x, weight, grad = (torch.ones(shape, dtype=dtype) for shape in ((512, 576), (1536, 576), (512, 1536)))

    def once() -> float:
        started = time.perf_counter()
        torch.nn.functional.linear(x, weight), grad @ weight, grad.t() @ x
        return time.perf_counter() - started

    return min(once() for _ in range(5))


def _task(fmt: str) -> str:
    return "math" if fmt == "text" else "swe"
