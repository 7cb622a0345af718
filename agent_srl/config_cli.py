"""`agent-srl config`: every key of a configuration with its default and meaning, and the configs that are shipped."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import typer
import yaml
from pydantic import BaseModel

from agent_srl.config import Config
from agent_srl.config_file import about_config, shipped_configs

app = typer.Typer(help="Config keys with their defaults and meanings; `config list` for the shipped configs.")


@app.callback(invoke_without_command=True)
def keys(context: typer.Context) -> None:
    """Print every config key with its default and meaning, as YAML that --config takes."""
    if context.invoked_subcommand is None:
        typer.echo("".join(_described(Config(), "")), nl=False)


@app.command("list")
def list_() -> None:
    """Print the shipped configs, with the hardware each is for, its command and its time."""
    for name in shipped_configs():
        typer.echo(f"{name}\n{textwrap.indent(about_config(name), '  ')}\n")


def _described(section: BaseModel, indent: str) -> Iterator[str]:
    values = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        value, choices = getattr(section, name), _choices(field.annotation)
        about = field.description or (value.__doc__ if isinstance(value, BaseModel) else "") or ""
        if choices and "`" not in about:
            about = f"{about} One of: {', '.join(choices)}."
        yield from (f"{indent}# {line}\n" for line in textwrap.wrap(" ".join(about.split()), 116 - len(indent)))
        if isinstance(value, BaseModel):
            yield f"{indent}{name}:\n"
            yield from _described(value, indent + "  ")
        else:
            yield f"{indent}{name}: {_in_line(values[name])}\n"


def _in_line(value: Any) -> str:
    return yaml.safe_dump([value], default_flow_style=True, width=1000).strip()[1:-1]


def _choices(annotation: Any) -> tuple[str, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()
