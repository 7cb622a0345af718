"""Token trees against one row per sample on a GPU, in one call: `python -m benchmarks.gpu_tree --out DIR`.

Made for a bare machine without a network that has torch: random weights, shapes of Qwen2.5 (1.5B) and a 135M class in
bfloat16 with float32 masters, trunks of 4k, 16k and 32k tokens. An update is forward, backward and optimizer step; wall
time with the device synchronised; share of the card's matrix peak on unique tokens (the tree's FLOPs over time, what is
recomputed not counted); peak memory of the allocator. The other side is a plain batch of rows through transformers'
SDPA, head on samples alone, at the fastest of micro-batches 1, 2 and 4 that fit; it is measured whole, once. Results
are written after every measurement. `--device cpu --tiny` shows that it runs.

It imports torch, transformers with what that requires, and this repository (a test holds it to that). Where
transformers is missing, carry wheels with the working tree, those that it requires included:

    pip download -d build/wheels transformers==5.19.0
    pip install --no-index --find-links build/wheels transformers==5.19.0

Left out: TRL itself (`benchmarks.train_update` has it, on a CPU), vLLM.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from agent_srl.rollout.attention import ATTENTION, register_attention
from agent_srl.train.attention import Kernel
from agent_srl.train.optimizer import MasterAdamW
from agent_srl.train.tree import Branch, branch_logprobs, pack
from benchmarks.train_update.shapes import ModelShape, Shape, dense_work, tree_work

MODELS = {
    "135M": ModelShape(vocabulary=49152, hidden=576, intermediate=1536, layers=30, heads=9, kv_heads=3),
    "1.5B": ModelShape(vocabulary=151936, hidden=1536, intermediate=8960, layers=28, heads=12, kv_heads=2),
}
SHAPES = {
    "4k": Shape(trunk=4096, steps=10, samples=8, new=128),
    "16k": Shape(trunk=16384, steps=20, samples=8, new=256),
    "32k": Shape(trunk=32768, steps=20, samples=8, new=256),
}
TINY_MODELS = {"tiny": ModelShape(vocabulary=128, hidden=32, intermediate=64, layers=2)}
TINY_SHAPES = {"64": Shape(trunk=64, steps=3, samples=2, new=6)}
PEAK_TFLOPS = {"H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.4, "H200": 989.4, "A100": 312.0}
"""Dense bfloat16, from the makers' data sheets; the first name that the card's contains."""
MICRO_BATCHES = (1, 2, 4)
ROUNDS = 3

Record = dict[str, Any]


class OutOfTime(Exception):
    """The limit is near; what was measured is written."""


class Bench:
    """Measurements on one device, written as they come."""

    def __init__(self, device: torch.device, out: Path, limit: float) -> None:
        self.device, self.out, self.until = device, out, time.monotonic() + limit
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        peak = next((tflops for part, tflops in PEAK_TFLOPS.items() if part in name), None)
        self.result: Record = {
            "device": name,
            "torch": torch.__version__,
            "peak_tflops": peak,
            "rows": [],
            "errors": [],
        }
        self.kernels: list[Kernel | None] = ["flex", "masked"] if device.type == "cuda" else [None]

    def run(self, models: dict[str, ModelShape], shapes: dict[str, Shape]) -> None:
        """Trees of everything first, since they are short; then rows, the 16k trunk first."""
        cases = [(m, s) for m in models for s in shapes]
        try:
            for name, length in cases:
                self.result["rows"].append(self._trees(name, models[name], length, shapes[length]))
                self._write()
            for row in sorted(self.result["rows"], key=lambda r: r["trunk"] != "16k"):
                row |= self._rows(models[row["model"]], shapes[row["trunk"]])
                self._write()
        except OutOfTime:
            self.result["stopped"] = "out of time: what is missing was not measured"
            self._write()

    def _trees(self, name: str, shape: ModelShape, length: str, work: Shape) -> Record:
        """The first of the settings that fits, one pass without recomputation before smaller ones with it."""
        row: Record = {"model": name, "trunk": length}
        row |= {"unique_tokens": tree_work(work).tokens, "row_tokens": dense_work(work).tokens}
        whole = tree_work(work).tokens + 1
        for kernel in list(self.kernels):
            for limit, checkpointing in ((whole, False), (whole, True), (whole // 2, True), (whole // 4, True)):
                try:
                    return row | {"tree": self._tree(shape, work, kernel, limit, checkpointing)}
                except torch.cuda.OutOfMemoryError:
                    continue
                except OutOfTime:
                    raise
                except Exception as error:  # no compiler, say: the other kernel may work, and the call is not repeated
                    self.result["errors"].append(f"{kernel}: {type(error).__name__}: {str(error)[:500]}")
                    self.kernels.remove(kernel)
                    break
        return row

    def _tree(self, shape: ModelShape, work: Shape, kernel: Kernel | None, limit: int, checkpointing: bool) -> Record:
        model, optimizer, branches = self._ready(shape, work, ATTENTION, checkpointing)
        self._timed(_tree_update, model, optimizer, branches, limit, kernel)
        times = [self._timed(_tree_update, model, optimizer, branches, limit, kernel) for _ in range(ROUNDS)]
        seconds = statistics.median(t["s"] for t in times)
        found = {"s": seconds, "peak_gib": times[-1]["peak_gib"], "all_s": [t["s"] for t in times], "kernel": kernel}
        found |= {"checkpointing": checkpointing, "passes": len(pack(branches, limit))}
        if self.result["peak_tflops"]:
            found["mfu"] = tree_work(work).flops(shape) / seconds / 1e12 / self.result["peak_tflops"]
        return found

    def _rows(self, shape: ModelShape, work: Shape) -> Record:
        """All rows at the micro-batch that was fastest on the longest ones."""
        tried: dict[tuple[int, bool], float] = {}
        for checkpointing in (False, True):
            for micro in () if tried else MICRO_BATCHES:
                with contextlib.suppress(torch.cuda.OutOfMemoryError):
                    tried[micro, checkpointing] = self._seconds_per_row(shape, work, micro, checkpointing)
        if not tried:
            return {"rows": None}
        micro, checkpointing = min(tried, key=lambda key: tried[key])
        named = {f"{m}{' checkpointed' if c else ''}": s for (m, c), s in tried.items()}
        if time.monotonic() + tried[micro, checkpointing] * work.rows > self.until:
            return {"seconds_per_row": named}
        model, optimizer, branches = self._ready(shape, work, "sdpa", checkpointing)
        found = self._timed(_rows_update, model, optimizer, branches, micro)
        return {"rows": found | {"micro_batch": micro, "checkpointing": checkpointing, "seconds_per_row": named}}

    def _seconds_per_row(self, shape: ModelShape, work: Shape, micro: int, checkpointing: bool) -> float:
        model, optimizer, branches = self._ready(shape, work, "sdpa", checkpointing)
        longest = sorted(branches, key=lambda b: -len(b.prompt))[: 2 * micro]
        self._timed(_rows_update, model, optimizer, longest[:micro], micro)
        return float(self._timed(_rows_update, model, optimizer, longest, micro)["s"]) / len(longest)

    def _ready(
        self, shape: ModelShape, work: Shape, attention: str, checkpointing: bool
    ) -> tuple[Any, MasterAdamW, list[Branch]]:
        if time.monotonic() > self.until:
            raise OutOfTime
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        model = make_model(shape, self.device, attention)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        return model, MasterAdamW(model, lr=1e-6, betas=(0.9, 0.99), weight_decay=0.0), make_branches(work, shape)

    def _timed(self, work: Callable[..., None], *given: Any) -> Record:
        if time.monotonic() > self.until:
            raise OutOfTime
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        started = time.monotonic()
        work(*given)
        if cuda:
            torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
        return {"s": time.monotonic() - started, "peak_gib": peak}

    def _write(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "gpu_tree.json").write_text(json.dumps(self.result, indent=2) + "\n", encoding="utf-8")
        (self.out / "gpu_tree.md").write_text(page(self.result), encoding="utf-8")


def make_model(shape: ModelShape, device: torch.device, attention: str) -> Any:
    """A Qwen2 with random weights in bfloat16, made on the device."""
    from transformers import AutoModelForCausalLM, Qwen2Config

    register_attention()
    torch.manual_seed(0)
    with device:
        config = Qwen2Config(**shape.kwargs())
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation=attention).train()


def make_branches(work: Shape, model: ModelShape) -> list[Branch]:
    """Alternating advantages, mean over samples of the mean over tokens."""
    prompts = work.prompts(model.vocabulary, 0)
    weight = 1 / (work.rows * work.new)
    return [
        Branch(prompts[i // work.samples], tokens, (-1.0) ** i, weight)
        for i, tokens in enumerate(work.completions(model.vocabulary, 0))
    ]


def _tree_update(
    model: Any, optimizer: MasterAdamW, branches: list[Branch], limit: int, kernel: Kernel | None = None
) -> None:
    for row in pack(branches, limit):
        logprobs, _ = branch_logprobs(model, row, 1.0, kernel)
        gains = row.per_token([b.advantage * b.weight for b in row.branches]).to(logprobs)
        (-gains * torch.exp(logprobs - logprobs.detach())).sum().backward()
        optimizer.collect()
    optimizer.clip(1.0)
    optimizer.step(1e-6)


def _rows_update(model: Any, optimizer: MasterAdamW, branches: list[Branch], micro: int) -> None:
    """Rows of like length together, padded on the right, where causal attention never looks."""
    ordered = sorted(branches, key=lambda b: len(b.prompt))
    for start in range(0, len(ordered), micro):
        batch = ordered[start : start + micro]
        rows = [[*b.prompt, *b.tokens[:-1]] for b in batch]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=model.device)
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        own = torch.cat(
            [hidden[i, len(b.prompt) - 1 : len(r)] for i, (b, r) in enumerate(zip(batch, rows, strict=True))]
        )
        targets = torch.tensor([t for b in batch for t in b.tokens], device=model.device)
        logprobs = -torch.nn.functional.cross_entropy(
            model.get_output_embeddings()(own).float(), targets, reduction="none"
        )
        gains = torch.tensor([b.advantage * b.weight for b in batch for _ in b.tokens], device=model.device)
        (-gains * torch.exp(logprobs - logprobs.detach())).sum().backward()
        optimizer.collect()
    optimizer.clip(1.0)
    optimizer.step(1e-6)


def page(result: Record) -> str:
    """The results as Markdown."""
    head = "| model | trunk | unique tokens | row tokens | trees s | rows s | rows / trees | MFU | GiB, trees | rows |"
    lines = [_page_line(row) for row in result["rows"]]
    title = f"# Token trees on a GPU\n\n{result['device']}, torch {result['torch']}: `python -m benchmarks.gpu_tree`\n"
    return "\n".join([title, head, "|---" * 10 + "|", *lines, "", result.get("stopped", "")]) + "\n"


def _page_line(row: Record) -> str:
    tree, rows = row.get("tree"), row.get("rows")
    missing = "out of memory" if "rows" in row else "not measured"
    cells = [row["model"], row["trunk"], f"{row['unique_tokens']:,}", f"{row['row_tokens']:,}"]
    cells += [f"{tree['s']:.2f}" if tree else "out of memory", f"{rows['s']:.2f}" if rows else missing]
    cells += [
        f"{rows['s'] / tree['s']:.1f}" if tree and rows else "-",
        f"{tree['mfu']:.0%}" if tree and "mfu" in tree else "-",
    ]
    cells += [f"{side['peak_gib']:.1f}" if side and side["peak_gib"] is not None else "-" for side in (tree, rows)]
    return "| " + " | ".join(cells) + " |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_tree", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu_tree.json and gpu_tree.md")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes")
    parser.add_argument("--limit", type=float, default=540.0, help="seconds; nothing new is begun after them")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU here: use --device cpu --tiny to see that it runs")
    bench = Bench(torch.device(options.device), options.out, options.limit)
    bench.run(TINY_MODELS if options.tiny else MODELS, TINY_SHAPES if options.tiny else SHAPES)
    print((options.out / "gpu_tree.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
