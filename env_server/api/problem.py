"""Errors on the wire: problem JSON (RFC 9457) with a `code` and `retryable`, written and read here.

The client raises an error's own class, found by `code` in one fixed table: no name on the wire is imported.
"""

from __future__ import annotations

from typing import Any

from env_server import errors
from sandboxes.errors import SandboxError, SandboxGone, SandboxUnavailable

MEDIA_TYPE = "application/problem+json"

_SANDBOX: dict[str, type[SandboxError]] = {
    "sandbox_gone": SandboxGone,
    "sandbox_unavailable": SandboxUnavailable,
    "sandbox_error": SandboxError,
}
_ENV: dict[str, type[errors.EnvError]] = {
    error.code: error
    for error in (
        errors.TaskError,
        errors.NoPatch,
        errors.UnknownTask,
        errors.UnknownSession,
        errors.SessionBusy,
        errors.SessionDone,
        errors.CapacityReached,
        errors.BadRequest,
        errors.KeyReused,
        errors.Unauthorized,
        errors.EnvError,
    )
}


def problem(status: int, code: str, detail: str, *, retryable: bool = False) -> dict[str, Any]:
    """The body of an error response."""
    title = code.replace("_", " ")
    return {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "retryable": retryable,
    }


def from_error(error: errors.EnvError | SandboxError) -> dict[str, Any]:
    """An error as a problem. A lost sandbox is retryable: in a new session."""
    if isinstance(error, errors.EnvError):
        return problem(error.status, error.code, str(error), retryable=error.retryable)
    code = next(code for code, kind in _SANDBOX.items() if isinstance(error, kind))
    return problem(503, code, str(error), retryable=code == "sandbox_gone")


def to_error(body: dict[str, Any]) -> errors.EnvError | SandboxError:
    """The error that a problem stands for; EnvError for a code that is not ours."""
    code, detail = str(body.get("code")), str(body.get("detail") or body.get("title"))
    if code in _SANDBOX:
        return _SANDBOX[code](detail)
    return _ENV.get(code, errors.EnvError)(detail)
