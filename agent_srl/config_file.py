"""Read, override and save a configuration.

A YAML file (`--config FILE`, or a name shipped with the package such as `swe/quickstart`), then `--set a.b=c`.
"""

from __future__ import annotations

from importlib.resources import files
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from agent_srl.config import Config
from agent_srl.errors import ConfigError

_NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)
"""What the parser raises; ValueError for a date that does not exist and for bytes that are no text."""


def shipped_configs() -> list[str]:
    """Names of the configs inside the package, such as `swe/quickstart`."""
    root = _config_root()
    return sorted(str(p.relative_to(root).with_suffix("")) for p in root.rglob("*.yaml"))


def about_config(name: str) -> str:
    """What a shipped config says of itself: hardware, command, time, and what it is."""
    lines = _find(name).read_text(encoding="utf-8").splitlines()
    return "\n".join(line.removeprefix("#").strip() for line in takewhile(lambda line: line.startswith("#"), lines))


def load_config(source: str, overrides: list[str], given: dict[str, Any] | None = None) -> Config:
    """Read a YAML file or a shipped config, then apply `given` (dotted keys, from flags) and `a.b=c` overrides.

    Raises:
        ConfigError: no such file, not YAML, an unknown key, or a value out of range.
    """
    data = read_yaml(_find(source))
    for key, value in (given or {}).items():
        _set(data, key, value)
    for override in overrides:
        key, value = _parse(override)
        _set(data, key, value)
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_explain(error, source)) from None


def dump_config(config: Config) -> str:
    """The resolved config as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _config_root() -> Path:
    inside = Path(str(files("agent_srl"))) / "configs"
    return inside if inside.is_dir() else Path(__file__).resolve().parent.parent / "configs"


def _find(source: str) -> Path:
    for path in (Path(source), _config_root() / f"{source}.yaml"):
        if path.is_file():
            return path
    names = ", ".join(shipped_configs())
    raise ConfigError(f"no config {source!r}: give a YAML file or one of: {names}")


def read_yaml(path: Path) -> dict[str, Any]:
    """Keys and values of a YAML file. Raises ConfigError."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except _NOT_YAML as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = f" at line {line + 1}" if line is not None else ""
        raise ConfigError(f"{path} is not valid YAML{where}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold keys and values, not {type(data).__name__}")
    return data


def _parse(override: str) -> tuple[str, Any]:
    key, sep, value = override.partition("=")
    if not sep or not key:
        raise ConfigError(f"--set {override!r}: write it as section.key=value, such as train.max_steps=10")
    try:
        return key, yaml.safe_load(value)
    except _NOT_YAML:
        raise ConfigError(f"--set {override!r}: the value is not valid YAML; put quotes around it") from None


def _set(data: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise ConfigError(f"{key}: {parent} is a value, not a section")
    data[last] = value


def _explain(error: ValidationError, source: str) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        section = Config.model_validate({})
        for part in first["loc"][:-1]:
            section = getattr(section, str(part))
        return f"unknown key {where!r} in the config {source}: choose from {', '.join(type(section).model_fields)}"
    if first["type"] == "value_error":
        return f"config {source}: {first['ctx']['error']}"
    return f"config {source}: {where}: {first['msg']} (got {first.get('input')!r})"
