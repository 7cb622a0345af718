"""What the trunk saves while generating: `python -m benchmarks.generation [--trunk 4000 --steps 10 ...]`.

All steps of one trajectory, several samples each, full-length completions, a random Qwen2; each arm in a process of its
own: `shared` is the engine as it is, `apart` the same engine on prompts that differ in their first token (each computed
and stored by itself), `generate` transformers' `model.generate` on the padded batch. Reported: medians over rounds of
CPU and wall seconds, and peak memory above what stood before. The last line is JSON. Left out: rewards, updates, real
weights.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ARMS = ("shared", "apart", "generate")
VOCABULARY = 8000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in {"trunk": 4000, "steps": 10, "samples": 8, "tokens": 100, "rounds": 3, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.arm:
        print(json.dumps(_measure(args)))
        return
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    for _ in range(args.rounds):
        for arm in ARMS:
            command = [sys.executable, "-m", "benchmarks.generation", "--arm", arm, *sys.argv[1:]]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[arm].append(json.loads(done.stdout.splitlines()[-1]))
    medians = {arm: {k: statistics.median(row[k] for row in rows) for k in rows[0]} for arm, rows in found.items()}
    for arm, row in medians.items():
        print(f"{arm:9} {row['cpu_s']:7.1f} s CPU {row['wall_s']:7.1f} s wall {row['peak_mib']:7.0f} MiB")
    ratios = {
        f"{arm}_{key}": round(medians[arm][value] / medians["shared"][value], 2)
        for arm in ARMS[1:]
        for key, value in (("cpu", "cpu_s"), ("memory", "peak_mib"))
    }
    print(json.dumps({**vars(args), **ratios}))


def _measure(args: argparse.Namespace) -> dict[str, float]:
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    from agent_srl.rollout.attention import ATTENTION, register_attention

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    register_attention()
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=args.trunk + args.tokens,
    )
    name = "sdpa" if args.arm == "generate" else ATTENTION
    model = AutoModelForCausalLM.from_config(config, attn_implementation=name).eval()
    trunk = torch.randint(args.steps, VOCABULARY, (args.trunk,)).tolist()
    prompts = [tuple(trunk[: args.trunk * (k + 1) // args.steps]) for k in range(args.steps)]
    if args.arm == "apart":
        prompts = [(k, *prompt[1:]) for k, prompt in enumerate(prompts)]
    run = _generate if args.arm == "generate" else _engine
    run(model, [(1, 2, 3)], 2, 2)
    before, wall, cpu = _peak_mib(), time.perf_counter(), time.process_time()
    run(model, prompts, args.samples, args.tokens)
    seconds = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
    return {**seconds, "peak_mib": _peak_mib() - before}


def _engine(model: Any, prompts: list[tuple[int, ...]], samples: int, tokens: int) -> None:
    from agent_srl.rollout.engine import Sampling
    from agent_srl.rollout.hf import TransformersEngine

    async def all_of_them() -> None:
        engine = TransformersEngine(model, {-1}, max_rows=len(prompts) * samples)
        sampling = [Sampling(1.0, tokens, seed) for seed in range(len(prompts))]
        await asyncio.gather(*(engine.generate(p, samples, s) for p, s in zip(prompts, sampling, strict=True)))
        await engine.close()

    asyncio.run(all_of_them())


def _generate(model: Any, prompts: list[tuple[int, ...]], samples: int, tokens: int) -> None:
    import torch

    longest = max(map(len, prompts))
    ids = torch.tensor([(0,) * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[False] * (longest - len(p)) + [True] * len(p) for p in prompts])
    model.generate(
        ids,
        attention_mask=mask,
        num_return_sequences=samples,
        do_sample=True,
        top_k=0,
        max_new_tokens=tokens,
        eos_token_id=-1,
        pad_token_id=0,
    )


def _peak_mib() -> float:
    """Of this process's resident memory so far. Linux."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
