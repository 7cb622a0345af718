"""Errors that a person can mend. The CLI prints the message alone and exits with 2.

AgentSRLError
├── ConfigError     an unknown key, a value out of range, a file that is no config
├── DataError       a missing or broken file, with its line
├── ModelError      a model that cannot be found, loaded or converted
├── EngineError     generation failed: infrastructure, never a reward
├── TrainingError   training cannot go on, with advice
└── PeerFailed      another process of the run failed and says why; nothing is printed

Stopped is no error: SIGTERM ended the run between two steps, and all of it is saved.
"""

from __future__ import annotations


class AgentSRLError(Exception):
    """Base: one clear line that names the thing and the way out."""


class ConfigError(AgentSRLError):
    """The configuration is wrong."""


class DataError(AgentSRLError):
    """Input data is missing or broken."""


class ModelError(AgentSRLError):
    """A model cannot be used."""


class EngineError(AgentSRLError):
    """The generation engine failed."""


class TrainingError(AgentSRLError):
    """Training cannot go on."""


class PeerFailed(AgentSRLError):
    """Another process of the run failed; it says why."""


class Stopped(Exception):
    """SIGTERM came; the message says where the run stands."""
