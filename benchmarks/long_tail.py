"""An imbalanced training set from a balanced image folder: 10 images of the first class, falling to 2 of the last.

    python benchmarks/long_tail.py FOLDER OUT [--most 10] [--least 2] [--seed 0]

Class k of C keeps round(most (least / most)^(k / (C - 1))) images, the exponential profile of Cui et al., CVPR 2019.
The seed draws the order of the classes and the images that stay. OUT gets links to them.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path


def long_tail(folder: Path, out: Path, most: int, least: int, seed: int) -> list[int]:
    """Link the images that stay; the number of them in each class, largest first."""
    rng = random.Random(seed)
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    rng.shuffle(classes)
    sizes = [round(most * (least / most) ** (k / (len(classes) - 1))) for k in range(len(classes))]
    for path, size in zip(classes, sizes):
        (out / path.name).mkdir(parents=True)
        for image in rng.sample(sorted(path.iterdir()), size):
            (out / path.name / image.name).symlink_to(image.resolve())
    return sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    for name, default in (("most", 10), ("least", 2), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    sizes = long_tail(args.folder, args.out, args.most, args.least, args.seed)
    print(f"{sum(sizes)} images of {len(sizes)} classes in {args.out}: {sizes}")


if __name__ == "__main__":
    main()
