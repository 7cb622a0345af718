"""An OpenAI-compatible vLLM server: token ids in, token ids and log-probabilities out; weights go through a folder.

The server runs apart from training, on GPUs of its own, and is started like this (on a CPU see the README):
    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs --generation-config vllm
Development mode is what lets it read new weights; it must not face a network. Left out: weights by NCCL.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

import httpx
from safetensors import SafetensorError
from safetensors.torch import save_file

from agent_srl.errors import EngineError
from agent_srl.lora import merged_weights
from agent_srl.models import causal_model
from agent_srl.rollout.check import CHECK, check_completion, check_prompt
from agent_srl.rollout.engine import Sampling
from agent_srl.types import Completion

START = "VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs --generation-config vllm"


class VllmServerEngine:
    """Generates with a server that holds the weights of the training model after each `update_weights`."""

    def __init__(self, model: Any, end_tokens: set[int], *, url: str, weights_folder: str = "") -> None:
        """`weights_folder`: where both can read and write; empty takes a temporary one of this machine."""
        self._model, self._end_tokens, self._url = causal_model(model), sorted(end_tokens), url.rstrip("/")
        self._temporary = None if weights_folder else tempfile.TemporaryDirectory(prefix="agent-srl-weights-")
        self._folder = Path(self._temporary.name if self._temporary else weights_folder)
        limits = httpx.Limits(max_connections=256)
        self._http = httpx.AsyncClient(timeout=httpx.Timeout(None, connect=10), limits=limits)
        self._ready: asyncio.Task[str] | None = None
        self._version = 0

    async def generate(self, prompt_P: tuple[int, ...], n: int, sampling: Sampling) -> list[Completion]:
        """See `Engine.generate`."""
        return await self._sample(await self._name(), prompt_P, n, sampling, self._end_tokens)

    async def update_weights(self, model: Any) -> None:
        """Write the weights as they are now, and wait until the server has read them. Raises EngineError."""
        self._model = causal_model(model)
        known = self._known()
        await self._name()
        if known:
            await self._send()

    async def sleep(self) -> None:
        """The server has memory of its own."""

    async def close(self) -> None:
        await self._http.aclose()
        if self._temporary:
            self._temporary.cleanup()

    async def _name(self) -> str:
        """The server's name of the model; the first call sends the weights and compares log-probabilities."""
        if self._ready is None or (self._ready.done() and not self._known()):
            self._ready = asyncio.create_task(self._start())
        return await asyncio.shield(self._ready)

    def _known(self) -> bool:
        """Whether the first call succeeded."""
        task = self._ready
        return task is not None and task.done() and not task.cancelled() and task.exception() is None

    async def _start(self) -> str:
        name = str((await self._call("GET", "/v1/models"))["data"][0]["id"])
        await self._send()
        prompt = check_prompt(self._model.config.vocab_size)
        [completion] = await self._sample(name, prompt, 1, CHECK, [])
        await asyncio.to_thread(check_completion, self._model, prompt, completion, f"the vLLM server at {self._url}")
        return name

    async def _send(self) -> None:
        """A new folder for each version: the server may still have files of the one before open."""
        self._version += 1
        folder: Path | None = None
        try:
            folder = Path(tempfile.mkdtemp(prefix=f"agent-srl-{self._version}-", dir=self._folder))
            folder.chmod(0o755)  # the server may run as somebody else
            await asyncio.to_thread(_write_weights, self._model, folder)
            body = {"method": "reload_weights", "kwargs": {"weights_path": str(folder.resolve())}}
            await self._call("POST", "/collective_rpc", body)
            await self._forget()
        except OSError as error:
            raise EngineError(f"cannot write weights to {self._folder}: {error}; set rollout.weights_folder") from error
        finally:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)

    async def _forget(self) -> None:
        """Empty its prefix cache, once what runs there has ended."""
        for _ in range(600):
            if (await self._call("POST", "/reset_prefix_cache"))["success"]:
                return
            await asyncio.sleep(0.1)
        raise EngineError(f"the vLLM server at {self._url} still works for others: it must serve this run alone")

    async def _sample(
        self, name: str, prompt: tuple[int, ...], n: int, sampling: Sampling, end_tokens: list[int]
    ) -> list[Completion]:
        body = {
            "model": name,
            "prompt": list(prompt),
            "n": n,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "seed": sampling.seed * 1_000_003 % 2**62,
            "logprobs": 0,
            "stop_token_ids": end_tokens,
            "ignore_eos": True,
            "skip_special_tokens": False,
            "return_token_ids": True,
        }
        choices = (await self._call("POST", "/v1/completions", body))["choices"]
        if len(choices) != n:
            raise EngineError(f"the vLLM server at {self._url} answered with {len(choices)} completions, not {n}")
        return [_completion(choice) for choice in sorted(choices, key=lambda choice: choice["index"])]

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The answer's JSON. Raises EngineError with what to do."""
        try:
            answer = await self._http.request(method, self._url + path, json=body)
        except httpx.TransportError as error:
            raise EngineError(
                f"no vLLM server at {self._url} ({type(error).__name__}): set rollout.url, or start one with `{START}`"
            ) from error
        if answer.status_code == 404 and path.startswith(("/collective_rpc", "/reset_prefix_cache")):
            raise EngineError(f"the vLLM server at {self._url} takes no weights: start it with `{START}`")
        if answer.status_code >= 400:
            raise EngineError(
                f"the vLLM server at {self._url} answered {path} with {answer.status_code}: {_why(answer)}"
            )
        return answer.json() if answer.content else None


def _write_weights(model: Any, folder: Path) -> None:
    """Raises OSError. A tied head is written, too: on a CPU vLLM multiplies with a packed copy of its own."""
    seen, weights = set[int](), dict[str, Any]()
    for name, weight in merged_weights(model).items():
        weights[name] = weight.detach().clone() if weight.data_ptr() in seen else weight.detach().contiguous()
        seen.add(weight.data_ptr())
    try:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(str(error)) from error


def _why(answer: httpx.Response) -> str:
    """Its error message, in one line."""
    try:
        error = answer.json().get("error", {})
        text = str(error.get("message", "") if isinstance(error, dict) else error)
    except ValueError:
        text = answer.text
    return " ".join(text.split())[:300] or "no reason given"


def _completion(choice: dict[str, Any]) -> Completion:
    tokens, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
    return Completion(tuple(tokens), tuple(logprobs), choice["finish_reason"] == "stop")
