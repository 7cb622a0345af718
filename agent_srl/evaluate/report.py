"""What was found: the table on the screen, `report.md` and `results.json`."""

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

_HEADER = (
    "policy",
    "T=1 [95 %]",
    "greedy [95 %]",
    "valid",
    "similarity",
    "exact",
    "tool",
    "file",
    "perplexity",
    "first words",
)
_LEGEND = (
    "valid: share of sampled replies in the right format; similarity: mean reward of those; exact, tool, file: share "
    "that is the expert's call, names its tool, names its files (of the steps where it names some); perplexity: of the "
    "expert's action given its thought, per token."
)


def report(comparison: Comparison, verdicts: list[Verdict], out: Path, console: Console) -> None:
    """Print and write what was found."""
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
    console.say(f"table:   {out / 'report.md'} and {out / 'results.json'}")


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
        _number(row.format_valid, ".1%"),
        _number(row.similarity, ".3f"),
        _number(row.exact_match, ".1%"),
        _number(row.tool_accuracy, ".1%"),
        _number(row.file_accuracy, ".1%"),
        _number(row.perplexity, ".2f"),
        words,
    )


def _number(value: float | None, spec: str) -> str:
    return format(value, spec) if value is not None else ""


def _print_table(rows: list[Row], steps: int, console: Console) -> None:
    table = Table(title=f"reward on {steps} held-out steps (bootstrap over trajectories)")
    for title in _HEADER[:-1]:
        table.add_column(title, no_wrap=title != "policy", min_width=16 if title == "policy" else None)
    for row in rows:
        table.add_row(*_cells(row)[:-1])
    console.result(table)


def _markdown(rows: list[Row], summary: dict[str, Any] | None, comparison: Comparison, out: Path) -> str:
    lines = [f"# {out.name}", ""]
    if rows:
        lines += [
            f"Reward on {len(comparison.heldout)} held-out steps; intervals by bootstrap over trajectories. {_LEGEND}",
            "",
        ]
        lines += ["| " + " | ".join(_HEADER) + " |", "|" + "---|" * len(_HEADER)]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(row)) + " |" for row in rows]
        lines += ["", "Baselines cost nothing: a reward below theirs is worth nothing.", ""]
    if summary:
        lines += [summary["text"], ""]
    return "\n".join([*lines, "What was run: config.yaml and environment.json beside this file.", ""])
