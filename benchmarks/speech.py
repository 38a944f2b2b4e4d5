"""Losses and scores on speech, by `verimargin compare` and SpeechBrain's own training script.

    python benchmarks/speech.py corpora OUT                  # eSpeak NG speaks: 1,000 + 500 speakers, 13,500 recordings
    python benchmarks/speech.py grid OUT                     # every setting, on 200 development speakers
    python benchmarks/speech.py final OUT SPEECHBRAIN        # the best of each loss, on 300 other speakers, two seeds
    python benchmarks/speech.py scores OUT                   # s-norm and IDA with those networks, and generated anchors
    python benchmarks/speech.py real OUT SPEECHBRAIN CORPUS  # the same losses on a corpus of yours, five seeds

SPEECHBRAIN is a checkout. The setting of a loss, out of four, is the one with the highest TAR at FAR 1e-3 on the
development speakers. KappaFace and AdaFace take over ArcFace's, and the adaptive Q-Margins Q-Margin's; where each class
has a margin of its own, m is twice as large, because psi is about 1/2 on average. Nothing is chosen on the speakers
that are tested, nor on the corpus of `real`. What has been done is not done again, and a killed command goes on where
it was.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import verimargin as vm
import yaml
from measurement import claimed, markdown
from speech_grid import Corpus, development_figure
from tqdm import tqdm
from verimargin import metrics
from verimargin.commands import report
from verimargin.commands.comparison.experiment import folder_name, read_experiment
from verimargin.commands.comparison.losses import read_loss
from verimargin.commands.comparison.run import Run, runs_of, write_json
from verimargin.commands.comparison.verdicts import Scores, methods_of, read_scores
from verimargin.commands.training_run import open_run
from verimargin.files.embeddings import read_embeddings
from verimargin.files.trials import read_trials
from verimargin.files.whole import whole_folder
from verimargin_speechbrain.corpus import read_trials as read_named_trials
from verimargin_speechbrain.corpus import recordings, speaker_of, speakers, write_trials
from verimargin_speechbrain.experiment import split
from verimargin_speechbrain.synthesis import make_corpus

TRAINED, DEVELOPMENT, TESTED = 1_000, 200, 300  # speakers
UTTERANCES, TEST_UTTERANCES = 10, 5
SEED = 1
EPOCHS, REAL_EPOCHS = 2, 4  # each takes all recordings three times, as they last three seconds
GRID_EPOCHS = 6  # as long as EPOCHS: each takes every recording once
SMALL = {"channels": 32, "emb_dim": 64, "sentence_len": 1.0, "lr": 0.004, "batch_size": 64}
CHOSEN_BY = "TAR at FAR 1e-3"
GENERATED = "IDA-R, generated anchors"

Loss = dict[str, Any]

MARGINS = ((30, 0.2), (30, 0.3), (15, 0.2), (10, 0.2))  # scale, margin
SPARSE = ((1.5, 10), (1.25, 16), (1.25, 10), (1.125, 10))  # alpha, scale

GRID: dict[str, list[Loss]] = {
    "ArcFace": [{"loss": "arcface", "scale": s, "margin": m} for s, m in MARGINS],
    "CosFace": [{"loss": "cosface", "scale": s, "margin": m} for s, m in MARGINS],
    "entmax": [{"loss": "entmax", "alpha": a, "scale": s} for a, s in SPARSE],
    "Q-Margin": [{"loss": "q_margin", "alpha": a, "scale": s, "margin": 0.2} for a, s in SPARSE],
}

DERIVED = ("KappaFace", "AdaFace", "adaptive Q-Margin", "quality-adaptive Q-Margin")
FAMILIES = (*GRID, *DERIVED)


def title(family: str, loss: Loss) -> str:
    return ", ".join([family, *(f"{key} {value:g}" for key, value in loss.items() if key != "loss")])


def derived(arcface: Loss, q_margin: Loss) -> dict[str, Loss]:
    """The losses that need a recipe of their own, with the settings of those that they extend."""
    arc, q = ({key: value for key, value in loss.items() if key != "loss"} for loss in (arcface, q_margin))
    memory = {"estimator": "memory"}

    def of(recipe: str, cost: str, options: Any, **settings: Any) -> Loss:
        chosen = {"compute_cost": f"!ref <costs[{cost}]>", "costs": {cost: options}}
        return {"recipe": f"train_ecapa_small_{recipe}.yaml", "settings": {**chosen, **settings}}

    def doubled(options: Loss) -> Loss:
        return {"loss": {**options, "margin": 2 * options["margin"]}}

    found = (
        of("kappaface", "kappaface", doubled(arc), **memory),
        of("quality", "adaface", {"loss": arc}),
        of("kappaface", "qmargin", doubled(q), **memory),
        of("quality", "qmargin", q),
    )
    return dict(zip(DERIVED, found))


def make_corpora(out: Path) -> None:
    """Write OUT/all, OUT/generated, and links to the former as OUT/development and OUT/test."""
    sizes = {
        "all": (TRAINED, DEVELOPMENT + TESTED, UTTERANCES, TEST_UTTERANCES, SEED),
        "generated": (TRAINED, 0, 1, 0, SEED + 1),
    }
    for name, size in sizes.items():
        if not (out / name).is_dir():
            for _ in tqdm(make_corpus(out / name, *size), name, size[0] + size[1], unit="speaker"):
                pass
    people = speakers(out / "all")
    trained, others = people[:TRAINED], people[TRAINED:]
    for name, tested in (("development", others[:DEVELOPMENT]), ("test", others[DEVELOPMENT:])):
        if not (out / name).is_dir():
            link_corpus(out / "all", out / name, trained, tested)


def link_corpus(source: Path, target: Path, trained: Sequence[str], tested: Sequence[str]) -> None:
    """A corpus of some speakers of another, with all pairs of the recordings of those who are tested."""
    with whole_folder(target) as partial:
        for path in (path for who in [*trained, *tested] for path in (source / "wav" / who).glob("*/*.wav")):
            link = partial / path.relative_to(source)
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, link)
        names = sorted(
            p.relative_to(source / "wav").as_posix() for t in tested for p in (source / "wav" / t).rglob("*.wav")
        )
        write_trials(partial / "veri_test.txt", itertools.combinations(names, 2))


def compare(
    out: Path, name: str, home: Path, corpus: Path, losses: Mapping[str, Loss], seeds: int, epochs: int, at_once: int
) -> None:
    """Write OUT/<name>.yaml, and run `verimargin compare` with it."""
    tested = {speaker_of(name) for name in recordings(read_named_trials(corpus / "veri_test.txt"))}
    people = speakers(corpus, tested)
    chunks = sum(chunks_of(corpus / "wav" / name) for name in split(corpus, people)[0])
    experiment = {
        "toolkit": "speechbrain",
        "home": str(home.resolve()),
        "recipe": "train_ecapa_small.yaml",
        "data": str(corpus.resolve()),
        "trials": str((corpus / "veri_test.txt").resolve()),
        "out": name,
        "seeds": list(range(1, seeds + 1)),
        "devices": at_once,
        "settings": {
            **SMALL,
            "number_of_epochs": epochs,
            "steps_per_epoch": chunks // SMALL["batch_size"] + 1,
            "out_n_neurons": len(people),
        },
        "losses": dict(losses),
    }
    path = out / f"{name}.yaml"
    path.write_text(yaml.safe_dump(experiment, sort_keys=False), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "verimargin.commands", "compare", str(path)], check=True)


def chunks_of(recording: Path) -> int:
    """How many rows of the training table SpeechBrain's script makes of a recording."""
    return int(soundfile.info(recording).duration / SMALL["sentence_len"])


