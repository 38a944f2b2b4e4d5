"""KappaFace through SpeechBrain's Brain, loaders, augmenter and checkpointer, as its script uses them."""

import copy
import itertools
import os
import re

import numpy as np
import pytest
import reference
import torch
import verimargin as vm
from distributed import on_ranks
from speechbrain.augment.augmenter import Augmenter
from speechbrain.core import Brain, Stage
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataset import DynamicItemDataset, add_dynamic_item, set_output_keys
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.lobes.models.ECAPA_TDNN import Classifier
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.data_pipeline import provides, takes
from speechbrain.utils.epoch_loop import EpochCounter
from verimargin_speechbrain import (
    KappaFace,
    KappaLogger,
    MarginCost,
    PrototypeClassifier,
    PrototypeCost,
    TrainingSamples,
)

COUNTS = {"anna": 7, "bert": 2, "cleo": 5, "dora": 1, "emil": 4}  # one batch of each epoch is of 3 samples
NAMES = ["cleo", "anna", "emil", "bert", "dora"]  # the label encoder's order is its own


class Embedding(torch.nn.Module):
    def __init__(self, batch_norm):
        super().__init__()
        self.linear = torch.nn.Linear(8, 6)
        self.norm = torch.nn.BatchNorm1d(6) if batch_norm else torch.nn.Identity()

    def forward(self, features):
        return self.norm(self.linear(features)).unsqueeze(1)


class SpeakerBrain(Brain):
    """The steps of SpeechBrain's train_speaker_embeddings.py."""

    def compute_forward(self, batch, stage):
        batch = batch.to(self.device)
        features, lengths = batch.sig
        if stage == Stage.TRAIN and hasattr(self.hparams, "wav_augment"):
            features, lengths = self.hparams.wav_augment(features, lengths)
        return self.modules.classifier(self.modules.embedding_model(features)), lengths

    def compute_objectives(self, predictions, batch, stage):
        targets, _ = batch.spk_id_encoded
        if stage == Stage.TRAIN and hasattr(self.hparams, "wav_augment"):
            targets = self.hparams.wav_augment.replicate_labels(targets)
        loss = self.hparams.compute_cost(predictions[0], targets, predictions[1])
        if (interrupt := getattr(self.hparams, "interrupt", None)) and interrupt():
            raise KeyboardInterrupt
        if stage != Stage.TRAIN:
            assert int(targets.max()) < len(COUNTS)  # what the script's error rate looks at next
        return loss

    def on_stage_end(self, stage, stage_loss, epoch=None):
        if stage == Stage.VALID and self.checkpointer is not None:
            self.checkpointer.save_and_keep_only(meta={"epoch": epoch})


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path)


def write_corpus(folder):
    """train.csv, dev.csv and label_encoder.txt as the script writes them; a row's seed makes its features."""
    rows = [(f"{who}-{i}", who) for who, n in COUNTS.items() for i in range(n)]
    for name, part in (("train", rows), ("dev", [("anna-90", "anna"), ("emil-91", "emil")])):
        lines = [f"{identity},3.0,{seed},{who}" for seed, (identity, who) in enumerate(part)]
        (folder / f"{name}.csv").write_text("\n".join(["ID,duration,seed,spk_id", *lines]) + "\n")
    encoder = CategoricalEncoder()
    encoder.update_from_iterable(NAMES)
    encoder.save(folder / "label_encoder.txt")
    return folder


def datasets(corpus):
    sets = [DynamicItemDataset.from_csv(corpus / name) for name in ("train.csv", "dev.csv")]
    encoder = CategoricalEncoder()
    encoder.load(corpus / "label_encoder.txt")
    encoder.ignore_len()

    @takes("seed", "spk_id")
    @provides("sig", "spk_id_encoded")
    def item(seed, spk_id):
        centre = torch.randn(8, generator=torch.Generator().manual_seed(1000 + NAMES.index(spk_id)))
        yield centre + 0.5 * torch.randn(8, generator=torch.Generator().manual_seed(int(seed)))
        yield encoder.encode_sequence_torch([spk_id])

    add_dynamic_item(sets, item)
    set_output_keys(sets, ["id", "sig", "spk_id_encoded"])
    return sets


