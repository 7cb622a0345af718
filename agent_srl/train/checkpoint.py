"""Checkpoints that are whole or absent: written aside, flushed, then renamed. The newest one is kept.

Sampling needs no saved randomness: its seeds derive from the run's seed and the step. The generators' states are for
what draws while training, such as dropout.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from agent_srl.errors import TrainingError
from agent_srl.lora import merged_weights


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write `folder/step-NNNNNN.pt`, then remove older ones. Raises TrainingError with nothing lost."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step-{step:06d}.pt"
    aside = target.with_suffix(".tmp")
    try:
        with aside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(target)
    except (OSError, RuntimeError) as error:
        aside.unlink(missing_ok=True)
        # torch reports a full disk as a RuntimeError of its zip writer.
        raise _unwritable("checkpoint", target, error) from error
    for old in folder.glob("step-*.pt"):
        if old != target:
            old.unlink()


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint, or None. Leftovers of a killed write are removed. Raises TrainingError if it is broken."""
    for leftover in folder.glob("*.tmp"):
        leftover.unlink(missing_ok=True)  # another process may be as far
    found = sorted(folder.glob("step-*.pt"))
    if not found:
        return None
    try:
        state: dict[str, Any] = torch.load(found[-1], map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to mean
        raise TrainingError(
            f"{found[-1]} is no whole checkpoint: delete it and start the same command again, which trains anew, or "
            "start in another --out"
        ) from error
    return state


def random_states() -> dict[str, Any]:
    """Of Python's and torch's generators in this process."""
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    return {"python": random.getstate(), "torch": torch.get_rng_state(), "cuda": cuda}


def set_random_states(states: dict[str, Any]) -> None:
    """The inverse of `random_states`."""
    random.setstate(states["python"])
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def save_model(model: Any, tokenizer: Any, folder: Path, beside: dict[str, str]) -> None:
    """A folder that transformers and vLLM load, with the files `beside` (name -> text). Whole or absent. Raises
    OSError."""
    aside = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        model.save_pretrained(aside, state_dict=merged_weights(model))
        tokenizer.save_pretrained(aside)
        for name, text in beside.items():
            (aside / name).write_text(text, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise _unwritable("model", folder, error) from error
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def _unwritable(what: str, target: Path, error: Exception) -> TrainingError:
    return TrainingError(
        f"cannot write the {what} {target}: {error}; free disk space and start again with the same --out"
    )
