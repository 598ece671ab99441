"""Draw `model-to-mixture.svg`: a trained network, draws from its posterior, and their mixture.

    python docs/assets/make_picture.py

Every panel has its own background, so that the picture can be read on a light and a dark page.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path

WIDTH, HEIGHT = 880, 300
INK, MUTED, LINE, ARROW = "#1f2937", "#5b6675", "#cbd5e1", "#8592a6"
PANEL, BLUE, ORANGE, GREEN = "#f8fafc", "#2563eb", "#d97706", "#059669"
DRAWS = [(0.10, -0.35), (-0.75, 0.30), (0.85, -0.70), (-0.30, 0.75), (0.55, 0.40)]
"""Where the draws lie around the trained weights, in standard deviations."""
SUBSCRIPTS = "₀₁₂₃₄₅"
WORDS = ("king", "lord", "world")
PER_DRAW = [(0.70, 0.20, 0.10), (0.30, 0.55, 0.15), (0.50, 0.10, 0.40)]
"""What three draws say of the next word."""


def text(x: float, y: float, words: str, size: int = 14, color: str = INK, **more: str) -> str:
    attributes = {"text-anchor": "middle", **{k.replace("_", "-"): v for k, v in more.items()}}
    rest = "".join(f' {name}="{value}"' for name, value in attributes.items())
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{color}"{rest}>{words}</text>'


def panel(x: float, width: float, title: str, below: str) -> str:
    return (
        f'<rect x="{x}" y="10" width="{width}" height="280" rx="12" fill="{PANEL}"'
        f' stroke="{LINE}"/>'
        + text(x + width / 2, 40, title, 17, font_weight="600")
        + text(x + width / 2, 274, below, 13, MUTED)
    )


def arrow(x: float, label: str) -> str:
    return (
        f'<path d="M{x} 150h50m-9-7l9 7l-9 7" fill="none" stroke="{ARROW}" stroke-width="2"/>'
        + text(x + 25, 136, label, 14, ARROW, font_weight="600")
    )


def network() -> str:
    """Three layers of a network with fixed weights."""
    layers = [[(65 + 65 * i, 150 + 40 * (j - (n - 1) / 2)) for j in range(n)] for i, n in
              enumerate((3, 4, 3))]  # fmt: skip
    lines = [
        f'<line x1="{a[0]}" y1="{a[1]}" x2="{b[0]}" y2="{b[1]}" stroke="{LINE}"/>'
        for left, right in itertools.pairwise(layers)
        for a in left
        for b in right
    ]
    dots = [
        f'<circle cx="{x}" cy="{y}" r="9" fill="{BLUE}"/>' for layer in layers for x, y in layer
    ]
    return "".join(lines + dots)


def posterior() -> str:
    """Level lines of a density over the weights, the trained weights, and draws."""
    cx, cy = 438, 150
    rings = [
        f'<ellipse cx="{cx}" cy="{cy}" rx="{85 * r:.0f}" ry="{55 * r:.0f}" fill="{ORANGE}"'
        f' fill-opacity="0.12" transform="rotate(-25 {cx} {cy})"/>'
        for r in (1.15, 0.8, 0.45)
    ]
    turn = math.radians(-25)
    dots = []
    for number, (a, b) in enumerate(DRAWS, 1):
        x = cx + 75 * a * math.cos(turn) - 45 * b * math.sin(turn)
        y = cy + 75 * a * math.sin(turn) + 45 * b * math.cos(turn)
        dots.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{ORANGE}"/>')
        dots.append(text(x + 16, y + 5, "θ" + SUBSCRIPTS[number], 13, INK))
    cross = f'<path d="M{cx - 6} {cy - 6}l12 12m0-12l-12 12" stroke="{BLUE}" stroke-width="3"/>'
    return "".join(rings) + cross + "".join(dots)


def bars(x: float, y: float, probabilities: tuple[float, ...], color: str, scale: float) -> str:
    return "".join(
        f'<rect x="{x + 20 * i:.1f}" y="{y - scale * p:.1f}" width="15" height="{scale * p:.1f}"'
        f' fill="{color}"/>'
        for i, p in enumerate(probabilities)
    )


def mixture() -> str:
    """The next word by three draws, and the average of their probabilities."""
    small = []
    for number, row in enumerate(PER_DRAW):
        x = 648 + 77 * number
        small.append(bars(x, 115, row, ORANGE, 60))
        small.append(text(x + 27, 133, f"p(y|x, θ{SUBSCRIPTS[number + 1]})", 12, MUTED))
    mean = tuple(sum(p) / len(PER_DRAW) for p in zip(*PER_DRAW, strict=True))
    big = "".join(
        f'<rect x="{663 + 65 * i}" y="{235 - 130 * p:.1f}" width="40" height="{130 * p:.1f}"'
        f' fill="{GREEN}"/>' + text(683 + 65 * i, 251, word, 13)
        for i, (word, p) in enumerate(zip(WORDS, mean, strict=True))
    )
    return "".join(small) + big


def picture() -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        ' font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">'
        "<title>From a trained network to draws from its posterior to their mixture</title>"
        + panel(10, 240, "a trained network", "one vector of weights, θ*")
        + network()
        + arrow(259, "sample")
        + panel(318, 240, "its posterior", "draws θ₁ ... θₛ of the weights")
        + posterior()
        + arrow(567, "predict")
        + panel(626, 244, "the mixture", "the average of their probabilities")
        + mixture()
        + "</svg>\n"
    )


if __name__ == "__main__":
    (Path(__file__).parent / "model-to-mixture.svg").write_text(picture(), encoding="utf-8")
