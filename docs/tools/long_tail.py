"""Makes a long-tailed copy of a training set: the number of samples per class falls exponentially from --most to
--fewest, over the classes in a random order with a fixed seed.

    python docs/tools/long_tail.py FOLDER OUT --most 9 --fewest 2 [--trials FOLDER/veri_test.txt]

FOLDER holds one folder per class. It is an image folder or, with --trials, a corpus laid out like VoxCeleb
(FOLDER/wav/<speaker>), of which the speakers in the trials keep all their samples. Files are hard links or copies, and
are not changed. The counts are printed.
"""

import argparse
import collections
import os
import random
import shutil
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", type=Path)
parser.add_argument("out", type=Path)
parser.add_argument("--most", type=int, required=True)
parser.add_argument("--fewest", type=int, required=True)
parser.add_argument("--trials", type=Path)
parser.add_argument("--seed", type=int, default=0)


def main(options: argparse.Namespace) -> None:
    wav = options.trials is not None
    source, target = (folder / "wav" if wav else folder for folder in (options.folder, options.out))
    tested = {part.split("/")[0] for part in options.trials.read_text().split() if "/" in part} if wav else set()
    classes = sorted(path for path in source.iterdir() if path.is_dir() and path.name not in tested)
    draw = random.Random(options.seed)
    draw.shuffle(classes)
    counts: collections.Counter[int] = collections.Counter()
    for place, folder in enumerate(classes):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        share = (options.fewest / options.most) ** (place / (len(classes) - 1))
        kept = draw.sample(files, min(len(files), round(options.most * share)))
        copy(kept, source, target)
        counts[len(kept)] += 1
    for name in tested:
        copy([path for path in (source / name).rglob("*") if path.is_file()], source, target)
    if wav:
        shutil.copy(options.trials, options.out)
    print(f"{len(classes)} classes, {sum(n * k for n, k in counts.items())} samples; classes by number of samples:")
    print(dict(sorted(counts.items(), reverse=True)))


def copy(files: list[Path], source: Path, target: Path) -> None:
    for path in files:
        to = target / path.relative_to(source)
        to.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, to)
        except OSError:  # another file system
            shutil.copyfile(path, to)


if __name__ == "__main__":
    main(parser.parse_args())
