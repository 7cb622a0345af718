"""vLLM in this process: continuous batching and a prefix cache, on the weights of the training model.

vLLM holds process-wide state, so there is one per process, started by the first call; policies of one shape use it in
turn, each with its own weights, which come from memory. Left out: several GPUs or several training processes (both:
rollout.engine=vllm-server).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import count
from typing import Any

from agent_srl.errors import EngineError, ModelError
from agent_srl.lora import merged_weights
from agent_srl.models import causal_model
from agent_srl.rollout.batching import BatchingEngine, Request, failed
from agent_srl.rollout.check import CHECK, check_completion, check_prompt
from agent_srl.rollout.engine import Sampling
from agent_srl.types import Completion


@dataclass(frozen=True)
class Limits:
    """What vLLM may take."""

    max_tokens: int
    """Of a prompt and its completion together; cut to what the model can hold."""
    memory_share: float
    """Of the GPU's memory, or of a CPU's."""
    may_sleep: bool
    """On a GPU: give the memory back while the model is trained."""


class VllmEngine(BatchingEngine):
    """Generates with the process's vLLM."""

    def __init__(self, model: Any, end_tokens: set[int], limits: Limits) -> None:
        """Raises ModelError where vLLM is not installed."""
        super().__init__()
        if find_spec("vllm") is None:
            raise ModelError(
                "rollout.engine=vllm, but vllm is not installed here: install agent-srl[vllm] in an environment of "
                "its own"
            )
        self._model, self._end_tokens, self._limits = causal_model(model), end_tokens, limits
        self._requests: dict[str, Request] = {}
        self._user, self._checked = object(), False

    async def update_weights(self, model: Any) -> None:
        """Takes the weights over as they are now. Raises EngineError."""
        self._model = causal_model(model)
        await self._in_thread(lambda: self._vllm().load(self._user, self._model))

    async def sleep(self) -> None:
        """Drops weights and cache where that is asked for; the next call loads them anew."""
        if _shared is not None:
            await self._in_thread(_shared.sleep)

    def _admit(self) -> None:
        self._running += self._waiting
        self._waiting = []

    def _advance(self) -> list[tuple[Request, list[Completion] | EngineError]]:
        vllm, over = self._ready(), list[tuple[Request, list[Completion] | EngineError]]()
        for name in [name for name, request in self._requests.items() if not request.wanted]:
            vllm.abort(name)
            del self._requests[name]
        known = set(map(id, self._requests.values()))
        for request in self._running:
            if id(request) in known:
                continue
            try:
                wanted = partial(getattr, request, "wanted")
                name = vllm.add(request.prompt, request.n, request.sampling, self._end_tokens, wanted)
                self._requests[name] = request
            except EngineError as error:
                over.append((request, error))
        over += [(self._requests.pop(name), completions) for name, completions in vllm.step()]
        return over

    def _forget(self) -> None:
        for name in self._requests:
            self._vllm().abort(name)
        self._requests.clear()

    def _vllm(self) -> _Vllm:
        return _start(self._model, self._limits)

    def _ready(self) -> _Vllm:
        """vLLM, awake, with this engine's weights; the first time it is compared with the model."""
        vllm = self._vllm()
        vllm.ready(self._user, self._model)
        if not self._checked:
            prompt = check_prompt(self._model.config.vocab_size)
            name, found = vllm.add(prompt, 1, CHECK, set(), lambda: True), list[Completion]()
            while not found:
                found = dict(vllm.step()).get(name, [])
            check_completion(self._model, prompt, found[0], "vLLM")
            self._checked = True
        return vllm