def make(corpus, estimator="momentum", sparse=False, batch_norm=False, checkpoints=None, **options):
    """The Brain and its KappaFace, whose tracker's every update is kept in `brain.given`."""
    torch.manual_seed(0)
    model, counter = Embedding(batch_norm), EpochCounter(options.pop("epochs", 3))
    samples = TrainingSamples(corpus / "train.csv", corpus / "label_encoder.txt")
    kappa = KappaFace(model, 6, counter, samples, estimator, momentum=0.8, **options.pop("kappa", {}))
    if sparse:
        classifier = PrototypeClassifier(6, len(COUNTS), vm.q_margin(1.5, 10.0, 0.4))
        cost = PrototypeCost(classifier, kappa)
    else:
        classifier, cost = Classifier(6, out_neurons=len(COUNTS)), MarginCost(vm.arcface(10.0, 0.4), kappa)
    recoverables = {"embedding_model": model, "classifier": classifier, "kappa": kappa, "counter": counter}
    brain = SpeakerBrain(
        {"embedding_model": model, "classifier": classifier, "kappa": kappa},
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        {"compute_cost": cost, "epoch_counter": counter, **options.pop("hparams", {})},
        {"device": "cpu", "noprogressbar": True, **options},
        Checkpointer(checkpoints, recoverables) if checkpoints else None,
    )
    brain.given, brain.kappa = [], kappa
    update = kappa.tracker.update

    def keep(*batch):
        brain.given.append((counter.current, *map(torch.clone, batch)))
        update(*batch)

    kappa.tracker.update = keep
    return brain


def fit(brain, corpus, **loader):
    train, valid = datasets(corpus)
    loader = {"batch_size": 8, "shuffle": True, "collate_fn": brain.kappa.samples, **loader}
    brain.fit(brain.hparams.epoch_counter, train, valid, train_loader_kwargs=loader, valid_loader_kwargs=loader)
    return brain


def expected(given, estimator, epoch):
    """kappa and psi after an epoch, from the reference and what the tracker was given."""
    counts = [COUNTS[name] for name in NAMES]
    if estimator == "memory":
        memory, speaker = {}, {}
        for when, e, labels, numbers in given:
            if when <= epoch:
                reference.remember(memory, e.double().numpy(), numbers.tolist(), 0.3)
                speaker.update(zip(numbers.tolist(), labels.tolist()))
        return reference.kappa_psi(np.array(list(memory.values())), [speaker[i] for i in memory], counts, 0.4, 0.7)
    of_epoch = [(e, labels) for when, e, labels, _ in given if when == epoch]
    vectors, labels = (torch.cat(x) for x in zip(*of_epoch))
    return reference.kappa_psi(vectors.double().numpy(), labels.tolist(), counts, 0.4, 0.7)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("estimator", ["momentum", "memory"])
def test_follows_the_scripts_training(corpus, estimator, workers):
    """Every training sample is seen once per epoch under its own number and speaker, and psi is the reference's."""
    brain = fit(make(corpus, estimator), corpus, num_workers=workers)
    numbers = {f"{who}-{i}": k for k, (who, i) in enumerate((who, i) for who, n in COUNTS.items() for i in range(n))}
    speaker_of = {k: NAMES.index(name.split("-")[0]) for name, k in numbers.items()}
    for epoch in (1, 2, 3):
        seen = [(int(k), int(y)) for when, _, labels, ks in brain.given if when == epoch for k, y in zip(ks, labels)]
        assert sorted(seen) == sorted(speaker_of.items())
    tracker = brain.kappa.tracker
    kappa, psi = expected(brain.given, estimator, 3)
    np.testing.assert_allclose(tracker.kappa, kappa, rtol=1e-4)
    np.testing.assert_allclose(tracker.psi, psi, atol=1e-5)
    assert int(tracker.epoch) == 3
    assert brain.hparams.compute_cost.loss.margin.psi is tracker.psi
    assert len(set(tracker.psi.tolist())) > 3


