"""Failures of the sandbox itself. A command that fails is a result, never one of these.

SandboxError
├── SandboxUnavailable   none can be made here: no engine, no bubblewrap, no permission, disk full
└── SandboxGone          it existed and does not any more; never an observation for the model
"""

from __future__ import annotations


class SandboxError(Exception):
    """Infrastructure failed: nothing can be said about the command or the policy."""


class SandboxUnavailable(SandboxError):
    """A sandbox cannot be made on this machine; the message says what to do."""


class SandboxGone(SandboxError):
    """The sandbox died or was killed."""
