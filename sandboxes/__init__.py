"""Run commands in isolation: one protocol, two backends (bubblewrap, Docker)."""

from sandboxes.choose import available, open_backend

__all__ = ["available", "open_backend"]
