"""Where things are kept, and the service's settings."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


def cache_home() -> Path:
    """Sources, environments, models: what can be made again. `$AGENT_SRL_HOME` or `~/.cache/agent-srl`."""
    return Path(os.environ.get("AGENT_SRL_HOME") or Path.home() / ".cache" / "agent-srl")


class Settings(BaseModel):
    """Limits of the environment service."""

    model_config = ConfigDict(extra="forbid")

    max_sessions: int = Field(default=16, ge=1)
    """Live sessions that hold a sandbox; one more is refused."""
    max_steps: int = Field(default=50, ge=1)
    command_timeout_s: float = Field(default=60.0, gt=0)
    evaluate_timeout_s: float = Field(default=300.0, gt=0)
    lease_s: float = Field(default=600.0, gt=0)
    image: str = ""
    """Docker backend: the image for tasks that name none; needs bash, git, Python and pytest."""
