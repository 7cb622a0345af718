"""REST v1: one line per route; the work is in the service. A command that fails is a 200, not an error."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header
from pydantic import BaseModel, ConfigDict

from env_server.schema import Action, Observation, SessionInfo, TaskInfo, Verdict
from env_server.service import EnvService


class CreateSession(BaseModel):
    """Body of `POST /v1/sessions`."""

    model_config = ConfigDict(extra="forbid")
    task_id: str
    max_steps: int | None = None
    lease_s: float | None = None


class StepSession(BaseModel):
    """Body of `POST /v1/sessions/{id}/step`."""

    model_config = ConfigDict(extra="forbid")
    action: Action


class GradeTask(BaseModel):
    """Body of `POST /v1/tasks/{id}/grade`: a patch, or the answer to a math task."""

    model_config = ConfigDict(extra="forbid")
    patch: str


IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=200)]
"""Of `POST /v1/sessions/{id}/step`."""


def routes(service: EnvService) -> APIRouter:
    """All routes of version 1."""
    api = APIRouter(prefix="/v1")

    @api.get("/tasks")
    async def list_tasks() -> list[TaskInfo]:
        return await service.list_tasks()

    @api.get("/tasks/{task_id:path}")
    async def get_task(task_id: str) -> TaskInfo:
        return await service.get_task(task_id)

    @api.post("/tasks/{task_id:path}/grade")
    async def grade(task_id: str, body: GradeTask) -> Verdict:
        return await service.grade(task_id, body.patch)

    @api.post("/sessions", status_code=201)
    async def create_session(body: CreateSession) -> SessionInfo:
        return await service.create_session(body.task_id, max_steps=body.max_steps, lease_s=body.lease_s)

    @api.get("/sessions/{session_id}")
    async def get_session(session_id: str) -> SessionInfo:
        return await service.get_session(session_id)

    @api.delete("/sessions/{session_id}", status_code=204)
    async def close_session(session_id: str) -> None:
        await service.close_session(session_id)

    @api.post("/sessions/{session_id}/heartbeat", status_code=204)
    async def heartbeat(session_id: str) -> None:
        await service.heartbeat(session_id)

    @api.post("/sessions/{session_id}/step")
    async def step(session_id: str, body: StepSession, idempotency_key: IdempotencyKey = None) -> Observation:
        return await service.step(session_id, body.action, idempotency_key=idempotency_key)

    @api.post("/sessions/{session_id}/evaluate")
    async def evaluate(session_id: str) -> Verdict:
        return await service.evaluate(session_id)

    return api
