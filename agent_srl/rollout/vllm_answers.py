"""What a vLLM server answers, read with suspicion: every reader takes the body and raises ValueError in one line."""

from __future__ import annotations

import json
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, ValidationError

from agent_srl.rollout.engine import Sampling
from agent_srl.types import Completion


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class _Answer(_Strict):
    error: None = None
    """Some servers answer with status 200 and an error."""


class _Served(_Strict):
    id: str


class _Models(_Answer):
    data: list[_Served] = Field(min_length=1)


class _Reset(_Answer):
    success: bool


class _Logprobs(_Strict):
    token_logprobs: list[FiniteFloat]


class _Choice(_Strict):
    index: int
    token_ids: list[NonNegativeInt] = Field(min_length=1)
    logprobs: _Logprobs
    finish_reason: Literal["stop", "length"]


class _Completions(_Answer):
    choices: list[_Choice]


A = TypeVar("A", bound=_Answer)


def model_name(body: bytes) -> str:
    """Of `GET /v1/models`."""
    return _read(_Models, body).data[0].id


def accepted(body: bytes) -> None:
    """Of `POST /collective_rpc`, which may have nothing to say."""
    _read(_Answer, body or b"{}")


def is_reset(body: bytes) -> bool:
    """Of `POST /reset_prefix_cache`: whether the cache is empty now."""
    return _read(_Reset, body).success


def completions(body: bytes, *, n: int, sampling: Sampling, end_tokens: list[int], vocabulary: int) -> list[Completion]:
    """Of `POST /v1/completions`: what was asked for, in order."""
    choices = sorted(_read(_Completions, body).choices, key=lambda choice: choice.index)
    if [choice.index for choice in choices] != list(range(n)):
        raise ValueError(f"completions {[choice.index for choice in choices][:8]}, not {n} from 0 on")
    return [_completion(choice, sampling.max_new_tokens, set(end_tokens), vocabulary) for choice in choices]


def complaint(body: bytes) -> str:
    """The error message of an answer in one line; empty if it has none."""
    try:
        said = json.loads(body)
    except ValueError:
        return ""
    error = said.get("error") if isinstance(said, dict) else None
    text = error.get("message") if isinstance(error, dict) else error
    return shortened(str(text or ""))


def shortened(text: str) -> str:
    """One line that a person will read."""
    return " ".join(text.split())[:300]


def _read(kind: type[A], body: bytes) -> A:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first: Any = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "its body"
        raise ValueError(shortened(complaint(body) or f"{place}: {first['msg']}")) from error


def _completion(choice: _Choice, limit: int, end_tokens: set[int], vocabulary: int) -> Completion:
    tokens, logprobs = choice.token_ids, choice.logprobs.token_logprobs
    if len(logprobs) != len(tokens):
        raise ValueError(f"{len(tokens)} tokens with {len(logprobs)} log-probabilities")
    if len(tokens) > limit:
        raise ValueError(f"{len(tokens)} tokens where {limit} are the most")
    if max(tokens) >= vocabulary:
        raise ValueError(f"token {max(tokens)}, but the model's vocabulary is {vocabulary}")
    finished = tokens[-1] in end_tokens
    if finished != (choice.finish_reason == "stop") or end_tokens.intersection(tokens[:-1]):
        raise ValueError("a completion that does not stop at its end token")
    return Completion(tuple(tokens), tuple(logprobs), finished)
