"""Errors of the environment service. The message names the thing and the way out; `code` crosses the wire.

EnvError
├── TaskError         a task file or row is missing or broken, or a package cannot make tasks
│   └── NoPatch       what an agent left cannot be a patch
├── UnknownTask       no such task
├── UnknownSession    no such session, or it is closed
├── SessionBusy       another step of the same session is running
├── SessionDone       the session takes no further action
├── CapacityReached   too many live sessions; try again later
├── BadRequest        a request that no server could carry out
├── KeyReused         an idempotency key came again with another action
├── Unauthorized      the token is missing or wrong
├── ServerUnreachable the server does not answer
└── ServeError        the server cannot start: port, address, token
"""

from __future__ import annotations


class EnvError(Exception):
    """Base."""

    code = "env_error"
    status = 500
    retryable = False


class TaskError(EnvError):
    """A task file or row is broken."""

    code = "task_error"
    status = 422


class NoPatch(TaskError):
    """What the agent left cannot be a patch: its doing, so it is scored."""

    code = "no_patch"


class UnknownTask(EnvError):
    """No such task."""

    code = "unknown_task"
    status = 404


class UnknownSession(EnvError):
    """No such session, or it is closed."""

    code = "unknown_session"
    status = 404


class SessionBusy(EnvError):
    """Another step of the same session is running."""

    code = "session_busy"
    status = 409
    retryable = True


class SessionDone(EnvError):
    """The session takes no further action."""

    code = "session_done"
    status = 409


class CapacityReached(EnvError):
    """Too many live sessions."""

    code = "capacity_reached"
    status = 503
    retryable = True


class Unauthorized(EnvError):
    """The bearer token is missing or wrong."""

    code = "unauthorized"
    status = 401


class BadRequest(EnvError):
    """The request is malformed or out of range."""

    code = "bad_request"
    status = 422


class KeyReused(EnvError):
    """An idempotency key came again with another action."""

    code = "key_reused"
    status = 409


class ServerUnreachable(EnvError):
    """The server does not answer."""

    code = "server_unreachable"
    status = 502
    retryable = True


class ServeError(EnvError):
    """The server cannot start."""

    code = "serve_error"