def try_settings(out: Path, families: Sequence[str], seed: int = 0) -> None:
    """Write OUT/grid/SETTING.json of each setting that has none yet."""
    losses = [read_loss(title(f, loss), loss) for f in families for loss in GRID[f]]
    paths = [out / "grid" / f"{folder_name(loss.title)}.json" for loss in losses]
    if all(path.is_file() for path in paths):
        return
    (out / "grid").mkdir(exist_ok=True)
    corpus = Corpus(out / "development", SMALL)
    for loss, path in zip(losses, paths):
        with claimed(path.with_suffix(".lock")) as ours:
            if ours and not path.is_file():
                value = development_figure(corpus, loss, GRID_EPOCHS, seed)
                print(f"{loss.title}: {CHOSEN_BY} {100 * value:.1f} %", flush=True)
                write_json(path, {"loss": loss.title, CHOSEN_BY: value})


def chosen_losses(out: Path) -> dict[str, Loss]:
    """The best setting of each loss by the development speakers, and the losses that follow from them."""

    def figure(family: str, loss: Loss) -> float:
        path = out / "grid" / f"{folder_name(title(family, loss))}.json"
        if not path.is_file():
            raise ValueError(f"{path} does not exist: run `grid` to its end first")
        return json.loads(path.read_text(encoding="utf-8"))[CHOSEN_BY]

    best = {family: max(losses, key=partial(figure, family)) for family, losses in GRID.items()}
    return {**best, **derived(best["ArcFace"], best["Q-Margin"])}