class _Vllm:
    """The process's vLLM."""

    def __init__(self, model: Any, limits: Limits) -> None:
        from vllm import LLM

        self.shape, self._names = _shape(model, limits), count()
        self._asleep: set[str] = set()
        self._running: dict[str, Callable[[], bool]] = {}
        """Whether somebody still waits for it."""
        self._user: object = None
        """Whose weights it holds."""
        on_gpu = model.device.type == "cuda"
        self._may_sleep = limits.may_sleep and on_gpu
        longest = min(limits.max_tokens, model.config.max_position_embeddings)
        with _architecture(model) as folder:
            self._llm = LLM(
                model=folder,
                load_format="dummy",
                skip_tokenizer_init=True,
                dtype=str(model.dtype).removeprefix("torch."),
                max_model_len=longest,
                gpu_memory_utilization=limits.memory_share,
                enable_prefix_caching=True,
                enable_sleep_mode=self._may_sleep,
                enforce_eager=not on_gpu,
                logprobs_mode="processed_logprobs",
                generation_config="vllm",
                disable_log_stats=True,
            )
        self._engine = self._llm.llm_engine

    def ready(self, user: object, model: Any) -> None:
        """Awake, with `user`'s weights; they are `model`'s."""
        if self._user is not user:
            self.load(user, model)
        self._wake("kv_cache")

    def load(self, user: object, model: Any) -> None:
        """Copy the weights of `model`, and forget what was cached of others. Raises EngineError."""
        for name in [name for name, wanted in self._running.items() if not wanted()]:
            self.abort(name)
        if self._running:
            raise EngineError("vLLM still generates with the weights before: policies use it in turn")
        weights = merged_weights(model)
        self._wake("weights")
        # Not the model's own load_weights: on a CPU vLLM multiplies with packed copies, which that leaves as they were.
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights.items())})
        if not self._llm.reset_prefix_cache():
            raise EngineError("vLLM did not let go of what it had cached of the weights before")
        self._user = user

    def sleep(self) -> None:
        """Level 2: weights are dropped, not kept in the CPU's memory: the training model has newer ones."""
        if self._may_sleep and not self._asleep:
            self._llm.sleep(level=2)
            self._asleep, self._user = {"weights", "kv_cache"}, None

    def _wake(self, part: str) -> None:
        if part in self._asleep:
            self._llm.wake_up(tags=[part])
            self._asleep.discard(part)

    def add(
        self, prompt: tuple[int, ...], n: int, sampling: Sampling, end_tokens: set[int], wanted: Callable[[], bool]
    ) -> str:
        """Queue a request; returns its name. Raises EngineError if it is too long or has unknown tokens."""
        from vllm import SamplingParams
        from vllm.exceptions import VLLMClientError
        from vllm.sampling_params import RequestOutputKind

        name = str(next(self._names))
        params = SamplingParams(
            n=n,
            temperature=sampling.temperature,
            max_tokens=sampling.max_new_tokens,
            # Sample i gets seed + i: seeds of neighbours must not be neighbours.
            seed=sampling.seed * 1_000_003 % 2**62,
            logprobs=0,
            stop_token_ids=sorted(end_tokens),
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        try:
            self._engine.add_request(name, {"type": "token", "prompt_token_ids": list(prompt)}, params)
        except VLLMClientError as error:
            raise failed(error) from error
        self._running[name] = wanted
        return name

    def step(self) -> list[tuple[str, list[Completion]]]:
        """One token for everything that runs; what is finished now."""
        done = {o.request_id: [_completion(c) for c in o.outputs] for o in self._engine.step() if o.finished}
        self._running = {name: wanted for name, wanted in self._running.items() if name not in done}
        return list(done.items())

    def abort(self, name: str) -> None:
        if self._running.pop(name, None):
            self._engine.abort_request([name])


_shared: _Vllm | None = None


def _start(model: Any, limits: Limits) -> _Vllm:
    """The process's vLLM, started if there is none. Raises EngineError if it serves another shape of model."""
    global _shared
    if _shared is None:
        if _processes() > 1:
            raise EngineError("rollout.engine=vllm serves one training process: set rollout.engine=vllm-server")
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # weights are handed over within the process
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # the threads are the trainer's, too
        try:
            _shared = _Vllm(model, limits)
        except Exception as error:
            reason = str(failed(error)).removeprefix("generation failed: ")
            raise EngineError(
                f"vLLM did not start: {reason}; see rollout.memory_share and rollout.max_tokens"
            ) from error
    elif _shared.shape != _shape(model, limits):
        raise EngineError("this process runs vLLM for a model of another shape or other limits: start a new process")
    return _shared


def _processes() -> int:
    from torch import distributed

    return distributed.get_world_size() if distributed.is_initialized() else 1


def _shape(model: Any, limits: Limits) -> tuple[Any, ...]:
    said_elsewhere = ("_name_or_path", "architectures", "dtype", "transformers_version")
    config = {key: value for key, value in model.config.to_dict().items() if key not in said_elsewhere}
    return type(model), model.dtype, model.device, limits, config


@contextmanager
def _architecture(model: Any) -> Iterator[str]:
    """A folder with the model's config and no weights."""
    with tempfile.TemporaryDirectory() as folder:
        config = type(model.config).from_dict(model.config.to_dict())
        config.architectures = [type(model).__name__]
        config.save_pretrained(folder)
        yield folder


def _completion(output: Any) -> Completion:
    tokens = tuple(output.token_ids)
    logprobs = tuple(at[token].logprob for token, at in zip(tokens, output.logprobs, strict=True))
    return Completion(tokens, logprobs, output.finish_reason == "stop")