@pytest.mark.parametrize("estimator", ["momentum", "memory"])
def test_augmented_copies_keep_their_sample_and_are_all_counted(corpus, estimator):
    altered = [torch.nn.Dropout(0.3), torch.nn.Hardtanh()]
    augment = Augmenter(parallel_augment=True, concat_original=True, min_augmentations=2, max_augmentations=2,
                        augmentations=altered, shuffle_augmentations=True)  # fmt: skip
    brain = fit(make(corpus, estimator, hparams={"wav_augment": augment}, epochs=2), corpus)
    numbers = torch.cat([numbers for when, *_, numbers in brain.given if when == 2])
    assert numbers.bincount().tolist() == [3] * sum(COUNTS.values())
    kappa, psi = expected(brain.given, estimator, 2)
    np.testing.assert_allclose(brain.kappa.tracker.kappa, kappa, rtol=1e-4)
    np.testing.assert_allclose(brain.kappa.tracker.psi, psi, atol=1e-5)


def test_the_momentum_encoder_is_the_formulas(corpus):
    """For a network with BatchNorm: the tracker gets the copy's embeddings of the same features."""
    brain = make(corpus, batch_norm=True, epochs=1)
    model = brain.modules.embedding_model
    slow, inputs = None, []

    def look(module, arguments):
        if module.training:
            inputs.append((copy.deepcopy(module.state_dict()), arguments[0]))

    model.register_forward_pre_hook(look)
    fit(brain, corpus)
    for (before, features), (_, given, *_) in zip(inputs, brain.given):
        after = Embedding(True)
        after.load_state_dict(before)
        after.train()(features)  # the forward pass moves BatchNorm's statistics before the encoder takes them in
        state = after.state_dict()
        if slow is None:
            slow = state
        slow = {k: 0.8 * slow[k] + 0.2 * v if v.is_floating_point() else v for k, v in state.items()}
        after.load_state_dict(slow)
        torch.testing.assert_close(given, after.eval()(features).squeeze(1).detach(), atol=1e-5, rtol=1e-4)
    assert len(inputs) == 3


def test_the_sparse_head_takes_the_same_margins(corpus):
    brain = fit(make(corpus, "memory", sparse=True), corpus)
    _, psi = expected(brain.given, "memory", 3)
    np.testing.assert_allclose(brain.modules.classifier.loss.margin.psi, psi, atol=1e-5)


def test_the_sparse_heads_checkpoint_opens(corpus, tmp_path):
    """psi is in the classifier's state, even if the loss had no psi before."""
    whole = fit(make(corpus, "memory", sparse=True), corpus)
    fit(make(corpus, "memory", sparse=True, checkpoints=tmp_path / "save", epochs=2), corpus)
    resumed = fit(make(corpus, "memory", sparse=True, checkpoints=tmp_path / "save"), corpus)
    assert len(resumed.given) == 3
    for brain in (whole, resumed):
        assert brain.modules.classifier.loss.margin.psi is brain.kappa.tracker.psi
    assert torch.equal(resumed.modules.classifier.weight, whole.modules.classifier.weight)
    assert torch.equal(resumed.kappa.tracker.psi, whole.kappa.tracker.psi)


def test_the_momentum_encoder_moves_with_the_weights(corpus):
    """It moves once for all the batches whose gradients are accumulated."""
    brain, slow = make(corpus, epochs=2, grad_accumulation_factor=3), []
    on_batch = brain.on_fit_batch_end
    brain.on_fit_batch_end = lambda *a: (on_batch(*a), slow.append(brain.kappa.encoder.encoder.linear.weight.clone()))
    fit(brain, corpus)  # of three batches each
    assert [not torch.equal(a, b) for a, b in itertools.pairwise(slow)] == [False, False, True, False, False]


def test_a_margin_of_one_trains_as_without(corpus):
    """Through the warm-up psi is 1: the tracking itself changes no number of the training."""
    weights = []
    for tracked in (True, False):
        brain = make(corpus, kappa={"warmup_epochs": 9}, batch_norm=True)
        if not tracked:
            brain.hparams.compute_cost = MarginCost(vm.arcface(10.0, 0.4))
        fit(brain, corpus, **({} if tracked else {"collate_fn": PaddedBatch}))
        weights.append([p.detach().clone() for p in brain.modules.classifier.parameters()])
    assert all(map(torch.equal, *weights))


