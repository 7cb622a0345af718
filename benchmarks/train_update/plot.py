"""Small line charts as SVG text, so that a plot needs no library: one panel per series, one line per ratio."""

from __future__ import annotations

from typing import Any

WIDTH, HEIGHT, LEFT, TOP, GAP = 220, 180, 50, 40, 60
COLOURS = {"CPU, TRL / ours": "#c0392b", "CPU, rows / ours": "#2980b9", "memory, ours / TRL": "#27ae60"}


def growth_svg(points: list[dict[str, Any]]) -> str:
    """Ratios against trunk length, steps and samples."""
    names = list(dict.fromkeys(point["series"] for point in points))
    top = max(max(_ratios(point).values()) for point in points)
    panels = [_panel(name, [p for p in points if p["series"] == name], i, top) for i, name in enumerate(names)]
    width = LEFT + len(names) * (WIDTH + GAP)
    height = TOP + HEIGHT + 50
    legend = "".join(
        f'<text x="{LEFT + i * 190}" y="18" fill="{colour}">{label}</text>'
        for i, (label, colour) in enumerate(COLOURS.items())
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12">'
        f'<rect width="{width}" height="{height}" fill="white"/>{legend}{"".join(panels)}</svg>\n'
    )


def _ratios(point: dict[str, Any]) -> dict[str, float]:
    """Memory with activations computed again on both sides; TRL's time without, where it is faster."""
    ours, dense, trl, thrifty = (point[arm] for arm in ("thrifty", "dense", "trl", "trl_thrifty"))
    values = (trl["cpu_s"] / ours["cpu_s"], dense["cpu_s"] / ours["cpu_s"], ours["peak_mib"] / thrifty["peak_mib"])
    return dict(zip(COLOURS, values, strict=True))


def _panel(name: str, points: list[dict[str, Any]], place: int, top: float) -> str:
    left, bottom = LEFT + place * (WIDTH + GAP), TOP + HEIGHT
    most = max(point["value"] for point in points)

    def at(point: dict[str, Any], ratio: float) -> tuple[float, float]:
        return left + WIDTH * point["value"] / most, bottom - HEIGHT * ratio / top

    parts = [f'<path d="M{left} {TOP}V{bottom}H{left + WIDTH}" fill="none" stroke="#333"/>']
    parts += [f'<text x="{left + WIDTH / 2}" y="{bottom + 36}" text-anchor="middle">{name}</text>']
    for share in (0.0, 0.5, 1.0):
        y = bottom - share * HEIGHT
        parts.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{share * top:.1f}</text>')
    for point in points:
        x, _ = at(point, 0)
        parts.append(f'<text x="{x:.0f}" y="{bottom + 18}" text-anchor="middle">{point["value"]}</text>')
    for label, colour in COLOURS.items():
        spots = [at(point, _ratios(point)[label]) for point in points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in spots]
    return "".join(parts)
