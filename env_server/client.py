"""The environment service over HTTP, with the interface that it has in process.

Every error comes back as the class that the server raised. Left out: pooling over several servers.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from typing import Any, Protocol, Self
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter

from env_server.api.problem import to_error
from env_server.errors import EnvError, ServerUnreachable
from env_server.schema import Action, Observation, SessionInfo, TaskInfo, Verdict

RETRY_DELAYS_S = (0.2, 1.0)
ANSWER_TIMEOUT_S = 1800.0
"""An evaluation may wait for others before its tests start."""

_TASKS = TypeAdapter(list[TaskInfo])


class Environment(Protocol):
    """What a trainer needs: `EnvService` in process and `EnvClient` over HTTP are both one.

    Arguments, results and errors are described at `env_server.service.EnvService`.
    """

    async def list_tasks(self) -> list[TaskInfo]: ...

    async def get_task(self, task_id: str) -> TaskInfo: ...

    async def create_session(
        self, task_id: str, *, max_steps: int | None = None, lease_s: float | None = None
    ) -> SessionInfo: ...

    async def get_session(self, session_id: str) -> SessionInfo: ...

    async def step(self, session_id: str, action: Action, *, idempotency_key: str | None = None) -> Observation: ...

    async def heartbeat(self, session_id: str) -> None: ...

    async def evaluate(self, session_id: str) -> Verdict: ...

    async def grade(self, task_id: str, patch: str) -> Verdict: ...

    async def close_session(self, session_id: str) -> None: ...

    async def close(self) -> None: ...

    async def healthy(self) -> dict[str, Any]: ...


class EnvClient:
    """A connection to `agent-srl serve`.

    What can be asked twice without harm is asked again after a broken connection: reads, steps (each has an
    idempotency key), evaluations (the server joins them), heartbeats and closing.

    Args:
        base_url: such as `http://127.0.0.1:8000`.
        token: the server's bearer token; `AGENT_SRL_TOKEN` if it is None.

    Raises:
        ServerUnreachable: from every method, if the server does not answer.
        EnvError, SandboxError: as the server raised them.
    """

    def __init__(self, base_url: str, token: str | None = None) -> None:
        self._url = base_url.rstrip("/")
        token = token or os.environ.get("AGENT_SRL_TOKEN")
        self._http = httpx.AsyncClient(
            base_url=self._url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=httpx.Timeout(ANSWER_TIMEOUT_S, connect=10.0, pool=None),
            limits=httpx.Limits(max_connections=None),
            mounts={f"all://{host}": None for host in ("127.0.0.1", "localhost", "[::1]")},  # by no proxy
        )
        self._mine: set[str] = set()

    async def list_tasks(self) -> list[TaskInfo]:
        """The public part of every task."""
        return _TASKS.validate_json(await self._ask("GET", "/v1/tasks"))

    async def get_task(self, task_id: str) -> TaskInfo:
        """The public part of one task."""
        return TaskInfo.model_validate_json(await self._ask("GET", f"/v1/tasks/{_part(task_id)}"))

    async def create_session(
        self, task_id: str, *, max_steps: int | None = None, lease_s: float | None = None
    ) -> SessionInfo:
        """Lease an attempt at a task."""
        body = {"task_id": task_id, "max_steps": max_steps, "lease_s": lease_s}
        answer = await self._ask("POST", "/v1/sessions", body=body, again=False)
        info = SessionInfo.model_validate_json(answer)
        self._mine.add(info.session_id)
        return info

    async def get_session(self, session_id: str) -> SessionInfo:
        """Where a session stands."""
        return SessionInfo.model_validate_json(await self._ask("GET", f"/v1/sessions/{_part(session_id)}"))

    async def step(self, session_id: str, action: Action, *, idempotency_key: str | None = None) -> Observation:
        """Carry out one action, once."""
        answer = await self._ask(
            "POST",
            f"/v1/sessions/{_part(session_id)}/step",
            body={"action": {"name": action.name, "arguments": action.arguments}},
            headers={"Idempotency-Key": idempotency_key or secrets.token_hex(16)},
        )
        return Observation.model_validate_json(answer)

    async def heartbeat(self, session_id: str) -> None:
        """Renew the lease."""
        await self._ask("POST", f"/v1/sessions/{_part(session_id)}/heartbeat")

    async def evaluate(self, session_id: str) -> Verdict:
        """Judge the work of a session."""
        return Verdict.model_validate_json(await self._ask("POST", f"/v1/sessions/{_part(session_id)}/evaluate"))

    async def grade(self, task_id: str, patch: str) -> Verdict:
        """Judge a patch without a session."""
        answer = await self._ask("POST", f"/v1/tasks/{_part(task_id)}/grade", body={"patch": patch})
        return Verdict.model_validate_json(answer)

    async def close_session(self, session_id: str) -> None:
        """End a session."""
        await self._ask("DELETE", f"/v1/sessions/{_part(session_id)}")
        self._mine.discard(session_id)

    async def close(self) -> None:
        """End the sessions that were created here, if the server can be reached, and the connection."""
        closing = [self.close_session(session_id) for session_id in self._mine]
        await asyncio.gather(*closing, return_exceptions=True)
        await self._http.aclose()

    async def healthy(self) -> dict[str, Any]:
        """How the server is."""
        return TypeAdapter(dict[str, Any]).validate_json(await self._ask("GET", "/healthz"))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        again: bool = True,
    ) -> bytes:
        """The body of a good answer. `again`: the request may reach the server twice."""
        delays = list(RETRY_DELAYS_S)
        # ASCII, so that even broken text of a model arrives and is answered as a bad action
        content = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **(headers or {})}
        while True:
            try:
                response = await self._http.request(method, path, content=content, headers=headers)
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise self._unreachable(error) from error
            except httpx.TransportError as error:
                never_arrived = isinstance(error, httpx.ConnectError)
                if not delays or not (again or never_arrived):
                    raise self._unreachable(error) from error
                await asyncio.sleep(delays.pop(0))
                continue
            if response.is_success:
                return response.content
            raise self._error(response)

    def _unreachable(self, error: Exception) -> ServerUnreachable:
        reason = str(error) or type(error).__name__
        return ServerUnreachable(
            f"no answer from the environment server at {self._url} ({reason}); "
            "start it with `agent-srl serve`, or mend the address"
        )

    def _error(self, response: httpx.Response) -> Exception:
        try:
            body = response.json()
        except ValueError:
            body = None
        if isinstance(body, dict) and "code" in body:
            return to_error(body)
        return EnvError(f"{self._url} answered {response.status_code}; is it an agent-srl environment server?")


def _part(text: str) -> str:
    """As one segment of a path."""
    return quote(text, safe="")
