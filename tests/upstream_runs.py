"""Configs for arcface_torch's own train_v2.py, which note the losses of a run and can stop it."""

LAUNCHER = ("-m", "verimargin_insightface")

CONFIG = """
import os
import shutil
import sys

import torch
import verimargin as vm
from easydict import EasyDict as edict
from verimargin_insightface import register

config = edict()
config.rec = {rec!r}
config.num_classes = {num_classes}
config.num_image = 32
config.network = {network!r}
config.output = {output!r}
config.resume = {resume}
config.save_all_states = True
config.sample_rate = 0.7
config.fp16 = True  # without a GPU, autocast and the scaler switch themselves off
config.batch_size = 4
config.optimizer = "sgd"
config.lr = 0.02
config.weight_decay = 5e-4
config.num_epoch = 2
config.warmup_epoch = 0
config.num_workers = 1
config.verbose = 3
config.frequent = 1
config.val_targets = {val_targets}
config.loss = {loss}
config.kappa = {kappa}
{more}
register(config)

script = sys.modules["__main__"]


class Meter(script.AverageMeter):
    losses = 0

    def update(self, loss, n=1):
        with open(os.path.join(config.output, f"losses_{{script.rank}}.txt"), "a") as file:
            file.write(f"{{loss!r}}\\n")
        Meter.losses += 1
        if Meter.losses == {stop}:
            sys.exit(0)
        if Meter.losses == {keep}:
            shutil.copy(os.path.join(config.output, f"checkpoint_gpu_{{script.rank}}.pt"), {kept!r})
        super().update(loss, n)


script.AverageMeter = Meter
"""


def configure(checkout, name, **values) -> str:
    defaults = {
        "num_classes": 4, "network": "mbf", "resume": False, "val_targets": [], "stop": 0,
        "keep": 0, "kept": "", "kappa": None, "more": "", "output": str(checkout / "work" / name),
        "loss": "vm.q_margin(alpha=1.5, scale=10, margin=0.2)",
    }  # fmt: skip
    (checkout / "configs" / f"{name}.py").write_text(CONFIG.format(**{**defaults, **values}))
    return f"configs/{name}.py"


def losses(folder, rank) -> list[str]:
    return (folder / f"losses_{rank}.txt").read_text().split()
