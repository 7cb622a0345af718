"""As much of vLLM's server as the engine uses, over HTTP on this machine: it generates with a model of its own, reads
weights, counts calls, and misbehaves where it is told to."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from agent_srl.rollout.engine import Sampling
from agent_srl.rollout.hf import TransformersEngine

OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"


class Loopback:
    def __init__(self, model: Any) -> None:
        self.model, self.calls, self.busy = model, Counter[str](), 0
        self.spoilt: dict[str, Callable[[Any], Any]] = {}
        """By path, what becomes of an answer: another one, or bytes, or bytes instead of HTTP (`raw`)."""
        self.raw: bytes | None = None
        self.silent_on = ""
        """A path that is never answered."""

    async def __aenter__(self) -> Loopback:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        size = int(head.split("content-length: ")[1].split()[0]) if "content-length: " in head else 0
        path, body = head.split()[1], await reader.readexactly(size)
        self.calls[path] += 1
        if path != self.silent_on:
            answer = self.spoilt.get(path, lambda good: good)(await self._answer(path, json.loads(body or "{}")))
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            writer.write(OK % (len(content), content) if self.raw is None else self.raw)
            writer.close()
        else:
            await asyncio.sleep(3600)

    async def _answer(self, path: str, asked: dict[str, Any]) -> Any:
        if path == "/v1/models":
            return {"data": [{"id": "tiny"}]}
        if path == "/collective_rpc":
            weights = load_file(Path(asked["kwargs"]["weights_path"]) / "model.safetensors")
            assert not self.model.load_state_dict(weights, strict=False).unexpected_keys
            return {"results": [None]}
        if path == "/reset_prefix_cache":
            return {"success": not self.busy}
        self.busy += 1
        choices = await self._choices(asked)
        self.busy -= 1
        return {"choices": choices}

    async def _choices(self, asked: dict[str, Any]) -> list[dict[str, Any]]:
        engine = TransformersEngine(self.model, set(asked["stop_token_ids"]), inline=True)
        sampling = Sampling(asked["temperature"], asked["max_tokens"], asked["seed"])
        found = await engine.generate(tuple(asked["prompt"]), asked["n"], sampling)
        await engine.close()
        return [
            {
                "index": i,
                "token_ids": list(c.tokens_T),
                "logprobs": {"token_logprobs": list(c.logprobs_T)},
                "finish_reason": "stop" if c.finished else "length",
            }
            for i, c in enumerate(found)
        ]
