"""The losses at FAR 1e-5 and 1e-6, on very many simulated identities (`identities.py`).

    python benchmarks/low_far.py grid OUT                    # 10,000 classes: every setting of every loss
    python benchmarks/low_far.py final OUT                   # 100,000 classes: the best setting of each, two seeds
    python benchmarks/low_far.py final OUT --classes 10000 --epochs 3 --batch 512
    python benchmarks/low_far.py tables OUT                  # tables and pictures, of each size and length

A network of 220,000 parameters is trained from scratch with each loss, equally long and by the same optimiser. The
setting of a loss, out of six, is the one with the highest TAR at FAR 1e-4 on 4,000 development identities. The figures
are of 10,000 other identities, 5e8 impostor pairs. With more than 20,000 classes, the losses with alpha = 1 are
computed with `sample_rate` 0.1, as Partial FC does in practice; with fewer, all are exact.

Each run writes one file, OUT/grid/RUN.json or OUT/final/RUN.json, and is skipped once that is there. A run that was
killed goes on where it was a minute before. Several processes may work on one OUT: each run is done by one of them.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from low_far_evaluation import TEST_IDENTITIES, evaluate
from low_far_losses import FAMILIES, Setting
from low_far_tables import size_of, write_tables
from low_far_training import Job, Run
from measurement import claimed, provenance
from verimargin.files.whole import whole


def grid_jobs(families: Sequence[str], options: argparse.Namespace) -> list[Job]:
    """The first setting of each family, then the second, and so on."""
    longest = max(len(FAMILIES[family].grid) for family in families)
    rounds = [(family, n) for n in range(longest) for family in families if n < len(FAMILIES[family].grid)]
    return [job_of(family, FAMILIES[family].grid[n], options, seed=0) for family, n in rounds]


def final_jobs(families: Sequence[str], options: argparse.Namespace) -> list[Job]:
    """The chosen setting of each family with the first seed, then with the second, and so on."""
    chosen = {family: chosen_setting(family, options.out / "grid") for family in families}
    # the seed of the grid is not used again: its result has been selected
    return [
        job_of(family, chosen[family], options, seed) for seed in range(1, options.seeds + 1) for family in families
    ]


def job_of(family: str, setting: Setting, options: argparse.Namespace, seed: int) -> Job:
    return Job(family, setting, options.classes, options.epochs, options.batch, seed)


def chosen_setting(family: str, folder: Path) -> Setting:
    """The setting with the highest development figure.

    Raises:
        ValueError: a setting has not been tried, or runs differ in the number of classes, the epochs or the batches.
    """
    results = [r for r in map(read, sorted(folder.glob("*.json"))) if r["job"]["family"] == family]
    missing = [s for s in FAMILIES[family].grid if s not in [r["job"]["setting"] for r in results]]
    if missing:
        raise ValueError(f"{folder} has no result for {family} with {missing[0]}: run `grid` to its end first")
    if len(sizes := {size_of(r) for r in results}) > 1:
        held = " and with ".join(map(str, sorted(sizes)))
        raise ValueError(f"{folder} has results for {family} with {held}: keep one kind there")
    return max(results, key=lambda r: r["development"])["job"]["setting"]


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def work(jobs: Sequence[Job], folder: Path, identities: int, test: bool) -> None:
    """Do what has not been done and what no other process is doing."""
    folder.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        result, checkpoint = folder / f"{job.name}.json", folder / f"{job.name}.pt"
        with claimed(folder / f".{job.name}.lock") as ours:
            if not ours:
                print(f"{job.name} is being done by another process", flush=True)
                continue
            if not result.exists():
                found = done(job, checkpoint, identities, test)
                with whole(result) as path:
                    path.write_text(json.dumps(found) + "\n")
                checkpoint.unlink()


def done(job: Job, checkpoint: Path, identities: int, test: bool) -> dict[str, Any]:
    """Train and evaluate."""
    run = Run(job)
    run.train(checkpoint)
    started = time.process_time()
    figures = evaluate(run, identities, test)
    print(f"{job.name}: {run.cpu_seconds:.0f} s, development TAR {100 * figures['development']:.1f} %", flush=True)
    return {
        "job": job._asdict(),
        "sample_rate": job.sample_rate,
        "training seconds": run.cpu_seconds,
        "evaluation seconds": time.process_time() - started,
        "active classes": float(run.head.active_classes),
        "zero loss": float(run.head.zero_loss),
        **provenance(torch.device("cpu")),
        **figures,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, classes, epochs, batch in (("grid", 10_000, 3, 512), ("final", 100_000, 2, 1024)):
        command = commands.add_parser(name)
        command.add_argument("out", type=Path)
        command.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
        command.add_argument("--classes", type=int, default=classes)
        command.add_argument("--epochs", type=int, default=epochs)
        command.add_argument("--batch", type=int, default=batch)
        command.add_argument("--identities", type=int, default=TEST_IDENTITIES, help="of the test, at least 200")
        if name == "final":
            command.add_argument("--seeds", type=int, default=2)
    commands.add_parser("tables").add_argument("out", type=Path)
    options = parser.parse_args(arguments)
    if options.command == "tables":
        return write_tables([read(path) for path in sorted((options.out / "final").glob("*.json"))], options.out)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    jobs = {"grid": grid_jobs, "final": final_jobs}[options.command](options.families, options)
    return work(jobs, options.out / options.command, options.identities, test=options.command == "final")


if __name__ == "__main__":
    main()
