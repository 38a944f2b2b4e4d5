import shutil

import pytest
import torch
import verimargin as vm
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.utils.checkpoints import Checkpointer
from verimargin_speechbrain import PrototypeClassifier
from verimargin_speechbrain.finetuning import start_from


class Classifier(torch.nn.Module):
    """Its prototypes are named as those of ECAPA_TDNN.Classifier."""

    def __init__(self, speakers=3):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(speakers, 4))


@pytest.fixture
def finished(tmp_path):
    """The save_folder of a run with two checkpoints: the better one is the older. The folder, and its best weights."""
    torch.manual_seed(0)
    model, classifier = torch.nn.Linear(5, 4), Classifier()
    run = Checkpointer(tmp_path / "finished", {"embedding_model": model, "classifier": classifier})
    run.save_checkpoint(meta={"ErrorRate": 0.1}, name="good")
    best = {"model": model.weight.detach().clone(), "prototypes": classifier.weight.detach().clone()}
    for part in (model, classifier):
        torch.nn.init.zeros_(part.weight)
    run.save_checkpoint(meta={"ErrorRate": 0.5}, name="bad")
    encoder = CategoricalEncoder()
    encoder.update_from_iterable(["b", "a", "c"])
    encoder.save(tmp_path / "finished" / "label_encoder.txt")
    return tmp_path / "finished", best


def begin(finished, own, model=None, classifier=None):
    model = model or torch.nn.Linear(5, 4)
    start_from(finished, own, {"embedding_model": model}, classifier)
    return model


@pytest.mark.parametrize("make", [Classifier, lambda: PrototypeClassifier(4, 3, vm.q_margin(margin=0.4))])
def test_the_best_checkpoint_and_its_prototypes_are_loaded_but_not_its_loss(finished, tmp_path, make):
    folder, best = finished
    classifier = make()
    model = begin(folder, tmp_path / "own", classifier=classifier)
    assert torch.equal(model.weight, best["model"])
    assert torch.equal(classifier.weight, best["prototypes"])
    assert (tmp_path / "own" / "label_encoder.txt").read_text() == (folder / "label_encoder.txt").read_text()
    if isinstance(classifier, PrototypeClassifier):
        assert classifier.loss.margin.m == 0.4
    begin(folder, tmp_path / "own", classifier=classifier)  # once more, before there is a checkpoint


def test_a_checkpoint_can_be_named_and_prototypes_may_be_new(finished, tmp_path):
    folder, _ = finished
    model = begin(folder / "CKPT+bad", tmp_path / "own")
    assert not model.weight.any()
    assert not (tmp_path / "own").exists()


def test_a_run_with_a_checkpoint_of_its_own_is_resumed(finished, tmp_path):
    folder, best = finished
    (tmp_path / "own" / "CKPT+1").mkdir(parents=True)
    shutil.rmtree(folder)
    assert not torch.equal(begin(folder, tmp_path / "own").weight, best["model"])


def test_a_run_with_subcenters_goes_on_with_what_prune_leaves(finished, tmp_path):
    """The three prototypes of a speaker fit no classifier with one, and prune's result had no way into a recipe."""
    folder, own = finished[0], tmp_path / "own"
    weight, pruned = torch.randn(3, 2, 4), tmp_path / "prototypes.pt"
    torch.save({"weight": weight}, folder / "CKPT+good" / "classifier.ckpt")
    torch.save({"weight": weight[:, 1].clone()}, pruned)
    with pytest.raises(
        ValueError, match=r"has 2 sub-centres for each speaker.*: give start_from the `prototypes` that"
    ):
        begin(folder, own, classifier=Classifier())
    with pytest.raises(ValueError, match=r"no classifier to get the prototypes"):
        start_from(folder, own, {}, prototypes=pruned)
    with pytest.raises(ValueError, match=r"none.pt is not there: give the prototypes.pt"):
        start_from(folder, own, {}, Classifier(), tmp_path / "none.pt")
    assert not own.exists()
    classifier = Classifier()
    start_from(folder, own, {}, classifier, pruned)
    assert torch.equal(classifier.weight, weight[:, 1])
    assert (own / "label_encoder.txt").is_file()


def test_what_does_not_fit_is_named(finished, tmp_path):
    folder, _ = finished
    own = tmp_path / "own"
    for wrong in (tmp_path / "none", tmp_path):
        with pytest.raises(ValueError, match=r"has no checkpoint to start from: give the save_folder"):
            begin(wrong, own)
    assert not (tmp_path / "none").exists()
    with pytest.raises(ValueError, match="does not fit the recipe's model"):
        begin(folder, own, model=torch.nn.Linear(6, 4))
    with pytest.raises(ValueError, match=r"has 3 speakers with .* shape \(4,\), the recipe.s classifier 5 of"):
        begin(folder, own, classifier=Classifier(5))
    with pytest.raises(ValueError, match=r"has no normalizer.ckpt: it has classifier, embedding_model"):
        start_from(folder, own, {"normalizer": torch.nn.Linear(1, 1)})
    assert not own.exists()
    own.mkdir()
    (own / "label_encoder.txt").write_text("other")
    with pytest.raises(ValueError, match="numbers the speakers in another way"):
        begin(folder, own, classifier=Classifier())
    (folder / "label_encoder.txt").unlink()
    with pytest.raises(ValueError, match=r"label_encoder.txt is missing, which says whose the prototypes are"):
        begin(folder, own, classifier=Classifier())
