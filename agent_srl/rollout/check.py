"""Whether an engine of its own samples from the training model: log-probabilities compared on one short completion.

It finds another model, weights that did not arrive, log-probabilities that leave the temperature out, and another
precision.
"""

from __future__ import annotations

import random
from typing import Any

import torch

from agent_srl.errors import EngineError
from agent_srl.rollout.engine import Sampling
from agent_srl.types import Completion

CHECK = Sampling(temperature=0.5, max_new_tokens=8, seed=1)
"""What to sample for it. The temperature is none at which processed and raw log-probabilities agree."""
_TOLERANCE = {torch.float64: 0.01, torch.float32: 0.01}
"""Mean difference of log-probabilities that kernels of another make may cause; half precision gets 0.2."""


def check_prompt(vocabulary: int) -> tuple[int, ...]:
    """Nine token ids from everywhere: on the first ones, the special ones, half precision can be off by more than 1."""
    draw = random.Random(0)
    return tuple(draw.randrange(vocabulary) for _ in range(9))


@torch.no_grad()
def check_completion(model: Any, prompt_P: tuple[int, ...], completion: Completion, engine: str) -> None:
    """Raises EngineError where `completion`, sampled as `CHECK` says, is not one of the causal model `model`."""
    training, tokens = model.training, completion.tokens_T
    model.eval()
    try:
        ids = torch.tensor([[*prompt_P, *tokens]], device=model.device)
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt_P) - 1 : -1].float()
    finally:
        model.train(training)
    expected = (logits / CHECK.temperature).log_softmax(-1).gather(1, torch.tensor(tokens, device=ids.device)[:, None])
    off = float((expected.squeeze(1).cpu() - torch.tensor(completion.logprobs_T)).abs().mean())
    if not off < _TOLERANCE.get(model.dtype, 0.2):
        raise EngineError(
            f"{engine} does not sample from this model: log-probabilities differ by {off:.2g} on average. Is it the "
            "same model and dtype, with --logprobs-mode processed_logprobs?"
        )
