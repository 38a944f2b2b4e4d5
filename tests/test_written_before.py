"""Files that version 0.1.0 wrote while its modules lay side by side: what was saved then opens today.

`tests/written_before` holds a state dict of each class with state, a regressor, anchors, a training set without ids,
and the checkpoints of both toolkits' heads with KappaFace.
"""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import verimargin as vm
from distributed import on_ranks
from verimargin.files.anchors import read_anchors
from verimargin.files.embeddings import read_embeddings
from verimargin.files.kappa_state import read_kappa
from verimargin.files.scorers import read_regressor

FOLDER = Path(__file__).with_name("written_before")
ESTIMATORS = {"momentum": {}, "memory": {"num_samples": 9}}


def saved(name):
    return torch.load(FOLDER / f"{name}.pt", weights_only=True)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_kappa_tracker_goes_on(estimator):
    state = saved(f"kappa_tracker_{estimator}")
    tracker = vm.KappaTracker([3, 2, 4], 4, estimator=estimator, **ESTIMATORS[estimator])
    tracker.load_state_dict(state)
    for name, value in state.items():
        owner = tracker if hasattr(tracker, name) else tracker.estimator
        assert torch.equal(getattr(owner, name), value), name
    assert int(tracker.epoch) == 2
    assert tracker.psi.lt(1).all()
    tracker.end_epoch()
    assert torch.isfinite(tracker.psi).all()


def test_modules_open_their_state_dicts():
    linear = torch.nn.Linear(2, 2)
    for module, name in (
        (vm.PrototypeHead(4, 3, vm.kappaface(3)), "prototype_head"),
        (vm.MomentumEncoder(linear), "momentum_encoder"),
        (vm.IDAScorer(torch.randn(6, 4), 5), "ida_scorer"),
    ):
        state = saved(name)
        module.load_state_dict(state)
        for key, value in module.state_dict().items():
            assert value == state[key] if isinstance(value, dict) else torch.equal(value, state[key]), key
    assert module.k == 2
    assert module.tau == 3.0


def test_files_of_the_commands_are_read():
    regressor = read_regressor(FOLDER / "regressor.pt")
    assert regressor.encoder == "abc"
    assert (regressor.scorer.k, regressor.scorer.tau) == (2, 3.0)
    anchors = read_anchors(FOLDER / "anchors.npz", 4, "abc")
    assert anchors.source == {"kind": "real", "seed": 0}
    faces = read_embeddings(FOLDER / "faces.npz")
    assert faces.labels == [str(n // 2) for n in range(20)]
    assert len(set(faces.ids)) == 20
    order = [int(name) for name in anchors.ids]
    np.testing.assert_array_equal(anchors.vectors, faces.vectors[order])


def _partial_fc(_, estimator):
    from verimargin_insightface import PartialFC
    from verimargin_insightface.kappa import TrainingScript

    loss = vm.kappaface(3)
    script = TrainingScript({"estimator": estimator}, loss)
    script.labels, script.fingerprint = np.array([0, 0, 1, 1, 2]), 7
    script.backbone = torch.nn.Linear(5, 4)
    head = PartialFC(loss, 4, 3, script=script)
    state = saved(f"partial_fc_{estimator}")["state_dict_softmax_fc"]
    head.load_state_dict(state)
    tracker = head.kappa.tracker
    assert torch.equal(tracker.psi, state["kappa.tracker.psi"])
    for name, value in tracker.estimator.state_dict().items():
        assert torch.equal(value, state[f"kappa.tracker.{name}"]), name
    assert torch.equal(head.weight, state["weight"])
    return int(tracker.epoch)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_checkpoint_of_arcface_torch_is_resumed(estimator):
    pytest.importorskip("cv2", reason="the insightface extra is not installed")
    assert on_ranks(1, _partial_fc, estimator) == [1]
    assert [row.samples for row in read_kappa(FOLDER / f"partial_fc_{estimator}.pt")] == [2, 2, 1]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_checkpoint_of_speechbrain_is_resumed(estimator):
    speechbrain = pytest.importorskip("verimargin_speechbrain")
    pytest.importorskip("speechbrain", reason="SpeechBrain is not installed")
    samples = SimpleNamespace(
        annotation="train.csv",
        names=["a", "b", "c"],
        fingerprint="ff",
        class_counts=torch.tensor([2, 2, 1]),
        numbers={name: n for n, name in enumerate("vwxyz")},
        exist=lambda: True,
    )
    counter = SimpleNamespace(current=1)
    kappa = speechbrain.KappaFace(torch.nn.Linear(5, 4), 4, counter, samples, estimator=estimator)
    state = saved(f"speechbrain_kappa_{estimator}")
    kappa.load_state_dict(state)
    assert torch.equal(kappa.tracker.psi, state["tracker.psi"])
    for name, value in kappa.tracker.estimator.state_dict().items():
        assert torch.equal(value, state[f"tracker.{name}"]), name
