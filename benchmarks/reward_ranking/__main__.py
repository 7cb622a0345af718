"""Run the benchmark: tables, then one JSON object as the last line of standard output."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent_srl.errors import AgentSRLError, DataError
from benchmarks.reward_ranking import corpus as corpus_module
from benchmarks.reward_ranking import groups, ranking, report, speed, triples, trivial
from benchmarks.reward_ranking.corpus import Corpus
from benchmarks.reward_ranking.scorers import SCORERS
from env_server.schema import Action

PAID = ("structured", "ratio", "tokens", "exact", "tool_name")
"""The rewards whose trivial policies are searched."""


def main() -> None:
    options = _options()
    try:
        result = run(options)
    except AgentSRLError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    line = json.dumps(result)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(line)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Every part, printed as it is done."""
    seed: int = options.seed
    corpus = corpus_module.load(options.data)
    _say("Data", f"seed {seed}; {len(corpus.items):,} accepted steps of {len(corpus.runs)} runs")
    print("\n".join(f"  {digest}  {name}" for name, digest in corpus.sha256.items()))
    print("\n".join(f"  not read: {name}: {reason.partition(' ')[2][:80]}" for name, reason in corpus.unread.items()))
    result: dict[str, Any] = {"seed": seed, "sha256": corpus.sha256}
    result |= _speed(corpus, seed)  # first: nothing is cached yet
    result |= _ranking(corpus, seed)
    paid, constant = _trivial(corpus, seed)
    result |= paid
    result |= _groups(corpus, options, constant)
    return result


def _ranking(corpus: Corpus, seed: int) -> dict[str, Any]:
    made = triples.generate(corpus, seed)
    judged = ranking.judge(made)
    _say("Ranking", f"{len(made)} triples; a tie counts as wrong")
    print(report.ranking_table(judged))
    print(report.losses(judged))
    hand = ranking.judge(triples.by_hand())
    print(
        f"and by hand, n = {len(hand['ratio'])}: "
        + ", ".join(f"{n} {ranking.accuracy(j).mean:.2f}" for n, j in hand.items())
    )
    ours = ranking.by_category(judged["structured"])
    return {
        "triples": len(made),
        **{f"ranking_{name}": ranking.accuracy(results).mean for name, results in judged.items()},
        **{f"ties_{name}": ranking.ties(results) for name, results in judged.items()},
        "min_category_structured": min(share.mean for share in ours.values()),
        "categories": {n: {c: s.mean for c, s in ranking.by_category(j).items()} for n, j in judged.items()},
        "by_hand": {n: ranking.accuracy(j).mean for n, j in hand.items()},
    }


def _trivial(corpus: Corpus, seed: int) -> tuple[dict[str, Any], dict[str, Action]]:
    train, held = corpus_module.split(corpus, seed)
    steps = trivial.heldout_steps(held, seed)
    _say(
        "Trivial policies",
        f"{len(steps)} held-out steps of {len({s.run for s in steps})} runs; {len(train):,} training steps",
    )
    paid = {name: trivial.payoffs(SCORERS[name], train, steps, seed) for name in PAID}
    print(report.trivial_table(paid))
    short = paid["ratio"].short["n"]
    print(f"on the {short} of them where the expert's is one line of at most {trivial.SHORT} characters:")
    print(report.short_table(paid))
    print("best constants:\n" + report.constants(paid))
    print("the expert's own action, changed harmlessly:\n" + report.harmless_table(paid))
    means = {
        f"{policy}_{name}": getattr(p, policy).mean
        for name, p in paid.items()
        for policy in ("constant", "repeat_last", "random_expert", "harmless_change")
    }
    detail = {name: {k: v for k, v in asdict(p).items() if k not in ("searched",)} for name, p in paid.items()}
    return {"heldout_steps": len(steps), **means, "trivial": detail}, {n: p.searched.action for n, p in paid.items()}


def _groups(corpus: Corpus, options: argparse.Namespace, constant: dict[str, Action]) -> dict[str, Any]:
    """Null, with a line on how to get one, where there is no file of samples."""
    summaries: dict[str, dict[str, Any]] = {}
    counts = None
    if options.samples:
        learnt = corpus_module.read(options.trajectories)
        for reason in learnt.unread.values():
            raise DataError(reason)
        found, left_out = groups.read_groups(options.samples, [*corpus.items, *learnt.items])
        summaries = {name: groups.summary(found, constant[name], SCORERS[name]) for name in PAID}
        counts = {"n": len(found), "left_out": left_out}
        _say("Real groups", f"{len(found)} groups, {left_out} left out (an edit without its arguments)")
        print(report.groups_table(summaries))
    else:
        _say("Real groups", "none: name a run's srl/samples.jsonl with --samples (make: SAMPLES=...) to get them")
    return {
        "groups": counts,
        **{
            f"percentile_{policy}_{name}": summaries.get(name, {}).get(policy)
            for name in PAID
            for policy in ("constant", "repeat_last")
        },
        "kept_groups": {n: {"all": s["kept"], "valid": s["kept_valid"]} for n, s in summaries.items()} or None,
    }


def _speed(corpus: Corpus, seed: int) -> dict[str, Any]:
    source = speed.PairSource(corpus, seed)
    pairs = source.pairs()
    _say(
        "Speed", f"{len(pairs):,} pairs of real actions, {speed.TAIL_PAIRS} of them of {speed.TAIL_CHARS:,} characters"
    )
    batch = speed.batch_seconds(source)
    found = speed.against_difflib(pairs)
    print(
        f"equal to difflib before any cap: {found['ratio_equals_difflib']:.6f}; "
        f"the caps change a share of {found['changed_by_caps']:.4f}\n"
        f"{found['difflib_s']:.1f} s against {found['ours_s']:.2f} s: {found['speedup_vs_difflib']:.1f} times faster"
    )
    latencies = speed.latencies(pairs)
    print(report.latency_table(latencies))
    print(f"a batch of {speed.BATCH} by structured: " + ", ".join(f"{k} {v:.2f}" for k, v in batch.items()))
    return {**found, "p99_ms": latencies["structured"]["p99_ms"], "latency": latencies, **batch}


def _say(title: str, text: str) -> None:
    print(f"\n== {title}: {text}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reward_ranking", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder that holds trajectories/")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=Path, nargs="*", default=[], help="srl/samples.jsonl of run folders")
    parser.add_argument(
        "--trajectories",
        type=Path,
        nargs="*",
        default=[],
        help="what those runs learnt from, where it is not in --data",
    )
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
