"""SpeechBrain's own, unmodified scripts with our recipes on real speech."""

import re
import runpy
import shutil
import subprocess
import sys

import numpy as np
import pytest
import reference
import torch
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
from verimargin import metrics
from verimargin.files import hparams as recipes
from verimargin.files.anchors import anchors_from_prototypes
from verimargin.files.embeddings import read_embeddings, write_embeddings
from verimargin.files.networks import fingerprint
from verimargin.files.trials import read_trials
from verimargin.scoring import methods as scoring
from verimargin.scoring.score_norm import ScoreNorm
from verimargin_speechbrain.commands import embed_speech as embed

TINY = ["--channels", "16", "--emb_dim", "24", "--sentence_len", "1.0", "--device", "cpu", "--noprogressbar"]
BRIEF = [*TINY, "--batch_size", "64", "--steps_per_epoch", "29", "--step_size", "29"]


def run(script, recipe, folder, *options, check=True):
    shutil.copy(recipes.path(recipe), folder)
    command = [sys.executable, script, recipe, *options]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    printed = result.stdout + result.stderr
    assert (result.returncode == 0) == check, printed[-6000:]
    return printed


@pytest.mark.timeout(1200)
def test_train_resume_and_verify(upstream_recipe, voxceleb_layout, tmp_path):
    script = upstream_recipe / "train_speaker_embeddings.py"

    def train(name, epochs):
        options = ["--data_folder", str(voxceleb_layout), "--output_folder", name, "--number_of_epochs", str(epochs)]
        run(script, "train_ecapa_small.yaml", tmp_path, *options, *BRIEF)
        return (tmp_path / name / "train_log.txt").read_text()

    whole = train("whole", 2)
    train("resumed", 1)
    assert train("resumed", 2) == whole
    other = ["--data_folder", str(voxceleb_layout), "--output_folder", "whole", "--number_of_epochs", "2", *BRIEF]
    other += ["--compute_cost", "!ref <costs[arcface]>"]
    refused = run(script, "train_ecapa_small.yaml", tmp_path, *other, check=False)
    assert "holds the checkpoint of a run with another loss or other settings" in refused
    assert (tmp_path / "whole" / "train_log.txt").read_text() == whole
    checkpoint = sorted((tmp_path / "whole" / "save").glob("CKPT*"))[-1]
    options = ["--data_folder", str(voxceleb_layout), "--output_folder", "scored", "--pretrain_path", str(checkpoint)]
    printed = run(
        upstream_recipe / "speaker_verification_cosine.py",
        "verify_ecapa_small.yaml",
        tmp_path,
        *options,
        *TINY[:4],
        *TINY[6:8],
    )
    lines = [line.split() for line in (tmp_path / "scored" / "scores.txt").read_text().splitlines()]
    same = np.array([line[2] == "1" for line in lines])
    scores = np.array([float(line[3]) for line in lines])
    eer = float(re.search(r"EER\(%\)=([0-9.]+)", printed).group(1))
    assert 100 * metrics.eer(scores[same], scores[~same])[0] == pytest.approx(eer, abs=0.02)  # scores.txt has 6 digits
    assert eer < 35


