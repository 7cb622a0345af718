"""`agent-srl` where a random model finds a signal: the reward of a sample is a number made from its tokens.

With FAULT=kind:rank:n that process fails at its n-th training forward: `memory` or `kill`. Started by test_processes.
"""

from __future__ import annotations

import os
import signal

import torch

from agent_srl.cli import main
from agent_srl.rollout.steps import StepSampler
from agent_srl.train import update
from agent_srl.types import Completion, Sample, StepExample


def score(self: StepSampler, completion: Completion, example: StepExample) -> Sample:
    """Steps whose number is a multiple of three carry no signal."""
    reward = sum(completion.tokens_T) % 101 / 101 if example.step % 3 else 0.5
    return Sample(completion, "", "", None, reward)


def failing(kind: str, rank: str, at: str):
    left, forward = int(at), update.branch_logprobs

    def run(*args):
        nonlocal left
        left -= os.environ.get("RANK") == rank
        if left == 0 and kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if left == 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(*args)

    return run


if __name__ == "__main__":
    StepSampler.score = score  # type: ignore[method-assign]
    if fault := os.environ.get("FAULT"):
        update.branch_logprobs = failing(*fault.split(":"))
    main()