def write_scores(out: Path, name: str) -> None:
    """Print what each score gains over the cosine of the same networks, with generated anchors among them."""
    runs = [run for run in runs_of(read_experiment(out / f"{name}.yaml")) if run.finished]
    scores = {method: read_scores(runs, method) for method in methods_of(runs)}
    generated = [generated_scores(run, out / "generated") for run in tqdm(runs, "generated anchors", unit="run")]
    cosine = scores["cosine"]
    rows = {loss: [g for g, run in zip(generated, runs) if run.loss.title == loss] for loss in cosine.by_loss}
    scores[GENERATED] = Scores(
        cosine.same, cosine.enrol, cosine.test, {loss: np.array(row) for loss, row in rows.items()}, cosine.seeds
    )
    print(f"\n{len(cosine.same):,} trials, seeds {next(iter(cosine.seeds.values()))}: each score minus the cosine\n")
    head = [column for column, metric in report.columns(int((~cosine.same).sum())).items() if metric]
    lines = [
        [loss, method, *gains(found.by_loss[loss], cosine.by_loss[loss], cosine, head)]
        for loss in tqdm(cosine.by_loss, "differences", unit="loss")
        for method, found in scores.items()
        if method != "cosine"
    ]
    print(markdown(["loss", "score", *head], lines))


def gains(found: np.ndarray, cosine: np.ndarray, trials: Scores, head: Sequence[str]) -> list[str]:
    """The mean gain over the trainings; bold where its interval does not hold 0."""
    table = report.columns(int((~trials.same).sum()))
    resolved = {name: metric for name, metric in table.items() if metric and name in head}
    judged = metrics.differences(resolved, found, cosine, trials.same, trials.enrol, trials.test)
    cells = []
    for difference in judged.values():
        low, high = difference.interval(0.95)
        text = f"{100 * difference.value:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"
        cells.append(f"**{text}**" if low > 0 or high < 0 else text)
    return cells


def generated_scores(run: Run, generated: Path) -> np.ndarray:
    """IDA-R of the trials, with one recording of each generated speaker as anchors."""
    embedded = run.folder / "generated.npz"
    if not embedded.is_file():
        names = sorted(path.relative_to(generated / "wav").as_posix() for path in (generated / "wav").rglob("*.wav"))
        pairs = generated / "pairs.txt"
        write_trials(pairs, zip(names, [*names[1:], names[0]]))
        open_run(run.folder / "train", "").tests(pairs, generated).embed(embedded, "cpu")
    anchors = read_embeddings(embedded).vectors
    tested = read_embeddings(run.folder / "evaluation" / "test.npz")
    trials = read_trials(Path(run.settings["trials"]), tested.ids)
    enrol, test = torch.from_numpy(trials.enrol), torch.from_numpy(trials.test)
    return vm.IDAScorer(anchors).score_pairs(tested.vectors, enrol, test, log=True).numpy()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    seeds = {"final": 2, "real": 5}
    for name in ("corpora", "grid", "final", "real", "scores"):
        command = commands.add_parser(name)
        command.add_argument("out", type=Path)
        if name in seeds:
            command.add_argument("home", type=Path)
            command.add_argument("--seeds", type=int, default=seeds[name])
            command.add_argument("--at-once", type=int, default=1, help="runs that go on at a time")
            command.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
        if name == "grid":
            command.add_argument("--families", nargs="+", choices=list(GRID), default=list(GRID))
        if name == "real":
            command.add_argument("corpus", type=Path)
        if name == "scores":
            command.add_argument("--of", choices=("final", "real"), default="final")
    options = parser.parse_args(arguments)
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    if options.command == "corpora":
        return make_corpora(out)
    if options.command == "scores":
        return write_scores(out, options.of)
    if options.command == "grid":
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        return try_settings(out, options.families)
    run = options.command, options.home
    corpus, epochs = (out / "test", EPOCHS) if options.command == "final" else (options.corpus, REAL_EPOCHS)
    losses = {family: loss for family, loss in chosen_losses(out).items() if family in options.families}
    return compare(out, *run, corpus, losses, options.seeds, epochs, options.at_once)


if __name__ == "__main__":
    main()
