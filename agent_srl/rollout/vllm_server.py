"""An OpenAI-compatible vLLM server: token ids in, token ids and log-probabilities out; weights go through a folder.

The server runs apart from training, on GPUs of its own, and is started like this (on a CPU see the README):
    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs --generation-config vllm
Development mode is what lets it read new weights; it must not face a network. Of several training processes the first
one sends them. Left out: weights by NCCL.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
from safetensors import SafetensorError
from safetensors.torch import save_file

from agent_srl.errors import EngineError
from agent_srl.lora import merged_weights
from agent_srl.models import causal_model
from agent_srl.rollout.check import CHECK, check_completion, check_prompt
from agent_srl.rollout.engine import Sampling
from agent_srl.rollout.vllm_answers import accepted, complaint, completions, is_reset, model_name, shortened
from agent_srl.train.processes import Processes
from agent_srl.types import Completion

START = "VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs --generation-config vllm"
T = TypeVar("T")


class VllmServerEngine:
    """Generates with a server that holds the weights of the training model after each `update_weights`."""

    def __init__(
        self,
        model: Any,
        end_tokens: set[int],
        *,
        url: str,
        weights_folder: str = "",
        patience_s: float = 600,
        processes: Processes | None = None,
    ) -> None:
        """`weights_folder`: where both can read and write; empty takes a temporary one of this machine. `patience_s`:
        how long the server may send nothing."""
        self._model, self._end_tokens, self._url = causal_model(model), sorted(end_tokens), url.rstrip("/")
        self._temporary = None if weights_folder else tempfile.TemporaryDirectory(prefix="agent-srl-weights-")
        self._folder = Path(self._temporary.name if self._temporary else weights_folder)
        limits = httpx.Limits(max_connections=256)
        self._patience_s = patience_s
        timeout = httpx.Timeout(patience_s, connect=10, pool=None)
        self._http = httpx.AsyncClient(timeout=timeout, limits=limits)
        self._processes = processes or Processes()
        self._name = ""
        """The server's name of the model, once it has its weights and was compared with it."""
        self._starting: asyncio.Task[None] | None = None
        self._version = 0

    async def generate(self, prompt_P: tuple[int, ...], n: int, sampling: Sampling) -> list[Completion]:
        """See `Engine.generate`."""
        await self._started()
        return await self._sample(self._name, prompt_P, n, sampling, self._end_tokens)

    async def update_weights(self, model: Any) -> None:
        """Write the weights as they are now, and wait until the server has read them; every process comes here.

        Raises EngineError, or PeerFailed where the first process could not send them.
        """
        self._model = causal_model(model)
        self._name = await self._processes.first(self._renew)

    async def sleep(self) -> None:
        """The server has memory of its own."""

    async def close(self) -> None:
        await self._http.aclose()
        if self._temporary:
            self._temporary.cleanup()

    async def _renew(self) -> str:
        if self._name:
            await self._send()
        else:
            await self._started()
        return self._name

    async def _started(self) -> None:
        """The first call sends the weights and compares log-probabilities; others wait for it."""
        if self._name:
            return
        if self._starting is None or self._starting.done():
            self._starting = asyncio.create_task(self._start())
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        name = await self._call("GET", "/v1/models", model_name)
        await self._send()
        prompt = check_prompt(self._model.config.vocab_size)
        [completion] = await self._sample(name, prompt, 1, CHECK, [])
        await asyncio.to_thread(check_completion, self._model, prompt, completion, f"the vLLM server at {self._url}")
        self._name = name

    async def _send(self) -> None:
        """A new folder for each version: the server may still have files of the one before open."""
        self._version += 1
        folder: Path | None = None
        try:
            folder = Path(tempfile.mkdtemp(prefix=f"agent-srl-{self._version}-", dir=self._folder))
            folder.chmod(0o755)  # the server may run as somebody else
            await asyncio.to_thread(_write_weights, self._model, folder)
            body = {"method": "reload_weights", "kwargs": {"weights_path": str(folder.resolve())}}
            await self._call("POST", "/collective_rpc", accepted, body)
            await self._forget()
        except OSError as error:
            raise EngineError(f"cannot write weights to {self._folder}: {error}; set rollout.weights_folder") from error
        finally:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)

    async def _forget(self) -> None:
        """Empty its prefix cache, once what runs there has ended."""
        for _ in range(600):
            if await self._call("POST", "/reset_prefix_cache", is_reset):
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
        vocabulary = self._model.config.vocab_size
        read = partial(completions, n=n, sampling=sampling, end_tokens=end_tokens, vocabulary=vocabulary)
        return await self._call("POST", "/v1/completions", read, body)

    async def _call(self, method: str, path: str, read: Callable[[bytes], T], body: dict[str, Any] | None = None) -> T:
        """What `read` makes of the answer. Raises EngineError with what to do."""
        server = f"the vLLM server at {self._url}"
        try:
            answer = await self._http.request(method, self._url + path, json=body)
        except (httpx.ReadTimeout, httpx.WriteTimeout) as error:
            raise EngineError(
                f"{server} did not answer {path} for {self._patience_s:g} seconds: it hangs, or train.groups, "
                "train.samples and train.max_new_tokens give it too much to do at once; see its log"
            ) from error
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise EngineError(
                f"no vLLM server at {self._url} ({type(error).__name__}): set rollout.url, or start one with `{START}`"
            ) from error
        if answer.status_code == 404 and path.startswith(("/collective_rpc", "/reset_prefix_cache")):
            raise EngineError(f"{server} takes no weights: start it with `{START}`")
        if not answer.is_success:
            why = complaint(answer.content) or shortened(answer.text) or "no reason given"
            raise EngineError(f"{server} answered {path} with {answer.status_code}: {why}")
        try:
            return read(answer.content)
        except ValueError as error:
            raise EngineError(f"{server} answered {path} with what makes no sense: {error}; see its log") from error


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
