"""`agent-srl serve`: the environment service over HTTP.

What a person can mend (a missing file, a busy port, no sandbox, an open address without a token) is an
EnvError or SandboxError with one clear line, raised before anything is served.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path
from typing import Annotated

import typer

from env_server.errors import ServeError
from env_server.settings import Settings

SHUTDOWN_GRACE_S = 3
"""Seconds that requests get to end after SIGTERM, before their sandboxes are killed."""


def serve(
    tasks: Annotated[Path, typer.Option(help="Task rows, one JSON object per line.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 8000,
    token: Annotated[
        str, typer.Option(envvar="AGENT_SRL_TOKEN", help="Bearer token; needed off the loopback address.")
    ] = "",
    sandbox: Annotated[str, typer.Option(help="auto, bubblewrap or docker.")] = "auto",
    image: Annotated[str, typer.Option(help="Docker: image for tasks that name none.")] = "",
    max_sessions: Annotated[int, typer.Option(help="Live sandboxes at most.", min=1)] = 16,
) -> None:
    """Serve tasks, sessions and verdicts over HTTP."""
    try:
        import uvicorn

        from env_server.app import create_app
    except ImportError as error:
        raise ServeError(f"{error.name} is missing; pip install 'agent-srl[env]'") from None
    from env_server.service import EnvService
    from env_server.tasks.base import load_tasks
    from sandboxes.choose import open_backend

    check_token(host, token)
    rows = load_tasks(tasks)
    backend = open_backend(sandbox) if any(task.kind == "swe" for task in rows) else None
    service = EnvService(rows, backend, Settings(max_sessions=max_sessions, image=image))
    config = uvicorn.Config(
        create_app(service, token or None), log_level="warning", timeout_graceful_shutdown=SHUTDOWN_GRACE_S
    )
    with listen(host, port) as listener:
        typer.echo(
            f"serving {len(rows)} tasks at {url(listener)} (sandbox: {backend.name if backend else 'none'}, "
            f"sessions: {max_sessions}, token: {'asked for' if token else 'none'}); stop with Ctrl-C"
        )
        uvicorn.Server(config).run(sockets=[listener])


def check_token(host: str, token: str) -> None:
    """Refuse an address that others can reach without a token, and a token that no header can carry."""
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise ServeError("the token holds a blank, or characters that are not printable ASCII; choose another")
    if not token and not is_loopback(host):
        raise ServeError(
            f"{host or 'the empty host'} can be reached by others: pass --token or set AGENT_SRL_TOKEN, "
            "or listen on 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ServeError if the address is taken or not of this machine."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family, backlog=2048)
        # asyncio turns Nagle's algorithm off only where the protocol is named; with it, an answer takes 40 ms.
        return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=listener.detach())
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise ServeError(f"cannot listen on {host}:{port}: {reason}; pass another --port or --host") from error


def url(listener: socket.socket) -> str:
    """Where clients find the server."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
