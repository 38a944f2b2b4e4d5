"""A folder with a development list and a list to be judged, on embeddings whose durations matter."""

from itertools import combinations

import numpy as np
import torch
import typer
from typer.testing import CliRunner
from verimargin.files.embeddings import Embeddings, write_embeddings

DEV, JUDGED, EACH, SIZE = 16, 14, 5, 8


def make(folder):
    """Embeddings of speakers d0, d1, ... (dev.txt) and j0, j1, ... (trials.txt), and a cohort, in one folder."""
    random = np.random.default_rng(0)
    names = [f"d{n}" for n in range(DEV)] + [f"j{n}" for n in range(JUDGED)]
    ids = [f"{name}/{n}" for name in names for n in range(EACH)]
    sizes = random.uniform(1.0, 9.0, len(ids))
    voices = random.normal(size=(len(names), 1, SIZE)) + np.eye(SIZE)[0]
    noise = random.normal(size=(len(names), EACH, SIZE)) / np.sqrt(sizes.reshape(len(names), EACH, 1)) * 1.6
    rows = torch.from_numpy((voices + noise).reshape(-1, SIZE)).float()
    write_embeddings(folder / "e.npz", Embeddings(ids, rows, encoder="abc", sizes=sizes))
    impostors = torch.from_numpy(random.normal(size=(40, SIZE)) + np.eye(SIZE)[0]).float()
    write_embeddings(folder / "cohort.npz", Embeddings([f"c{n}/0" for n in range(40)], impostors))
    for name, first in (("dev", "d"), ("trials", "j")):
        write_list(folder / f"{name}.txt", [one for one in ids if one.startswith(first)])
    return folder


def write_list(path, ids):
    """All pairs of the ids."""
    pairs = [f"{a.split('/')[0] == b.split('/')[0]:d} {a} {b}" for a, b in combinations(ids, 2)]
    path.write_text("\n".join(pairs) + "\n")


def run(command, *arguments):
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result
