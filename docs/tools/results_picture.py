"""Draws docs/assets/results.svg, the README's picture, from the numbers of docs/results.md.

    python docs/tools/results_picture.py [OUT]

OUT may also end in .png. Text is in outlines, so it looks the same everywhere; the card is white, for dark pages.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

OUT = Path(__file__).resolve().parents[1] / "assets" / "results.svg"
BLUE, LIGHT, ORANGE, INK, GREY = "#3f51b5", "#8c9eff", "#c76a00", "#1c1c28", "#6b6b76"

# Differences of the TAR in points, and their 95 % intervals.
DIFFERENCES = {
    "IDA-R minus cosine: speakers, FAR 1e-3": {
        "ArcFace": (5.62, 3.44, 7.80),
        "Q-Margin": (4.35, 2.49, 6.21),
        "KappaFace": (6.03, 3.36, 8.71),
    },
    "minus ArcFace: speakers, FAR 1e-2": {
        "CosFace": (-1.00, -1.81, -0.19),
        "Q-Margin": (-1.85, -2.78, -0.92),
        "KappaFace": (-0.40, -1.17, 0.37),
    },
    "minus ArcFace: simulated, FAR 1e-5": {
        "Q-Margin, 10,000 classes": (-2.65, -3.14, -2.16),
        "Q-Margin, 100,000 classes": (-0.96, -1.35, -0.57),
        "KappaFace, 10,000 classes": (0.80, 0.38, 1.22),
        "KappaFace, 100,000 classes": (0.23, -0.09, 0.55),
    },
}
# The head: shares of PartialFC_V2's time and memory (MiB of 810 and 811).
HEAD = {"as trained: 50 active classes": (0.22, 13 / 810), "fresh: 450 active classes": (0.61, 28 / 811)}


OVER_LINE: dict[str, Any] = {"bbox": {"facecolor": "white", "edgecolor": "none", "pad": 2}, "zorder": 3}


def draw_differences(axes: Axes) -> None:
    row = 0.0
    for title, losses in DIFFERENCES.items():
        axes.text(
            0.0,
            row,
            title,
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize=14,
            fontweight="bold",
            **OVER_LINE,
        )
        for name, (value, low, high) in losses.items():
            row -= 1.0
            colour = BLUE if "Q-Margin" in name else GREY
            axes.errorbar(
                value, row, xerr=[[value - low], [high - value]], fmt="o", ms=8, lw=2.5, capsize=5, color=colour
            )
            axes.text(0.0, row, name, transform=axes.get_yaxis_transform(), va="center", fontsize=14, color=colour)
        row -= 1.4
    axes.axvline(0, color=ORANGE, lw=2.5, ls="--")
    low, high = axes.get_xlim()
    axes.set(xlim=(low - 0.9 * (high - low), high), ylim=(row + 0.7, 0.8), xlabel="points, with 95 % intervals")
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_title("True accept rate: differences", loc="left", pad=10)


def draw_head(axes: Axes) -> None:
    for row, (title, shares) in enumerate(HEAD.items()):
        top = 3.4 - 3.4 * row
        axes.text(0, top + 1.65, title, va="center")
        for n, (kind, share) in enumerate(zip(("time", "memory"), shares)):
            axes.barh(top + 0.75 - n, 100 * share, height=0.85, color=(BLUE, LIGHT)[n])
            axes.text(100 * share + 2, top + 0.75 - n, f"{100 * share:.0f} % {kind}", va="center", fontweight="bold")
    axes.axvline(100, color=ORANGE, lw=2.5, ls="--")
    axes.set(xlim=(0, 103), ylim=(-0.95, 5.6), xlabel="% of a dense ArcFace head")
    axes.set_yticks([])
    axes.set_title("Cost of the head, CPU", loc="left", pad=10)


def main(out: Path) -> None:
    for name in ("axes.labelcolor", "text.color", "xtick.color", "ytick.color"):
        plt.rcParams[name] = INK
    plt.rcParams.update({"font.size": 16, "axes.titlesize": 19, "axes.titleweight": "bold", "axes.edgecolor": GREY})
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "verimargin"})
    plt.rcParams.update({"figure.constrained_layout.w_pad": 0.15, "figure.constrained_layout.h_pad": 0.15})
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11.5, 6.2), layout="constrained", facecolor="white", width_ratios=(1.3, 1)
    )
    draw_differences(left)
    draw_head(right)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=100, metadata={"Date": None} if out.suffix == ".svg" else None)
    print(f"wrote {out}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)
