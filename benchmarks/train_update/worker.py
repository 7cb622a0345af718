"""One measurement in a process of its own: `python -m benchmarks.train_update.worker JOB` with the job as JSON.

Prints one line of JSON: process CPU seconds and wall seconds of the task, and the process's peak resident memory at its
end (imports, weights and a small warm-up included, nothing subtracted; what stood before the task beside it).
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.train_update.job import Job, word
from benchmarks.train_update.shapes import SPECIAL, ModelShape, Shape

WARM = Shape(trunk=64, steps=1, samples=2, new=8)


def run(job: Job) -> dict[str, Any]:
    """The measurement. Both sides are imported whatever the arm, so that every process starts from the same memory."""
    import torch

    from benchmarks.train_update import ours, trl

    if job.threads:
        torch.set_num_threads(job.threads)
    measure = trl.measure if job.arm in ("trl", "trl_thrifty") else ours.measure
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(job.model, folder, job.seed)
        measure(job, WARM, folder)
        before = _peak_mib()
        clock = measure(job, job.shape, folder)
    return {"cpu_s": clock.cpu, "wall_s": clock.wall, "peak_mib": _peak_mib(), "before_mib": before}


def make_model(shape: ModelShape, folder: Path, seed: int) -> None:
    """A model with random weights and a tokenizer of one word per id, where transformers loads them."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    names = ["<pad>", "<end>", "<unk>"] + [word(i) for i in range(SPECIAL, shape.vocabulary)]
    tokenizer = Tokenizer(WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    special = {"pad_token": "<pad>", "eos_token": "<end>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(seed)
    Qwen2ForCausalLM(Qwen2Config(**shape.kwargs(), pad_token_id=0, eos_token_id=1)).save_pretrained(folder)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false"}
    print(json.dumps(run(Job.from_json(sys.argv[1]))))


if __name__ == "__main__":
    main()
