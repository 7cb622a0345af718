"""Tables for people. Every number has its n and interval where it has one."""

from __future__ import annotations

from typing import Any

from agent_srl.evaluate.stats import Estimate
from benchmarks.reward_ranking.ranking import Judged, accuracy, by_category, lost, ties
from benchmarks.reward_ranking.trivial import Payoffs


def table(head: list[str], rows: list[list[str]]) -> str:
    """Columns padded to their widest cell; the first to the left, others to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in [head, ["-" * w for w in widths], *rows]
    ]
    return "\n".join(lines)


def show(estimate: Estimate) -> str:
    return f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def ranking_table(judged: dict[str, list[Judged]], ours: str = "structured") -> str:
    """Category by reward: share of pairs in the right order; for ours with its Wilson interval."""
    names = list(judged)
    shares = {name: by_category(results) for name, results in judged.items()}
    sizes = {c: sum(j.triple.category == c for j in judged[ours]) for c in shares[ours]}
    rows = [
        [category, str(n), *(f"{shares[name][category].mean:.2f}" for name in names), show(shares[ours][category])]
        for category, n in sizes.items()
    ]
    total = [
        "all",
        str(sum(sizes.values())),
        *(f"{accuracy(judged[n]).mean:.3f}" for n in names),
        show(accuracy(judged[ours])),
    ]
    tied = ["of them ties", "", *(f"{ties(judged[n]):.3f}" for n in names), ""]
    return table(["category", "n", *names, f"{ours}, 95 %"], [*rows, total, tied])


def losses(judged: dict[str, list[Judged]], ours: str = "structured") -> str:
    """Where ours is beaten, and its wrong pairs, one line each."""
    beaten = [f"  {c}: {name} {theirs:.2f}, {ours} {own:.2f}" for c, name, theirs, own in lost(judged, ours)]
    wrong = [
        f"  {j.triple.category} ({j.triple.rule}): better {j.better:.3f}, worse {j.worse:.3f}\n"
        f"    expert {_line(j.triple.expert)}\n    better {_line(j.triple.better)}\n    worse  {_line(j.triple.worse)}"
        for j in judged[ours]
        if not j.right
    ]
    return "\n".join(
        [
            f"{ours} is beaten in {len(beaten)} of the table's cells{':' if beaten else ''}",
            *beaten,
            f"{ours} has {len(wrong)} pairs wrong{'; the first 10:' if wrong else ''}",
            *wrong[:10],
        ]
    )


def trivial_table(payoffs: dict[str, Payoffs]) -> str:
    """Reward by policy, with the bootstrap over runs."""
    rows = [
        [
            name,
            show(p.constant),
            f"{p.constant_oracle:.3f}",
            show(p.repeat_last),
            show(p.random_expert),
            show(p.harmless_change),
        ]
        for name, p in payoffs.items()
    ]
    head = ["reward", "best constant", "(chosen on held-out)", "repeat last", "random expert action", "harmless change"]
    return table(head, rows)


def short_table(payoffs: dict[str, Payoffs]) -> str:
    """The same constant and repeating, on the short one-line commands alone."""
    rows = [[name, *(f"{p.short[k]:.3f}" for k in ("constant", "repeat_last"))] for name, p in payoffs.items()]
    return table(["reward", "best constant", "repeat last"], rows)


def constants(payoffs: dict[str, Payoffs]) -> str:
    """The constant of each reward, and how sure its search is."""
    return "\n".join(
        f"  {name}: {_line(p.searched.action)}\n    of {p.searched.searched:,} distinct actions; "
        f"{p.searched.margin_se:.1f} standard errors above the first cut"
        for name, p in payoffs.items()
    )


def harmless_table(payoffs: dict[str, Payoffs]) -> str:
    """Mean reward of each harmless change by itself."""
    names = list(payoffs)
    changes = payoffs[names[0]].harmless_by_change
    return table(
        ["change", *names], [[c, *(f"{payoffs[n].harmless_by_change[c]:.3f}" for n in names)] for c in changes]
    )


def latency_table(latencies: dict[str, dict[str, float]]) -> str:
    rows = [[name, *(f"{row[key]:.3f}" for key in ("p50_ms", "p99_ms", "max_ms"))] for name, row in latencies.items()]
    return table(["reward", "p50 ms", "p99 ms", "max ms"], rows)


def groups_table(summaries: dict[str, dict[str, Any]]) -> str:
    """Percentiles among a group's well-formed samples, and kept groups by eps (well-formed samples alone in
    brackets)."""
    eps = list(next(iter(summaries.values()))["kept"])
    rows = [
        [
            name,
            *("-" if row[key] is None else f"{row[key]:.0f}" for key in ("constant", "repeat_last")),
            *(f"{row['kept'][e]:.2f} ({row['kept_valid'][e]:.2f})" for e in eps),
        ]
        for name, row in summaries.items()
    ]
    return table(["reward", "constant, percentile", "repeat last, percentile", *(f"kept at {e}" for e in eps)], rows)


def _line(action: Any) -> str:
    text = " ".join([action.name, *(f"{k}={v!r}" for k, v in action.arguments.items())])
    return text if len(text) <= 170 else f"{text[:100]} ... {text[-60:]}"
