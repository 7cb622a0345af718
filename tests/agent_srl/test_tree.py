"""Risks: a tree that is not exact for some shape, family, kernel or setting; tokens paid twice; a budget not kept."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import flex_attention

from agent_srl.config import LoraConfig
from agent_srl.errors import TrainingError
from agent_srl.lora import add_adapters
from agent_srl.models import load_model
from agent_srl.rollout.attention import ATTENTION, register_attention
from agent_srl.train import support
from agent_srl.train.attention import TreePlan
from agent_srl.train.checkpoint import save_model
from agent_srl.train.flex import BLOCK, block_mask, block_visibility, flex, padded
from agent_srl.train.head import logprobs_and_entropy, of_logits
from agent_srl.train.support import FLEX_UNIT, prove_tree, sample_tree, why_dense
from agent_srl.train.tree import Branch, TreeRow, branch_logprobs, pack

VOCABULARY = 61
ATTEND, POSITIONS = TreePlan.attend, TreeRow.position_ids
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}


def build(family: str, *, heads: int = 2, dtype=torch.float64, tie=False):
    import transformers

    register_attention()
    config = getattr(transformers, f"{family}Config")(
        **SHAPE, num_key_value_heads=heads, tie_word_embeddings=tie, head_dim=6, attn_implementation=ATTENTION
    )
    torch.manual_seed(1)
    return getattr(transformers, f"{family}ForCausalLM")(config).to(dtype).train()


@pytest.fixture(scope="module")
def models():
    found = {f: build(f) for f in ("Llama", "Qwen2", "Qwen3")}
    found["Llama without sharing key heads"] = build("Llama", heads=4, tie=True)
    found["Qwen2 with one key head"] = build("Qwen2", heads=1)
    return found


@st.composite
def trees(draw) -> list[Branch]:
    """Steps of trunks, windows that fork in them, other trajectories, episodes with observations; ragged samples."""
    source = random.Random(draw(st.integers(0, 10**6)))

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(source.randrange(VOCABULARY) for _ in range(n))

    prompts = [tokens(draw(st.integers(1, 40)))]
    for _ in range(draw(st.integers(0, 5))):
        before = source.choice(prompts)
        prompts.append(before[: draw(st.integers(0, len(before)))] + tokens(draw(st.integers(0, 12))))
    branches = []
    for prompt in (p for p in prompts if p):
        for _ in range(draw(st.integers(1, 4))):
            own = tokens(draw(st.integers(1, 9)))
            learnt = tuple(source.random() < 0.6 for _ in own) if draw(st.booleans()) else ()
            branches.append(Branch(prompt, own, source.uniform(-2, 2), source.uniform(0.1, 1), learnt=learnt))
    return branches


def learn(model, rows, kernel=None):
    """Log-probabilities by branch (its place in memory) and gradients of their weighted sum."""
    model.zero_grad()
    found = {}
    for row in rows:
        logprobs, _ = branch_logprobs(model, row, 0.8, kernel)
        gains = row.per_token([b.advantage * b.weight for b in row.branches]).to(logprobs)
        (logprobs * gains).sum().backward()
        parts = logprobs.detach().split([b.count for b in row.branches])
        found |= {id(b): part for b, part in zip(row.branches, parts, strict=True)}
    return found, [p.grad.clone() for p in model.parameters() if p.requires_grad]


def plain(model, branches):
    """The literal meaning: one row per branch through the model as transformers runs it."""
    model.zero_grad()
    found = {}
    for b in branches:
        logits = model(torch.tensor([b.prompt + b.tokens]), use_cache=False).logits[0, len(b.prompt) - 1 : -1]
        logprobs = torch.log_softmax(logits.double() / 0.8, -1).gather(1, torch.tensor(b.tokens)[:, None])[:, 0]
        logprobs = logprobs[torch.tensor(b.learnt)] if b.learnt else logprobs
        (logprobs.sum() * b.advantage * b.weight).backward()
        found[id(b)] = logprobs.detach()
    return found, [p.grad.clone() for p in model.parameters() if p.requires_grad]


def assert_same(found, expected, atol):
    (logprobs, grads), (wanted, of_wanted) = found, expected
    assert logprobs.keys() == wanted.keys()
    for key, values in wanted.items():
        torch.testing.assert_close(logprobs[key].to(values), values, atol=atol, rtol=0)
    total = sum(float(g.double().norm()) ** 2 for g in of_wanted) ** 0.5
    apart = sum(float((a.double() - b.double()).norm()) ** 2 for a, b in zip(grads, of_wanted, strict=True)) ** 0.5
    assert apart <= 1e-5 * total + 1e-12


@pytest.mark.parametrize("kernel", ["sliced", "masked"])
@given(branches=trees(), budget=st.integers(1, 200))
@settings(max_examples=25)
def test_trees_equal_plain_rows(models, kernel, branches, budget):
    for name, model in models.items():
        rows = pack(branches, budget)
        assert_same(learn(model, rows, kernel), plain(model, branches), 1e-9)
        assert all(r.size() <= r.limit(budget) or len(r.branches) == 1 for r in rows), name


@given(branches=trees())
@settings(max_examples=10)
def test_trees_equal_plain_rows_in_float32(branches):
    for family in ("Llama", "Qwen2", "Qwen3"):
        model = build(family, dtype=torch.float32)
        assert_same(learn(model, pack(branches, 4096)), plain(model, branches), 1e-5)


def test_a_tree_of_the_default_model_equals_plain_rows():
    model = load_model("smollm2", torch.float32, torch.device("cpu")).train()
    source = random.Random(3)
    trunk = tuple(source.randrange(model.config.vocab_size) for _ in range(60))
    prompts = [trunk[:25], trunk, (*trunk[:40], 5, 6, 7)]
    branches = [Branch(p, trunk[i : i + 6], 1.0 - i / 9, 0.05) for p in prompts for i in (3, 30)]
    (found, grads), (wanted, of_wanted) = learn(model, pack(branches, 4096)), plain(model, branches)
    for key, values in wanted.items():
        torch.testing.assert_close(found[key].to(values), values, atol=1e-4, rtol=0)
    total = sum(float(g.double().norm()) ** 2 for g in of_wanted) ** 0.5
    assert (
        sum(float((a - b).double().norm()) ** 2 for a, b in zip(grads, of_wanted, strict=True)) ** 0.5 <= 1e-5 * total
    )


@given(branches=trees())
@settings(max_examples=8)
def test_gradient_checkpointing_changes_nothing(branches):
    model = build("Qwen3")
    expected = learn(model, pack(branches, 4096))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert_same(learn(model, pack(branches, 4096)), expected, 1e-9)


@given(branches=trees())
@settings(max_examples=8)
def test_adapters_learn_through_a_tree_as_through_rows(branches):
    model = with_adapters(build("Qwen2"))
    assert_same(learn(model, pack(branches, 4096)), plain(model, branches), 1e-9)


def with_adapters(model):
    add_adapters(model, LoraConfig(rank=3), seed=4)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    return model.double()


def test_what_is_saved_has_the_adapters_in_it(tmp_path, tokenizer):
    from transformers import AutoModelForCausalLM

    model = with_adapters(build("Llama", tie=True)).eval()
    before = {name: w.clone() for name, w in model.state_dict().items()}
    save_model(model, tokenizer, tmp_path / "model", {})
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float64).eval()
    assert not [name for name in loaded.state_dict() if "lora" in name or "base_layer" in name]
    ids = torch.arange(30)[None]
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits, atol=1e-5, rtol=1e-5)
    assert all(torch.equal(w, before[name]) for name, w in model.state_dict().items())


def test_adapters_start_the_same_whatever_was_drawn_before():
    starts = []
    for _ in range(2):
        model = build("Qwen2")
        torch.rand(len(starts) + 1)
        add_adapters(model, LoraConfig(rank=3), seed=4)
        starts.append([p.clone() for name, p in model.named_parameters() if "lora_A" in name])
    assert starts[0] and all(torch.equal(a, b) for a, b in zip(*starts, strict=True))


@given(branches=trees())
@settings(max_examples=15)
def test_every_token_is_paid_for_once(branches):
    """Against a count of our own: distinct prefixes of the prompts, and the samples' tokens that are read."""
    tree, read = TreeRow(), 0
    for branch in sorted(branches, key=lambda b: -len(b.prompt)):
        tree.add(branch)
        read += len(branch.tokens) - 1
    prefixes = {b.prompt[:n] for b in branches for n in range(1, len(b.prompt) + 1)}
    assert tree.size() == len(prefixes) + read == tree.input_ids().shape[1] == tree.position_ids().shape[1]


