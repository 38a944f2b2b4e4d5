"""An experiment with a toolkit of our own: its script trains in a moment, and can be told to fail or to wait."""

import sys
from pathlib import Path

import numpy as np
from verimargin.commands.comparison.toolkit import Step
from verimargin.commands.comparison.verdicts import Scores

# Its epochs are files; a killed training goes on after the last one.
TRAIN = """
import json, pathlib, sys, time
out, noise, seed, wait, fail = pathlib.Path(sys.argv[1]), *map(float, sys.argv[2:])
out.mkdir(exist_ok=True)
for epoch in range(3):
    if (out / f"epoch{epoch}").exists():
        continue
    time.sleep(wait)
    if fail == seed and epoch == 1:
        sys.exit("no more data")
    (out / f"epoch{epoch}").write_text(str(time.time()))
    print("epoch", epoch, flush=True)
(out / "model.json").write_text(json.dumps([noise, seed]))
"""

EVALUATE = """
import json, pathlib, sys
import numpy as np
train, out = map(pathlib.Path, sys.argv[1:])
noise, seed = json.loads((train / "model.json").read_text())
data = np.random.default_rng(0)
who = np.repeat(np.arange(16), 5)
voices = data.normal(size=(16, 8))[who] + 0.3 * data.normal(size=(80, 8))
random = np.random.default_rng([int(seed), int(1000 * noise)])
x = voices + noise * random.normal(size=voices.shape)
x = x / np.linalg.norm(x, axis=1, keepdims=True)
i, j = np.triu_indices(80, 1)
(out / "report").mkdir(parents=True, exist_ok=True)
np.savez(
    out / "report" / "scores.npz", ids=np.array([f"p{w}/{n}" for n, w in enumerate(who)]), enrol=i, test=j,
    same=who[i] == who[j], cosine=(x[i] * x[j]).sum(1).astype(np.float32), snorm=2 * (x[i] * x[j]).sum(1),
)
"""

EXPERIMENT = """
toolkit: small
home: checkout
recipe: recipe.yaml
data: data
trials: trials.txt
out: out
seeds: [1, 2]
devices: 2
losses:
  ArcFace: {loss: arcface, settings: {noise: 0.9}}
  Q-Margin: {loss: q_margin, alpha: 1.5, settings: {noise: 0.2}}
"""


class SmallToolkit:
    """See `verimargin.commands.comparison.toolkit.Toolkit`."""

    def check(self, experiment):
        pass

    def with_loss(self, experiment, loss):
        return f"noise: {experiment.settings_of(loss)['noise']}\n"

    def training(self, experiment, loss, seed, devices, folder):
        settings = {"wait": 0.0, "fail": -1, **experiment.settings_of(loss)}
        numbers = [settings["noise"], seed, settings["wait"], settings["fail"]]
        script = str(experiment.home / "train.py")
        return Step("train", [sys.executable, script, str(folder / "train"), *map(str, numbers)], folder)


def evaluation(experiment, folder, device, started_in):
    """In the place of `verimargin evaluate`."""
    script = str(experiment.home / "evaluate.py")
    return Step("evaluate", [sys.executable, script, str(folder / "train"), str(folder / "evaluation")], started_in)


def write_experiment(folder: Path, text: str = EXPERIMENT) -> Path:
    """The experiment file, and what it names."""
    for name in ("checkout", "data"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "checkout" / "train.py").write_text(TRAIN)
    (folder / "checkout" / "evaluate.py").write_text(EVALUATE)
    (folder / "recipe.yaml").write_text("noise: 0\n")
    (folder / "trials.txt").write_text("1 a/1 a/2\n0 a/1 b/1\n")
    path = folder / "experiment.yaml"
    path.write_text(text)
    return path


def scores_of(seed=0, noise=0.3, speakers=16, trainings=2):
    """Scores (trainings, trials), labels and identities."""
    random = np.random.default_rng(seed)
    who = np.repeat(np.arange(speakers), 5)
    voices = np.random.default_rng(99).normal(size=(speakers, 8))[who]
    i, j = np.triu_indices(len(who), 1)
    rows = []
    for _ in range(trainings):
        x = voices + noise * random.normal(size=voices.shape)
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        rows.append((x[i] * x[j]).sum(1))
    return np.array(rows), who[i] == who[j], who[i], who[j]


def plain(steps, **_):
    """Progress without a bar."""
    return steps


def scores_with(**noises):
    """`Scores` of three trainings of each loss, whose noises are given."""
    rows = {loss: scores_of(n, noise, trainings=3)[0] for n, (loss, noise) in enumerate(noises.items())}
    _, same, enrol, test = scores_of()
    return Scores(same, enrol, test, rows, {loss: [1, 2, 3] for loss in rows})
