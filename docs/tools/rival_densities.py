"""What IDA does to mere photographs with several kinds of anchors, for the table in the guide to IDA.

    python docs/tools/rival_densities.py FACES

FACES has one folder of pictures for each person, such as the ORL faces as PNG. The first half of the people gives the
anchors, the other half the trials: all pairs. All photographs share much, as collapsed embeddings do.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import verimargin as vm
from PIL import Image
from verimargin.scoring.density_spread import density_spread

SHAPE = 23, 28


def read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The pixels of the scaled-down pictures (N, d), and the person of each."""
    people = [sorted(path for path in one.iterdir() if path.is_file()) for one in sorted(folder.iterdir())]
    pictures = [
        np.asarray(Image.open(path).convert("L").resize(SHAPE), float).ravel() for one in people for path in one
    ]
    return np.array(pictures), np.repeat(np.arange(len(people)), [len(one) for one in people])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", type=Path)
    pixels, who = read(parser.parse_args().faces)
    half = (who.max() + 1) // 2
    others, f = pixels[who < half], torch.from_numpy(pixels[who >= half])
    means = np.array([pixels[who == person].mean(0) for person in range(half)])
    i, j = (torch.from_numpy(side) for side in np.triu_indices(len(f), 1))
    same = who[who >= half][i] == who[who >= half][j]
    cosine = torch.cosine_similarity(f[i], f[j]).numpy()
    tar, _ = vm.metrics.tar_at_far(cosine[same], cosine[~same], far=1e-2)
    print(f"cosine: TAR at FAR 1e-2 {100 * tar:.1f} %")
    for title, anchors, tau in (
        ("photographs", others, 1.0),
        ("means of people", means, 1.0),
        ("means minus the mean of all", means - others.mean(0), 1.0),
        ("means minus the mean of all", means - others.mean(0), 10.0),
    ):
        scorer = vm.IDAScorer(torch.from_numpy(anchors), min(10, half), tau)
        scores = scorer.score_pairs(f, i, j, log=True).numpy()
        spread = density_spread(cosine, scores, tau)
        tar, _ = vm.metrics.tar_at_far(scores[same], scores[~same], far=1e-2)
        ratio = spread.densities / spread.cosines
        print(f"{title}, tau {tau:g}: ratio {ratio:.2f}, TAR at FAR 1e-2 {100 * tar:.1f} %")


if __name__ == "__main__":
    main()
