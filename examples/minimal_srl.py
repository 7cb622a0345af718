"""Step-wise SRL (arXiv 2510.25992) in plain torch and transformers: cut, sample, score, advantages, loss, step.

    python examples/minimal_srl.py                   # the default model on the trajectory below
    python examples/minimal_srl.py --model DIR --trajectories runs.jsonl --steps 20

To read, not to train with: `agent-srl train` adds refill, trees that compute each token once, held-out comparison and
resume. The readers of trajectories, the chat rendering and the reward come from the package. A raw model rarely writes
the format, and then every reward is -1 and nothing is learnt; so the loop first imitates the expert (`--warmup`).
"""

from __future__ import annotations

import argparse
import random

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from agent_srl.config import DataConfig
from agent_srl.data.actions import ActionFormat, choose_format
from agent_srl.data.formats import read_trajectories
from agent_srl.data.render import Renderer
from agent_srl.data.steps import StepBuilder
from agent_srl.models import resolve_model
from agent_srl.rewards.parse import parse_reply
from agent_srl.rewards.similarity import bare_call, ratio
from env_server.schema import Action, Step, Trajectory

COMMANDS = ["ls", "cat setup.py", "grep -rn version .", "sed -i s/1.0/1.1/ setup.py", "python setup.py --version"]
EXPERT = Trajectory(
    instance_id="example__1",
    repo="example",
    problem_statement="The version in setup.py should be 1.1.",
    source="example",
    steps=[
        Step(thought="Next.", action=Action(name="bash", arguments={"command": c}), observation="ok") for c in COMMANDS
    ],
)


def main() -> None:
    options = parse_arguments()
    torch.manual_seed(options.seed)
    folder = resolve_model(options.model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, betas=(0.9, 0.99), weight_decay=0.0)

    # 1. Cut: every step of an expert's trajectory is a prompt (its history) and a target (its next action).
    trajectories = read_trajectories(options.trajectories)[0] if options.trajectories else [EXPERT]
    fmt = choose_format("auto", trajectories)
    renderer = Renderer(tokenizer)
    examples = StepBuilder(renderer, fmt, DataConfig()).build(trajectories).examples
    print(f"{len(examples)} steps of {len(trajectories)} trajectories")

    for step in range(options.warmup):
        example = random.Random(step).choice(examples)
        logprobs, _ = completion_logprobs(model, example.prompt_P, [example.target_T])
        update(model, optimizer, -logprobs.mean())

    for step in range(options.steps):
        example = examples[step % len(examples)]

        # 2. Sample G replies to one prompt.
        completions = sample(model, tokenizer, example.prompt_P, options.samples, options.max_new_tokens)

        # 3. Score: -1 for a broken format, else the similarity of the bare action with the expert's.
        rewards = torch.tensor([score(tokens, renderer, fmt, example.expert) for tokens in completions])

        # 4. Advantages: how much better than the group; a group whose rewards are equal says nothing.
        std = rewards.std(correction=0)
        line = f"step {step + 1}: reward {rewards.mean():+.3f}, best {rewards.max():+.3f}"
        if std < 0.02:
            print(f"{line}, skipped: no spread")
            continue
        advantages_G = (rewards - rewards.mean()) / std

        # 5. Loss: GRPO's. One update per batch, so the ratio to the sampling policy is 1 and its clip does not act yet.
        logprobs_GT, mask_GT = completion_logprobs(model, example.prompt_P, completions)
        ratio_GT = torch.exp(logprobs_GT - logprobs_GT.detach())
        gain_GT = torch.minimum(ratio_GT * advantages_G[:, None], ratio_GT.clamp(0.8, 1.2) * advantages_G[:, None])
        loss = -((gain_GT * mask_GT).sum(1) / mask_GT.sum(1)).mean()

        # 6. Step.
        norm = update(model, optimizer, loss)
        print(f"{line}, gradient norm {norm:.3f}")
    if options.out:
        model.save_pretrained(options.out)
        tokenizer.save_pretrained(options.out)


@torch.no_grad()
def sample(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: tuple[int, ...], n: int, limit: int
) -> list[tuple[int, ...]]:
    """`n` replies at temperature 1, each up to and with its end token."""
    ids = torch.tensor([prompt] * n)
    end = tokenizer.eos_token_id
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
        max_new_tokens=limit, eos_token_id=end, pad_token_id=end,
    )  # fmt: skip
    replies = [row[len(prompt) :].tolist() for row in out]
    return [tuple(r[: r.index(end) + 1] if end in r else r) for r in replies]


def score(tokens: tuple[int, ...], renderer: Renderer, fmt: ActionFormat, expert: Action) -> float:
    """The paper's reward. A reply without its end token is broken too."""
    if tokens[-1] != renderer.tokenizer.eos_token_id:
        return -1.0
    parsed = parse_reply(renderer.decode(tokens), fmt)
    return -1.0 if parsed is None else ratio(bare_call(parsed[1]), bare_call(expert))


def completion_logprobs(
    model: PreTrainedModel, prompt: tuple[int, ...], completions: list[tuple[int, ...]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities [G, T] of the completions' tokens, and a mask of the same shape; one padded row each."""
    longest = max(len(c) for c in completions)
    # Padding on the right is never seen: attention is causal.
    ids = torch.tensor([[*prompt, *c, *[0] * (longest - len(c))] for c in completions])
    logits = model(ids[:, :-1], logits_to_keep=longest).logits
    logprobs = torch.log_softmax(logits.float(), -1).gather(2, ids[:, -longest:, None]).squeeze(2)
    mask = torch.tensor([[1.0] * len(c) + [0.0] * (longest - len(c)) for c in completions])
    return logprobs * mask, mask


def update(model: PreTrainedModel, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> float:
    """One optimizer step; returns the gradient norm before clipping."""
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return float(norm)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="a local folder, a hub id, or smollm2")
    parser.add_argument("--trajectories", default="", help="a JSONL file of expert runs, in any format that is read")
    parser.add_argument("--warmup", type=int, default=20, help="imitation steps before")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--samples", type=int, default=8, help="per step")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--lr", type=float, default=3e-5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="", help="folder for the trained model")
    return parser.parse_args()


if __name__ == "__main__":
    main()