@pytest.mark.parametrize("estimator", ["momentum", "memory"])
@pytest.mark.parametrize(
    ("stop_at", "left", "options"),
    [(4, 6, {}), (5, 5, {"ckpt_interval_steps": 1}), (7, 3, {"ckpt_interval_steps": 1})],
    ids=["after an epoch", "in its middle", "between its last step and the validation"],
)
def test_a_resumed_run_equals_an_uninterrupted_one(corpus, tmp_path, estimator, stop_at, left, options):
    whole = fit(make(corpus, estimator, batch_norm=True, checkpoints=tmp_path / "whole"), corpus)
    steps = iter(range(99))
    interrupted = make(corpus, estimator, batch_norm=True, checkpoints=tmp_path / "resumed",
                       hparams={"interrupt": lambda: next(steps) == stop_at}, **options)  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        fit(interrupted, corpus)
    resumed = fit(make(corpus, estimator, batch_norm=True, checkpoints=tmp_path / "resumed"), corpus)
    assert len(resumed.given) == left
    for name in ("embedding_model", "classifier", "kappa"):
        ours, theirs = resumed.modules[name].state_dict(), whole.modules[name].state_dict()
        assert ours.pop("_extra_state", None) == theirs.pop("_extra_state", None)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items() if isinstance(value, torch.Tensor))
    assert set(resumed.modules.embedding_model.state_dict()) == set(Embedding(True).state_dict())


def _on_rank(rank, ranks, corpus, estimator):
    if ranks > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))
    brain = make(corpus, estimator, distributed_launch=ranks > 1, distributed_backend="gloo")
    brain.on_fit_start()
    train, _ = datasets(corpus)
    brain.modules.train()
    for epoch in brain.hparams.epoch_counter:
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(epoch))
        for indices in order[:18].split(6):
            part = indices.chunk(ranks)[rank]
            brain.fit_batch(brain.kappa.samples([train[int(i)] for i in part]))
    brain.modules.eval()
    brain.evaluate_batch(brain.kappa.samples([train[0]]), Stage.VALID)
    return brain.kappa.state_dict(), [p.detach() for p in brain.modules.classifier.parameters()]


@pytest.mark.parametrize("estimator", ["momentum", "memory"])
def test_two_processes_track_as_one(corpus, estimator):
    """Each process holds the whole state, so that the checkpoint of the first one is complete."""
    ((expected, weights),) = on_ranks(1, _on_rank, 1, corpus, estimator)
    for state, again in on_ranks(2, _on_rank, 2, corpus, estimator):
        assert state.pop("_extra_state") == expected["_extra_state"]
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(value, expected[name], atol=1e-4, rtol=1e-4, msg=name)
        torch.testing.assert_close(again, weights, atol=1e-5, rtol=1e-4)


def test_the_log_shows_kappa_and_margin(corpus):
    lines = []

    class Logger:
        def log_stats(self, *stats, **more):
            lines.append((*stats, more["valid_stats"]))

    brain = fit(make(corpus), corpus)
    KappaLogger(Logger(), brain.kappa).log_stats({"epoch": 1}, {"loss": 2.0}, valid_stats={"loss": 3.0})
    _, train, valid, *_ = lines[0]
    tracker = brain.kappa.tracker
    assert train == {
        "loss": 2.0,
        "kappa mean": float(tracker.kappa.mean()), "kappa min": float(tracker.kappa.min()),
        "kappa max": float(tracker.kappa.max()), "margin mean": float((0.4 * tracker.psi).mean()),
        "margin min": float((0.4 * tracker.psi).min()), "margin max": float((0.4 * tracker.psi).max()),
    }  # fmt: skip
    assert valid == {"loss": 3.0}