@given(branches=trees())
@settings(max_examples=25)
def test_the_block_mask_of_flex_is_that_of_the_tree(branches):
    row = TreeRow()
    for branch in branches:
        row.add(branch)
    plan = row.plan()
    size = -(-plan.size // BLOCK) * BLOCK + BLOCK
    mask = torch.eye(size, dtype=torch.bool)
    mask[: plan.size, : plan.size] = plan.mask()
    blocks = mask.unflatten(0, (-1, BLOCK)).unflatten(2, (-1, BLOCK))
    touched, full = block_visibility(plan, size)
    assert torch.equal(touched, blocks.any(1).any(-1))
    assert not (full & ~blocks.all(1).all(-1)).any()
    built = block_mask(plan, size, torch.device("cpu"))
    place = torch.arange(size)
    assert torch.equal(built.mask_mod(0, 0, place[:, None].expand(size, size), place.expand(size, size)), mask)


def test_the_self_checks_tree_for_flex_has_blocks_of_every_kind():
    """Else a wrong block mask would pass: blocks that nothing sees, that some tokens see, that all see; and forks,
    samples and windows that cross the borders of blocks."""
    row, *_ = pack(sample_tree(VOCABULARY, FLEX_UNIT), 4096)
    plan = row.plan()
    size = padded(plan.size)
    touched, full = block_visibility(plan, size)
    own = torch.eye(size // BLOCK, dtype=torch.bool)
    below = torch.ones_like(touched).tril()
    for kind in (full, touched & ~full, ~touched & below):
        assert int((kind & ~own)[: plan.size // BLOCK].sum()) >= 5
    assert any(b.start // BLOCK < (b.stop - 1) // BLOCK for b in plan.bundles if len(b.sizes) > 1)
    assert all(high % BLOCK for b in plan.bundles for _, high in b.context)
    # Every block that is seen counts: without it the attention of some query would be another one.
    built = block_mask(plan, size, torch.device("cpu"))
    assert torch.equal(built.to_dense()[0, 0].bool(), touched)
    blocks = plan.mask().nonzero().div(BLOCK, rounding_mode="floor").unique(dim=0)
    assert {tuple(b) for b in blocks.tolist()} == {
        tuple(b) for b in touched.nonzero().tolist() if b[0] * BLOCK < plan.size
    }


def test_rows_of_any_length_and_depth_need_few_compiled_kernels():
    from torch._dynamo.testing import CompileCounter

    lengths = {padded(size) for size in range(1, 2**17, 61)}
    assert len(lengths) <= 14 and all(padded(size) % BLOCK == 0 for size in lengths)
    assert all(size <= padded(size) <= max(size + 1023, 1.5 * size + 2) for size in range(1, 2**17, 61))
    counter = CompileCounter()
    attend = torch.compile(flex_attention, dynamic=False, backend=counter)
    for depth in range(1, 5):
        trunk = tuple(range(40))
        forks = [Branch(trunk[: 8 * i] + (50 + i,) * i, (1, 2, 3), 1.0, 1.0) for i in range(1, depth + 1)]
        [row] = pack(
            [*forks, Branch(trunk, (4, 5), 1.0, 1.0), Branch((*trunk[:9], *range(depth)), (6, 7), 1.0, 1.0)], 999
        )
        q = torch.randn(1, 2, 1024, 16)
        attend(q, q, q, block_mask=block_mask(row.plan(), 1024, torch.device("cpu")))
    assert counter.frame_count == 1


def test_whole_blocks_of_a_long_trunk_are_known_to_flex():
    trunk = tuple(range(5 * BLOCK))
    samples = [Branch(p, (1,) * (BLOCK + 1), 1.0, 1.0) for p in (trunk, trunk[: 2 * BLOCK])]
    [row] = pack(samples, 9999)
    touched, full = block_visibility(row.plan(), 8 * BLOCK)
    assert int(touched.sum()) == 15 + (5 + 1) + (2 + 1) + 1  # trunk, samples, padding
    assert int(full.sum()) == 10 + 5 + 2


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@given(branches=trees())
@settings(max_examples=10)
def test_flex_forward_equals_the_mask(branches):
    """Forward alone: torch has no backward pass of flex on CPUs. CUDA is checked by `prove_tree` when a run starts."""
    row = TreeRow()
    for branch in branches:
        row.add(branch)
    plan = row.plan()
    q, k, v = (torch.randn(1, h, plan.size, 16) for h in (4, 2, 2))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=plan.mask(), enable_gqa=True)
    with torch.no_grad():
        torch.testing.assert_close(flex(q, k, v, plan, 16**-0.5), expected, atol=1e-5, rtol=1e-4)


@given(chunk=st.integers(1, 5), temperature=st.floats(0.3, 2))
@settings(max_examples=20)
def test_the_head_in_chunks_equals_whole_logits(chunk, temperature):
    from agent_srl.train import head

    hidden = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 5, dtype=torch.float64, requires_grad=True)
    targets, gains = torch.randint(11, (7,)), torch.randn(7, dtype=torch.float64)
    found = []
    whole, head._CHUNK_BYTES = head._CHUNK_BYTES, chunk * 4 * 11
    try:
        for logprobs, entropy in (
            logprobs_and_entropy(hidden, weight, targets, temperature),
            of_logits(hidden @ weight.T, targets, temperature),
        ):
            found.append((logprobs, entropy, *torch.autograd.grad((logprobs * gains).sum(), (hidden, weight))))
    finally:
        head._CHUNK_BYTES = whole
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-12, rtol=1e-9)


def test_samples_of_a_prompt_longer_than_the_budget_share_it():
    prompt = tuple(range(3000))
    rows = pack([Branch(prompt, (i,) * 100, 1.0, 1.0) for i in range(8)], 2048)
    assert len(rows) == 1 and rows[0].size() == 3000 + 8 * 99


def test_a_branch_without_prompt_or_token_is_refused():
    for prompt, tokens in (((), (1,)), ((1,), ())):
        with pytest.raises(ValueError, match="a branch needs"):
            TreeRow().add(Branch(prompt, tokens, 1.0, 1.0))


def test_models_that_a_tree_does_not_serve_are_named_and_still_exact():
    import transformers

    register_attention()
    config = transformers.Qwen2Config(
        **SHAPE, num_key_value_heads=2, use_sliding_window=True, sliding_window=4, max_window_layers=0
    )
    assert "sliding_attention" in why_dense(config) or "attention is" in why_dense(config)
    config._attn_implementation = ATTENTION
    assert "sliding_attention" in why_dense(config)
    mixture = transformers.MixtralConfig(**SHAPE, num_key_value_heads=2, attn_implementation=ATTENTION)
    assert "mixtral" in why_dense(mixture)
    model = transformers.Qwen2ForCausalLM(config).double()
    branches = [Branch(tuple(range(20)), (1, 2, 3), 1.0, 1.0), Branch(tuple(range(9)), (4, 5), -1.0, 1.0)]
    assert_same(learn(model, pack(branches, 999, share=False)), plain(model, branches), 1e-9)


def test_the_self_check_passes_and_stops_a_wrong_attention(models, monkeypatch):
    models["Qwen3"].zero_grad()
    before = [p.detach().clone() for p in models["Qwen3"].parameters()]
    prove_tree(models["Qwen3"], 1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, models["Qwen3"].parameters(), strict=True))
    assert all(p.grad is None for p in models["Qwen3"].parameters())
    monkeypatch.setattr(TreePlan, "attend", lambda plan, q, k, v, scale: ATTEND(plan, q, k, v.flip(2), scale))
    with pytest.raises(TrainingError, match=r"train\.attention=dense"):
        prove_tree(models["Qwen3"], 1.0)


def short_context(plan, q, k, v, scale):
    """The stretch that forks off first does not see the token that it forks from."""
    first, fork, *others = plan.bundles
    *before, (low, high) = fork.context
    fork = replace(fork, context=(*before, (low, high - 1)))
    return ATTEND(replace(plan, bundles=(first, fork, *others)), q, k, v, scale)


def samples_together(plan, q, k, v, scale):
    """Samples of one fork see each other."""
    joined = [replace(b, sizes=(sum(b.sizes),)) for b in plan.bundles]
    return ATTEND(replace(plan, bundles=tuple(joined)), q, k, v, scale)


def shifted(row):
    """The samples' positions are one too many."""
    positions = POSITIONS(row)
    positions[:, 30:] += 1
    return positions


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3"])
@pytest.mark.parametrize("spread", [0.02, 0.3])
def test_the_self_check_in_bfloat16_tells_rounding_from_small_mistakes(family, spread, monkeypatch):
    """`spread` is that of the weights: small ones hide a mistake in the log-probabilities, large ones round more."""
    model = build(family, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=spread)
    model = model.to(torch.bfloat16)
    for kernel in ("sliced", "masked"):
        prove_tree(model, 1.0, kernel)
    for place, name, wrong in (
        (TreePlan, "attend", short_context),
        (TreePlan, "attend", samples_together),
        (TreeRow, "position_ids", shifted),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(place, name, wrong)
            with pytest.raises(TrainingError, match="self-check failed"):
                prove_tree(model, 1.0)


def test_families_are_those_that_are_tested():
    assert set(support.FAMILIES) == {"llama", "qwen2", "qwen3"}
