"""Draws docs/assets/results.svg, the README's picture, from the numbers of docs/results.md.

    python docs/tools/results_picture.py [OUT]

OUT may also end in .png. Text is in outlines, so it looks the same everywhere; the card is white, for dark pages.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

OUT = Path(__file__).resolve().parents[1] / "assets" / "results.svg"
BLUE, LIGHT, ORANGE, INK, GREY = "#3f51b5", "#8c9eff", "#c76a00", "#1c1c28", "#6b6b76"

# Real speech: EER in %, and its 95 % interval, of each seed.
SEEDS = ("1986", "1987", "1988")
EER = {
    "ArcFace": ((4.47, 1.71, 8.08), (3.56, 1.13, 5.79), (3.78, 1.13, 6.89)),
    "Q-Margin": ((4.00, 1.53, 6.60), (3.08, 1.19, 5.55), (3.33, 1.14, 5.56)),
}
# The head: shares of PartialFC_V2's time and memory (MiB of 810 and 811).
HEAD = {"as trained: 50 active classes": (0.22, 13 / 810), "fresh: 450 active classes": (0.61, 28 / 811)}


def draw_eer(axes: Axes) -> None:
    for (name, rows), colour, shift in zip(EER.items(), (ORANGE, BLUE), (-0.22, 0.22)):
        places = [n + shift for n in range(len(SEEDS))]
        value, low, high = zip(*rows)
        errors = [[v - lo for v, lo in zip(value, low)], [hi - v for v, hi in zip(value, high)]]
        axes.errorbar(places, value, errors, fmt="o", ms=9, lw=2.5, capsize=6, capthick=2.5, color=colour)
        for place, v, top in zip(places, value, high):
            axes.text(place, top + 0.2, f"{v:.1f}", ha="center", color=colour, fontweight="bold")
        axes.text(-0.5 if shift < 0 else 1.0, 9.9, name, color=colour, fontweight="bold", va="center")
    axes.set_xticks(range(len(SEEDS)), SEEDS)
    axes.set(xlim=(-0.6, 2.6), ylim=(0, 10.5), xlabel="seed, with 95 % intervals")
    axes.set_title("Equal error rate, %", loc="left", pad=10)


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
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.8), layout="constrained", facecolor="white")
    draw_eer(left)
    draw_head(right)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=100, metadata={"Date": None} if out.suffix == ".svg" else None)
    print(f"wrote {out}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)
