"""The service behind HTTP: authentication, body limit, problem JSON, and the end of everything at shutdown.

Routes are in `env_server.api`. Left out: TLS (put a proxy in front), rate limits, users: there is one token.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from env_server.api import v1
from env_server.api.problem import MEDIA_TYPE, from_error, problem
from env_server.errors import BadRequest, EnvError, Unauthorized
from env_server.service import EnvService
from sandboxes.errors import SandboxError

MAX_BODY_BYTES = 16 * 1024 * 1024
_CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}


def create_app(service: EnvService, token: str | None) -> FastAPI:
    """The application. It closes `service` when it shuts down.

    Args:
        service: what to serve.
        token: every route but `/healthz` asks for `Authorization: Bearer <token>`; None asks for nothing.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close()

    app = FastAPI(title="agent-srl environment service", version="1", lifespan=lifespan)
    app.add_middleware(Gate, token=token)
    for kind in (EnvError, SandboxError):
        app.add_exception_handler(kind, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_bug)

    @app.get("/healthz")
    async def healthz() -> dict[str, Any]:
        return await service.healthy()

    app.include_router(v1.routes(service))
    return app


class Gate:
    """Lets in who knows the token, and no body above the limit, before anything is parsed."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] != "/healthz" and not self._admits(scope):
            error = Unauthorized("the bearer token is missing or wrong; set AGENT_SRL_TOKEN to the server's")
            await _response(from_error(error))(scope, receive, send)
        else:
            await self._app(scope, _limited(receive), send)

    def _admits(self, scope: Scope) -> bool:
        if self._token is None:
            return True
        given = dict(scope["headers"]).get(b"authorization", b"")
        scheme, _, token = given.partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(token, self._token.encode())


def _limited(receive: Receive) -> Receive:
    size = 0

    async def limited() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > MAX_BODY_BYTES:
            raise HTTPException(413, f"the request is larger than {MAX_BODY_BYTES} bytes")
        return message

    return limited


def _response(body: dict[str, Any]) -> JSONResponse:
    headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "5"}}.get(body["status"])
    return JSONResponse(body, status_code=body["status"], media_type=MEDIA_TYPE, headers=headers)


async def _on_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, EnvError | SandboxError)
    return _response(from_error(error))


async def _on_invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    # Without the input: it may be large, secret, or not even valid text.
    wrong = sorted({f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()})
    detail = json.loads(json.dumps("; ".join(wrong)).encode("ascii", "replace"))
    return _response(from_error(BadRequest(detail)))


async def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    detail = error.detail if error.status_code == 413 else f"{error.detail}: {request.method} {request.url.path}"
    return _response(problem(error.status_code, _CODES.get(error.status_code, "bad_request"), detail))


async def _on_bug(_: Request, error: Exception) -> JSONResponse:
    return _response(problem(500, "env_error", f"the server failed: {type(error).__name__}; see its log"))