@pytest.mark.timeout(1200)
def test_a_finished_run_is_fine_tuned_with_a_scheduled_margin(upstream_recipe, voxceleb_layout, tmp_path):
    script = upstream_recipe / "train_speaker_embeddings.py"
    options = ["--data_folder", str(voxceleb_layout), *BRIEF, "--number_of_epochs", "1"]
    run(script, "train_ecapa_small.yaml", tmp_path, *options, "--output_folder", "base")
    tune = ["--data_folder", str(voxceleb_layout), *BRIEF, "--output_folder", "tuned", "--finished", "base/save"]
    tune += ["--lr", "0.00002"]
    printed = run(script, "train_ecapa_small_finetune.yaml", tmp_path, *tune, "--number_of_epochs", "1")
    assert re.search(r"the training starts from base/save/CKPT\+.*, with its prototypes", printed)
    before, after = (newest(tmp_path / name / "save", "classifier")["weight"] for name in ("base", "tuned"))
    torch.testing.assert_close(after, before, atol=2e-3, rtol=0)  # moved by 84 steps of at most 2e-5
    steps = newest(tmp_path / "tuned" / "save", "schedule")["_extra_state"]["count"]
    shutil.rmtree(tmp_path / "base")  # a resumed run does without it
    run(script, "train_ecapa_small_finetune.yaml", tmp_path, *tune, "--number_of_epochs", "2")
    log = (tmp_path / "tuned" / "train_log.txt").read_text()
    assert re.findall(r"train margin: ([\d.e+-]+)", log) == ["4.00e-01"] * 2
    assert newest(tmp_path / "tuned" / "save", "schedule")["_extra_state"]["count"] == 2 * steps > 0


def newest(save_folder, part):
    return torch.load(sorted(save_folder.glob("CKPT+*"))[-1] / f"{part}.ckpt")


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("estimator", ["momentum", "memory"])
def test_kappaface_trains_resumes_and_leaves_a_stock_model(estimator, upstream_recipe, voxceleb_layout, tmp_path):
    script = upstream_recipe / "train_speaker_embeddings.py"

    def train(name, epochs):
        options = ["--data_folder", str(voxceleb_layout), "--output_folder", name, "--number_of_epochs", str(epochs)]
        options += ["--estimator", estimator]
        run(script, "train_ecapa_small_kappaface.yaml", tmp_path, *options, *BRIEF)
        return (tmp_path / name / "train_log.txt").read_text()

    whole = train("whole", 2)
    assert whole.count("train margin mean: ") == 2
    train("resumed", 1)
    assert train("resumed", 2) == whole
    save = sorted((tmp_path / "whole" / "save").glob("CKPT*"))[-1]
    model = ECAPA_TDNN(40, lin_neurons=24, channels=[16, 16, 16, 16, 48], attention_channels=64, se_channels=64)
    model.load_state_dict(torch.load(save / "embedding_model.ckpt"))
    state = torch.load(save / "kappa.ckpt")
    assert len(state["tracker.psi"]) == 227
    assert 0.1 < state["tracker.psi"].mean() < 0.9
    assert state["tracker.psi"].std() > 0.01


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("cost", ["qmargin", pytest.param("adaface", marks=pytest.mark.slow)])
def test_margins_that_follow_the_quality_train_and_resume(cost, upstream_recipe, voxceleb_layout, tmp_path):
    script = upstream_recipe / "train_speaker_embeddings.py"

    def train(name, epochs):
        options = ["--data_folder", str(voxceleb_layout), "--output_folder", name, "--number_of_epochs", str(epochs)]
        options += ["--compute_cost", f"!ref <costs[{cost}]>"]
        run(script, "train_ecapa_small_quality.yaml", tmp_path, *options, *BRIEF)
        (checkpoint,) = (tmp_path / name / "save").glob("CKPT*")
        return (tmp_path / name / "train_log.txt").read_text(), torch.load(checkpoint / "compute_cost.ckpt")

    whole, state = train("whole", 2)
    train("resumed", 1)
    resumed, state_resumed = train("resumed", 2)
    assert resumed == whole
    for name, start in (("mean", 20.0), ("std", 100.0)):
        key = f"loss.margin.quality.{name}"
        assert state[key] == state_resumed[key] != start