def test_mistakes_are_named(corpus, tmp_path):
    for options, message in (
        ({"estimator": "both"}, "estimator is 'both'"),
        ({"kappa": {"temperature": 2.0}}, "temperature is 2.0"),
        ({"kappa": {"memory_dtype": "half16"}}, "memory_dtype is 'half16'"),
    ):
        with pytest.raises(ValueError, match=message):
            make(corpus, **options)
    with pytest.raises(ValueError, match="needs `collate_fn: !ref <training_samples>`"):
        fit(make(corpus, "memory"), corpus, collate_fn=PaddedBatch)
    fit(make(corpus, "momentum", epochs=1), corpus, collate_fn=PaddedBatch)  # which needs no numbers
    brain = make(corpus)
    with pytest.raises(RuntimeError, match="give it the one that the recipe trains"):
        brain.kappa.observe(torch.zeros(2, 1, dtype=torch.long), 5, vm.ArcMargin(0.4))
    brain = make(corpus)
    brain.kappa.epoch_counter = EpochCounter(3)
    with pytest.raises(RuntimeError, match="epoch_counter counts no epoch"):
        fit(brain, corpus)
    with pytest.raises(ValueError, match="has 5 speakers, the classifier has 7 classes: set out_n_neurons to 5"):
        brain.kappa.observe(torch.zeros(2, 1, dtype=torch.long), 7, vm.ArcMargin(0.4))
    empty = tmp_path / "empty"
    empty.mkdir()
    model = Embedding(False)
    kappa = KappaFace(model, 6, EpochCounter(1), TrainingSamples(empty / "train.csv", corpus / "label_encoder.txt"))
    with pytest.raises(ValueError, match=re.escape(f"{empty / 'train.csv'} does not exist")):
        kappa.prepare()


def test_another_training_set_is_refused(corpus, tmp_path):
    state = fit(make(corpus, epochs=1), corpus).kappa.state_dict()
    other = tmp_path / "other"
    other.mkdir()
    write_corpus(other)
    make(other).kappa.load_state_dict(state)  # the same again
    text = (other / "label_encoder.txt").read_text()
    (other / "label_encoder.txt").write_text(text.replace("cleo", "x").replace("dora", "cleo").replace("'x'", "'dora'"))
    with pytest.raises(ValueError, match=r"belongs to other speakers or samples than .*, or to another order"):
        make(other).kappa.load_state_dict(state)
    (other / "label_encoder.txt").write_text(text)
    rows = (other / "train.csv").read_text().splitlines()
    (other / "train.csv").write_text("\n".join([rows[0], *rows[:0:-1]]) + "\n")
    with pytest.raises(ValueError, match=r"belongs to other speakers or samples than .*, or to another order"):
        make(other).kappa.load_state_dict(state)
    (other / "train.csv").write_text("\n".join([*rows, rows[1]]) + "\n")
    with pytest.raises(ValueError, match="has an ID twice"):
        make(other)
    (other / "train.csv").write_text("\n".join([*rows, "zoe-1,3.0,9,zoe"]) + "\n")
    with pytest.raises(ValueError, match="has the speaker 'zoe'"):
        make(other)
    (other / "train.csv").write_text("\n".join(row for row in rows if "cleo" not in row) + "\n")
    with pytest.raises(ValueError, match=r"label_encoder.txt has the speaker 'cleo', .*train.csv has not"):
        make(other)


def test_resuming_without_its_state_or_with_another_estimator(corpus, tmp_path, caplog):
    fit(make(corpus, checkpoints=tmp_path / "run", epochs=1), corpus)
    with pytest.raises(ValueError, match=r"KappaFace.estimator is momentum there and memory here"):
        make(corpus, "memory", checkpoints=tmp_path / "run")
    with pytest.raises(ValueError, match="has the estimator 'momentum', this one 'memory'"):
        make(corpus, "memory").kappa.load_state_dict(make(corpus).kappa.state_dict())
    resumed = make(corpus, checkpoints=tmp_path / "run", epochs=2)
    del resumed.checkpointer.recoverables["kappa"]
    fit(resumed, corpus)
    assert "KappaFace begins in epoch 2" in caplog.text
