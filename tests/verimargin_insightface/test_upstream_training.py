"""Upstream's own train_v2.py, unmodified, through the launcher: needs a checkout (ARCFACE_TORCH_HOME)."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from upstream_runs import LAUNCHER, configure, losses
from verimargin_insightface.commands.reshard import reshard
from verimargin_insightface.recordio import RecordReader


def test_resuming_continues_exactly(resumed):
    whole, parts, stopped, _ = resumed
    for rank in (0, 1):
        expected = losses(whole, rank)
        assert len(expected) == 8
        assert stopped[rank] == expected[:5]
        assert losses(parts, rank)[5:] == expected[4:]
    for name in ("checkpoint_gpu_0.pt", "checkpoint_gpu_1.pt"):
        a, b = torch.load(whole / name), torch.load(parts / name)
        assert a["global_step"] == b["global_step"] == 8
        for key in ("state_dict_backbone", "state_dict_softmax_fc"):
            assert all(torch.equal(a[key][part], b[key][part]) for part in a[key])


def test_verification_sets_are_read_while_training(resumed):
    *_, log = resumed
    assert "[pairs][6]Accuracy-Flip: " in log


@pytest.mark.parametrize(
    ("ranks", "data", "kappa"),
    [
        (2, "rec", "dict(estimator='memory', memory_dtype=torch.float16)"),
        pytest.param(1, "folder", "dict(estimator='momentum', momentum=0.8)", marks=pytest.mark.slow),
        pytest.param(2, "folder", "dict(estimator='momentum', momentum=0.8)", marks=pytest.mark.slow),
        pytest.param(1, "rec", "dict(estimator='memory')", marks=pytest.mark.slow),
    ],
)
def test_kappaface_and_a_schedule_resume_exactly(python, checkout, faces, tmp_path, ranks, data, kappa):
    """Resumed from the checkpoint that an uninterrupted run wrote after its first epoch."""
    steps, settings = 8 // ranks, {"rec": str(faces / data), "kappa": kappa, "val_targets": ["pairs"]}
    ramps = "margin=vm.Ramp(0.1, 0.5, end=6), scale=vm.Ramp(8.0, 10.0, end=6)"
    settings["more"] = f"config.schedule = dict({ramps}, unit='steps')"
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    parts.mkdir()
    config = configure(checkout, "kappa", **settings, output=str(whole), keep=steps + 1, kept=str(parts))
    log = python(*LAUNCHER, "train_v2.py", config, ranks=ranks, cwd=checkout).stdout
    assert "KappaFace after epoch 2: kappa mean " in log
    assert f"Global Step: {2 * steps}   active classes " in log
    assert f"Global Step: {2 * steps}   prototypes without gradient " in log
    config = configure(checkout, "resumed_kappa", **settings, output=str(parts), resume=True)
    python(*LAUNCHER, "train_v2.py", config, ranks=ranks, cwd=checkout)
    for rank in range(ranks):
        head = torch.load(parts / f"checkpoint_gpu_{rank}.pt")["state_dict_softmax_fc"]
        saved = head._metadata[""]["verimargin"]["loss"]["schedule._extra_state"]
        assert (saved["count"], saved["scale"]) == (2 * steps, 10.0)
        assert losses(parts, rank) == losses(whole, rank)[steps:]
        a, b = (torch.load(folder / f"checkpoint_gpu_{rank}.pt") for folder in (whole, parts))
        for key in ("state_dict_backbone", "state_dict_softmax_fc"):
            assert all(torch.equal(a[key][part], b[key][part]) for part in a[key])
        psi, backbone = a["state_dict_softmax_fc"]["kappa.tracker.psi"], a["state_dict_backbone"]
        assert len(psi.unique()) == 4
        assert torch.equal(psi, a["state_dict_softmax_fc"]["loss.margin.psi"])
    assert torch.load(whole / "model.pt").keys() == backbone.keys()  # a plain backbone


def resumed_runs(python, checkout, faces, tmp_path, ranks, **settings):
    """The folders of a whole run, and of one that goes on from the checkpoint after its first epoch, which is equal."""
    steps, settings = 8 // ranks, {"rec": str(faces / "rec"), **settings}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    parts.mkdir()
    config = configure(checkout, "unbroken", **settings, output=str(whole), keep=steps + 1, kept=str(parts))
    python(*LAUNCHER, "train_v2.py", config, ranks=ranks, cwd=checkout)
    config = configure(checkout, "broken", **settings, output=str(parts), resume=True)
    python(*LAUNCHER, "train_v2.py", config, ranks=ranks, cwd=checkout)
    for rank in range(ranks):
        assert losses(parts, rank) == losses(whole, rank)[steps:]
        a, b = (torch.load(folder / f"checkpoint_gpu_{rank}.pt") for folder in (whole, parts))
        for key in ("state_dict_backbone", "state_dict_softmax_fc"):
            assert all(torch.equal(a[key][part], b[key][part]) for part in a[key])
    return whole, parts


@pytest.mark.parametrize(
    ("ranks", "loss"),
    [
        (2, "vm.q_margin(1.5, 10, 0.2, quality=vm.Quality(0.5, h=2.0))"),
        pytest.param(1, "vm.adaface(scale=16, margin=0.4, h=2.0)", marks=pytest.mark.slow),
        pytest.param(2, "vm.adaface(scale=16, margin=0.4, h=2.0)", marks=pytest.mark.slow),
    ],
)
def test_a_margin_that_follows_the_quality_resumes_exactly(python, checkout, faces, tmp_path, ranks, loss):
    """The running averages of the norms too."""
    whole, _ = resumed_runs(python, checkout, faces, tmp_path, ranks, loss=loss)
    averages = []
    for rank in range(ranks):
        head = torch.load(whole / f"checkpoint_gpu_{rank}.pt")["state_dict_softmax_fc"]
        averages.append([float(head[f"loss.margin.quality.{name}"]) for name in ("mean", "std")])
    assert averages == averages[:1] * ranks
    assert averages[0] != [20.0, 100.0]


@pytest.mark.slow
def test_subcenters_resume_exactly_and_are_pruned(python, checkout, faces, tmp_path):
    """From the training to the cleaned one, by the commands of the guide."""
    whole, _ = resumed_runs(python, checkout, faces, tmp_path, 2, more="config.subcenters = 3")
    assert torch.load(whole / "checkpoint_gpu_0.pt")["state_dict_softmax_fc"]["weight"].shape[:2] == (2, 3)
    verimargin = "from verimargin.commands.main import main; main()"
    embeddings, cleaned = str(tmp_path / "training.npz"), str(tmp_path / "cleaned")
    network = ("--network", "mbf")
    python(
        "-c", verimargin, "embed-faces", str(faces / "rec"), str(whole / "model.pt"), embeddings, *network, cwd=checkout
    )
    python("-c", verimargin, "prune", str(whole), embeddings, cleaned, cwd=checkout)
    settings = {"rec": str(faces / "rec"), "output": str(tmp_path / "from_cleaned"), "stop": 1}
    config = configure(checkout, "cleaned", **settings, more=f"config.pretrained = {cleaned!r}")
    log = python(*LAUNCHER, "train_v2.py", config, ranks=1, cwd=checkout).stderr
    assert f"the training starts from {cleaned}, with its prototypes" in log


def test_a_training_starts_from_a_finished_run(python, checkout, faces, resumed):
    whole, *_ = resumed
    found = {}
    for path in (whole, whole / "model.pt"):
        output = checkout / "work" / f"from_{path.name}"
        settings = {"rec": str(faces / "rec"), "output": str(output), "stop": 1}
        config = configure(checkout, "finetune", **settings, more=f"config.pretrained = {str(path)!r}")
        log = python(*LAUNCHER, "train_v2.py", config, ranks=1, cwd=checkout).stderr
        found[path.name] = log, float(losses(output, 0)[0])
    (log, inherited), (new_log, new) = found.values()
    assert f"the training starts from {whole}, with its prototypes" in log
    assert "model.pt, with new prototypes" in new_log
    assert inherited < 0.8 * new


def test_another_number_of_ranks_goes_on(python, checkout, faces, resumed):
    """With half as many ranks there are twice as many steps; by the old ones the learning rate would end at 0."""
    folder = checkout / "work" / "one"
    shutil.copytree(checkout / "work" / "stopped", folder)
    config = configure(checkout, "one", rec=str(faces / "rec"), output=str(folder), resume=True)
    done = python(*LAUNCHER, "train_v2.py", config, ranks=1, cwd=checkout)
    assert "is of 2 ranks, and is resumed on 1" in done.stderr
    assert (
        "1 ranks make 16 steps, those of the checkpoint made 8: the learning rate goes on from epoch 1" in done.stderr
    )
    assert [path.name for path in folder.glob("checkpoint*")] == ["checkpoint_gpu_0.pt"]
    checkpoint = torch.load(folder / "checkpoint_gpu_0.pt")
    assert checkpoint["epoch"] == 2
    assert checkpoint["state_lr_scheduler"]["last_epoch"] == 16
    assert len(checkpoint["state_dict_softmax_fc"]["weight"]) == 4


@pytest.mark.slow
def test_upstreams_own_head_goes_on_with_resharded_files(python, checkout, faces, tmp_path):
    """Trained and resumed by PartialFC_V2: `verimargin reshard` cuts its files, which know nothing of ours."""
    run, one = tmp_path / "run", tmp_path / "one"
    for name, values in {"theirs": {"output": run, "stop": 5}, "go_on": {"output": one, "resume": True}}.items():
        path = checkout / configure(
            checkout, name, rec=str(faces / "rec"), **{**values, "output": str(values["output"])}
        )
        ours = ("config.loss =", "config.kappa =", "register(config)")
        path.write_text("\n".join(line for line in path.read_text().splitlines() if not line.startswith(ours)))
    python(*LAUNCHER, "train_v2.py", "configs/theirs.py", ranks=2, cwd=checkout)
    weights = [torch.load(run / f"checkpoint_gpu_{rank}.pt")["state_dict_softmax_fc"]["weight"] for rank in (0, 1)]
    reshard(run, one, 1)
    checkpoint = torch.load(one / "checkpoint_gpu_0.pt")
    assert torch.equal(checkpoint["state_dict_softmax_fc"]["weight"], torch.cat(weights))
    python(*LAUNCHER, "train_v2.py", "configs/go_on.py", ranks=1, cwd=checkout)
    assert torch.load(one / "checkpoint_gpu_0.pt")["epoch"] == 2


def test_another_number_of_classes_is_refused(python, checkout, faces, resumed):
    settings = {"rec": str(faces / "rec"), "output": str(checkout / "work" / "stopped"), "resume": True}
    config = configure(checkout, "more", **settings, num_classes=6)
    done = python(*LAUNCHER, "train_v2.py", config, ranks=2, cwd=checkout, check=False)
    assert done.returncode
    assert "another loss or of other settings (config.num_classes is 4 there and 6 here)" in done.stderr


def test_an_unknown_network_is_named(python, checkout, faces):
    config = configure(checkout, "network", rec=str(faces / "folder"), network="r51")
    done = python(*LAUNCHER, "train_v2.py", config, ranks=1, cwd=checkout, check=False)
    assert "ValueError: config.network is 'r51'" in done.stderr


def test_a_damaged_record_stops_training_by_its_name(python, checkout, faces, tmp_path):
    shutil.copytree(faces / "rec", tmp_path / "rec")
    with RecordReader(tmp_path / "rec" / "train.idx", tmp_path / "rec" / "train.rec") as records:
        image = records.read_idx(7)[24:]
    data = (tmp_path / "rec" / "train.rec").read_bytes()
    (tmp_path / "rec" / "train.rec").write_bytes(data.replace(image, bytes(len(image))))
    config = configure(checkout, "damaged", rec=str(tmp_path / "rec"), stop=9)
    done = python(*LAUNCHER, "train_v2.py", config, ranks=1, cwd=checkout, check=False)
    assert "record 7 of " in done.stderr + done.stdout


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_after_kills_at_random_moments_a_rerun_goes_on(checkout, faces, tmp_path):
    """One rank, and config.resume = True from the beginning, as in a queue that starts a killed job again."""
    draw, folder = random.Random(0), tmp_path / "run"
    config = configure(checkout, "killed", rec=str(faces / "rec"), output=str(folder), resume=True)
    command = [sys.executable, *LAUNCHER, "train_v2.py", config]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}

    def run(seconds=None):
        """The output; None if it was killed, with all of its processes."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        environment = {**os.environ, **alone, "MASTER_PORT": port}
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(
                command, cwd=checkout, env=environment, stdout=log, stderr=log, start_new_session=True
            )
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return None
        assert code == 0, (tmp_path / "log").read_text()[-4000:]
        return (tmp_path / "log").read_text()

    began = time.monotonic()
    run()
    took = time.monotonic() - began
    kills = 0
    while kills < 20:
        if run(draw.uniform(0.3 * took, took)) is None:
            kills += 1
        else:
            shutil.rmtree(folder)  # the next kills meet a new run
    run()
    assert torch.load(folder / "checkpoint_gpu_0.pt")["epoch"] == 2
    assert not list(folder.glob("*.partial"))
