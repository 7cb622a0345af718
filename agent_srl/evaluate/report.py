"""The end of a run: the table on the screen, `report.md` and `results.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.table import Table

from agent_srl.evaluate.comparison import Comparison
from agent_srl.evaluate.stats import bootstrap, wilson
from agent_srl.evaluate.steps import Row
from agent_srl.progress import Console
from agent_srl.run_folder import write_text
from env_server.schema import Verdict

_HEADER = ("policy", "T=1 [95 %]", "greedy [95 %]", "valid", "similarity", "first words")


def report(comparison: Comparison, verdicts: list[Verdict], out: Path, console: Console) -> None:
    """Print and write what the run found."""
    rows = comparison.rows()
    if rows:
        _print_table(rows, len(comparison.heldout), console)
    summary = resolve_summary(verdicts)
    if summary:
        console.say(summary["text"])
    results = {
        "heldout_steps": len(comparison.heldout),
        "rows": [r.record() for r in rows],
        "episodes": summary,
    }
    write_text(out / "results.json", json.dumps(results, indent=2) + "\n")
    write_text(out / "report.md", _markdown(rows, summary, comparison, out))
    console.say(f"model:   {out / 'model'}")
    console.say(f"table:   {out / 'report.md'} and {out / 'results.json'}")
    console.say(f"samples: {out / 'srl' / 'samples.jsonl'} and {out / 'srl' / 'metrics.jsonl'}")


def resolve_summary(verdicts: list[Verdict], what: str = "resolved") -> dict[str, Any] | None:
    """Resolve rate (for math: `what` is `solved`) over the verdicts that are not masked, with its
    bootstrap and Wilson intervals."""
    if not verdicts:
        return None
    scored = [v for v in verdicts if v.reward is not None]
    masked = len(verdicts) - len(scored)
    if not scored:
        return {
            "tasks": 0,
            "masked": masked,
            "text": f"no verdict: all {masked} tasks failed for want of infrastructure",
        }
    values = [1.0 if v.resolved else 0.0 for v in scored]
    rate = bootstrap(values, [v.instance_id for v in scored])
    share = wilson(int(sum(values)), len(values))
    boot = f"95 % [{rate.low:.1%}, {rate.high:.1%}] by bootstrap"
    text = (
        f"{what} {int(sum(values))} of {len(values)}: {rate.mean:.1%}, {boot}, "
        f"[{share.low:.1%}, {share.high:.1%}] by Wilson; {masked} masked by infrastructure failures"
    )
    return {
        "tasks": len(values),
        "masked": masked,
        "resolved": vars(rate),
        "wilson": vars(share),
        "text": text,
    }


def _cells(row: Row) -> tuple[str, ...]:
    words = ", ".join(f"{word} {share:.0%}" for word, share in (row.first_words or {}).items())
    return (
        row.policy,
        str(row.sampled),
        str(row.greedy) if row.greedy else "",
        f"{row.format_valid:.1%}" if row.format_valid is not None else "",
        f"{row.similarity:.3f}" if row.similarity is not None else "",
        words,
    )


def _print_table(rows: list[Row], steps: int, console: Console) -> None:
    table = Table(title=f"reward on {steps} held-out steps (bootstrap over trajectories)")
    for title in _HEADER[:-1]:
        table.add_column(title, no_wrap=title != "policy", min_width=16 if title == "policy" else None)
    for row in rows:
        table.add_row(*_cells(row)[:-1])
    console.rich.print(table)


def _markdown(rows: list[Row], summary: dict[str, Any] | None, comparison: Comparison, out: Path) -> str:
    lines = [f"# {out.name}", ""]
    if rows:
        lines += [
            f"Reward on {len(comparison.heldout)} held-out steps; intervals by bootstrap over trajectories. valid: "
            "share of sampled replies in the right format; similarity: mean reward of those.",
            "",
        ]
        lines += ["| " + " | ".join(_HEADER) + " |", "|" + "---|" * len(_HEADER)]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(row)) + " |" for row in rows]
        lines += ["", "Baselines cost nothing: a reward below theirs is worth nothing.", ""]
    if summary:
        lines += [summary["text"], ""]
    return "\n".join([*lines, "What was run: config.yaml and environment.json beside this file.", ""])
