import numpy as np
import pytest
import torch
import verimargin as vm
from small_networks import seeded
from verimargin.commands.train_ssr import train_ssr
from verimargin.files.embeddings import Embeddings, write_embeddings
from verimargin.files.scorers import read_regressor

SIZE, CLASSES = 8, 40


@pytest.fixture
def training_set(tmp_path):
    """Embeddings near their class's anchor, which is left out of their support set."""
    centre, labels = seeded(CLASSES, SIZE), torch.arange(CLASSES).repeat(20)
    embeddings = centre[labels] + 0.6 * seeded(len(labels), SIZE, seed=1)
    np.savez(tmp_path / "train.npz", embeddings=embeddings.numpy(), labels=labels.numpy(), encoder="abc")
    names = [str(c) for c in range(CLASSES)]
    write_embeddings(tmp_path / "anchors.npz", Embeddings(names, centre, encoder="abc", source={"kind": "fc"}))
    return embeddings, labels, centre


def test_train_ssr_fits_densities_without_the_own_anchor(training_set, tmp_path, capsys):
    embeddings, labels, centre = training_set
    out = tmp_path / "ssr.pt"
    train_ssr(tmp_path / "train.npz", tmp_path / "anchors.npz", out, k=5, tau=2.0, hidden=64, seed=3)
    assert "fitted to 800 embeddings, 800 of them with an anchor of their own" in capsys.readouterr().out
    regressor, scorer = read_regressor(out).scorer, vm.IDAScorer(centre, 5, 2.0)
    assert (regressor.k, regressor.tau) == (5, 2.0)
    predicted, others = regressor.log_density(embeddings), scorer.log_density(embeddings, labels)
    assert float((predicted - others).square().mean() / others.var()) < 0.3
    assert float((predicted - scorer.log_density(embeddings)).square().mean() / others.var()) > 1
    read_regressor(out).check_encoder("abc")
    with pytest.raises(ValueError, match="made with the encoder abc, but the embeddings with xyz"):
        read_regressor(out).check_encoder("xyz")
    with pytest.raises(FileExistsError, match="exists already"):
        train_ssr(tmp_path / "train.npz", tmp_path / "anchors.npz", out)


def test_files_of_other_encoders_are_refused(training_set, tmp_path):
    np.savez(tmp_path / "other.npz", embeddings=seeded(5, SIZE), labels=range(5), encoder="xyz")
    with pytest.raises(ValueError, match="made with the encoder abc, but the embeddings with xyz"):
        train_ssr(tmp_path / "other.npz", tmp_path / "anchors.npz", tmp_path / "ssr.pt")
    assert not (tmp_path / "ssr.pt").exists()


def test_anchors_are_no_training_set(training_set, tmp_path):
    """The arguments in the wrong order fitted a regressor to the anchors."""
    with pytest.raises(ValueError, match=r"anchors\.npz is a file of anchors: give the training set's"):
        train_ssr(tmp_path / "anchors.npz", tmp_path / "train.npz", tmp_path / "ssr.pt")


def test_a_tau_that_no_density_stands_is_named(training_set, tmp_path):
    with pytest.raises(ValueError, match=r"--tau is 5000, with which a density leaves the range of numbers"):
        train_ssr(tmp_path / "train.npz", tmp_path / "anchors.npz", tmp_path / "ssr.pt", tau=5000.0)
    assert not (tmp_path / "ssr.pt").exists()