@pytest.mark.timeout(1200)
def test_the_scripts_scores_are_idas(upstream_recipe, voxceleb_layout, tmp_path):
    """With a model that has seen one epoch: every line of scores.txt against the formulas."""
    data = ["--data_folder", str(voxceleb_layout)]
    train = [*data, "--output_folder", "trained", "--number_of_epochs", "1", *BRIEF]
    run(upstream_recipe / "train_speaker_embeddings.py", "train_ecapa_small.yaml", tmp_path, *train)
    (checkpoint,) = (tmp_path / "trained" / "save").glob("CKPT*")
    anchors = anchors_from_prototypes(
        [checkpoint / "classifier.ckpt"], encoder=fingerprint(checkpoint / "embedding_model.ckpt")
    )
    write_embeddings(tmp_path / "anchors.npz", anchors)
    score = [*data, "--output_folder", "scored", "--pretrain_path", str(checkpoint), *TINY[:4], *TINY[6:8]]
    script = upstream_recipe / "speaker_verification_cosine.py"
    run(script, "verify_ecapa_small_ida.yaml", tmp_path, *score, "--anchors", "anchors.npz")
    options = {"data_folder": voxceleb_layout, "pretrain_path": checkpoint, "channels": 16, "emb_dim": 24}
    save = tmp_path / "scored" / "save"
    embed.embed_speech(
        recipes.path("verify_ecapa_small.yaml"),
        [save / "enrol.csv", save / "test.csv"],
        tmp_path / "tested.npz",
        [f"{key}={value}" for key, value in options.items()],
    )
    tested = read_embeddings(tmp_path / "tested.npz")
    vectors = dict(zip(tested.ids, tested.vectors.double().numpy()))
    density = dict(zip(vectors, reference.ida_density(list(vectors.values()), anchors.vectors, 10, 1.0)))
    lines = [line.split() for line in (tmp_path / "scored" / "scores.txt").read_text().splitlines()]
    assert len(lines) == 4950
    expected = [reference.dao(vectors[i], vectors[j], density[i], density[j], 1.0) for i, j, *_ in lines]
    np.testing.assert_allclose([float(line[3]) for line in lines], expected, rtol=1e-5, atol=5e-7)  # it has 6 digits


@pytest.mark.parametrize("kind", [None, "s-norm", "z-norm", "t-norm"])
@pytest.mark.parametrize("cohort_size", [None, 7])
def test_scores_are_those_of_its_verification_script(upstream_recipe, kind, cohort_size, tmp_path):
    """The script's own loop over the trials, given embeddings; and `verimargin score`'s on what it was given."""
    script = runpy.run_path(str(upstream_recipe / "speaker_verification_cosine.py"))
    draw = torch.Generator().manual_seed(0)
    voices = torch.randn(5, 1, 1, 16, generator=draw)
    rows = (voices + torch.randn(5, 4, 1, 16, generator=draw)).reshape(-1, 1, 16)
    ids = [f"id{k // 4}/s/{k % 4}" for k in range(20)]
    cohort = torch.randn(30, 1, 16, generator=draw)
    trials = [f"{a // 4 == b // 4:d} {ids[a]}.wav {ids[b]}.wav" for a in range(20) for b in range(20) if a != b]
    loop = script["get_verification_scores"]
    loop.__globals__["params"] = {"output_folder": str(tmp_path)}
    if kind:
        loop.__globals__["params"]["score_norm"] = kind
    if cohort_size:
        loop.__globals__["params"]["cohort_size"] = cohort_size
    embeddings = dict(zip(ids, rows))
    loop.__globals__.update(enrol_dict=embeddings, test_dict=embeddings, train_dict=dict(enumerate(cohort)))
    positive, negative = (torch.stack(scores).flatten() for scores in loop(trials))

    torch.save(embeddings, tmp_path / "embeddings.pt")
    (tmp_path / "trials.txt").write_text("\n".join(trials) + "\n")
    read = read_embeddings(tmp_path / "embeddings.pt")
    listed = read_trials(tmp_path / "trials.txt", read.ids)
    i, j = torch.from_numpy(listed.enrol), torch.from_numpy(listed.test)
    method = scoring.score_norm(ScoreNorm(cohort[:, 0], cohort_size, kind)) if kind else scoring.COSINE
    scores = scoring.score_trials([method], read.vectors, i, j)[method.name]
    same = torch.from_numpy(listed.same)
    torch.testing.assert_close(scores[same], positive, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores[~same], negative, rtol=1e-5, atol=1e-5)
