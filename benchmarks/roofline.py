"""How far `verimargin plan` is from the truth on this CPU: its times and memory beside the measured ones.

    python benchmarks/roofline.py [--classes 100000] [--batch 128] [--size 512] [--rounds 5]

The heads and the optimiser are those of benchmarks/head.py, with prototypes "as trained". Times are of the processor,
which other work on the machine changes less than the time that passes; they are divided by the number of threads.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import torch
from head import OURS, Problem, Step, memory_of_process, prototype_head
from measurement import markdown, processor
from verimargin.head.device_speed import measured_cpu
from verimargin.head.roofline import Workload, memory, partial_fc, q_margin, seconds, sgd


def processor_seconds(step: Step, rounds: int) -> float:
    taken = []
    for _ in range(rounds + 1):
        start = time.process_time()
        step()
        taken.append(time.process_time() - start)
    return statistics.median(taken[1:]) / torch.get_num_threads()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[100_000])
    parser.add_argument("--batch", type=int, nargs="+", default=[128])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    cpu = torch.device("cpu")
    print(f"{processor(cpu)}, {torch.get_num_threads()} threads, d {given.size}, PyTorch {torch.__version__}\n")
    print(markdown(["C", "B", "what", "planned ms", "measured ms", "ratio", "planned MiB", "measured MiB"], []))
    for classes in given.classes:
        head = prototype_head(classes, given.size)
        for batch in given.batch:
            work = Workload(classes, 1, batch, given.size)
            kept = memory(work, 0, 0)
            speed = measured_cpu(batch, given.size)
            ours, theirs = q_margin(work, False, speed.int8 > 0), partial_fc(work, fp16=False)
            planned = {OURS: (ours.passes, ours.working), "SGD": (sgd(work), kept.momentum + kept.optimiser)}
            planned["PartialFC_V2" if os.environ.get("ARCFACE_TORCH_HOME") else "dense ArcFace"] = (
                theirs.passes,
                theirs.working,
            )
            for side, (passes, working) in planned.items():
                peak = memory_of_process("as trained", side, classes, batch, given.size)
                problem = Problem(head, "as trained", batch, cpu)
                problem.step(OURS)()  # the optimiser takes its gradient
                taken = processor_seconds(problem.step(side), given.rounds)
                time_ = seconds(passes, measured_cpu(batch, given.size))
                row = classes, batch, side, f"{1e3 * time_:.0f}", f"{1e3 * taken:.0f}", f"{time_ / taken:.2f}"
                print("| " + " | ".join(map(str, (*row, f"{working / 2**20:.0f}", f"{peak:.0f}"))) + " |", flush=True)


if __name__ == "__main__":
    main()
