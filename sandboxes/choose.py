"""Choose a backend by name, or the first that works on this machine."""

from __future__ import annotations

from sandboxes.base import Backend
from sandboxes.bubblewrap import BubblewrapBackend
from sandboxes.docker import DockerBackend
from sandboxes.errors import SandboxUnavailable

BACKENDS: dict[str, type[BubblewrapBackend] | type[DockerBackend]] = {
    "bubblewrap": BubblewrapBackend,
    "docker": DockerBackend,
}


def open_backend(name: str = "auto") -> Backend:
    """A backend that has just been proven to work here. Blocks for some milliseconds.

    Args:
        name: `bubblewrap`, `docker`, or `auto` for the first of them that works.

    Raises:
        SandboxUnavailable: none does; the message says what to do.
    """
    if name != "auto" and name not in BACKENDS:
        raise SandboxUnavailable(f"unknown sandbox {name!r}: choose auto, {' or '.join(BACKENDS)}")
    reasons = []
    for candidate in BACKENDS if name == "auto" else [name]:
        backend = BACKENDS[candidate]()
        try:
            backend.check()
        except SandboxUnavailable as error:
            reasons.append(str(error))
        else:
            return backend
    raise SandboxUnavailable("; or ".join(reasons))


def available() -> dict[str, str]:
    """Name of each backend -> `ok`, or why it does not work and what to do. Blocks for some milliseconds."""
    found = {}
    for name, backend in BACKENDS.items():
        try:
            backend().check()
            found[name] = "ok"
        except SandboxUnavailable as error:
            found[name] = str(error)
    return found
