"""KappaFace by config.kappa, in a small script with upstream's calls, against float64 references."""

import itertools
import logging

import numpy as np
import pytest
import reference
import small_train_v2 as small
import torch
import torch.distributed as dist
import verimargin as vm
from distributed import on_ranks
from verimargin_insightface import register
from verimargin_insightface.kappa import class_counts
from verimargin_insightface.recordio import IRHeader, RecordError, RecordReader, RecordWriter, image_keys, pack

CASES = {  # config.kappa, sample_rate
    "momentum": ({"estimator": "momentum", "momentum": 0.6}, 1.0),
    "memory": ({"estimator": "memory", "memory_momentum": 0.4, "temperature": 0.8, "gamma": 0.5}, 1.0),
    "memory, sampled": ({"estimator": "memory"}, 0.5),
    "momentum, sampled": ({"momentum": 0.6}, 0.5),
}


@pytest.fixture
def one_rank(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def script(one_rank):
    with small.as_train_v2() as module:
        yield module


def run_cases(rank, folder):
    with small.as_train_v2() as script:
        return {name: follow(script, folder, *case) for name, case in CASES.items()}


def follow(script, folder, kappa, sample_rate):
    """Three epochs: what a reference needs to know of them, and the end of a run that was resumed after the second."""
    config = small.configuration(folder, kappa, vm.MarginLoss(small.Margins(0.8), scale=8.0), sample_rate=sample_rate)
    run, steps = small.prepare(script, config), []
    embed = small.slow_embeddings(kappa.get("momentum", 0.0))

    def look(images, labels, embeddings, loss):
        weight = run.head.weight.detach().clone()
        margins = config.loss.margin.given[-1]
        steps.append((labels, embeddings, embed(run.backbone, images), loss, weight, margins))

    losses = small.train(run, config, [0, 1], look)
    saved, psi = small.checkpoint(run), [run.head.kappa.tracker.psi.clone()]
    losses += small.train(run, config, [2], look)
    tracker = run.head.kappa.tracker
    result = {
        "steps": steps,
        "ids": [small.numbered_batches(epoch) for epoch in range(3)],
        "psi": [*psi, tracker.psi],
    }
    result |= {"kappa": tracker.kappa, "losses": losses, "whole": small.checkpoint(run)}
    again = small.prepare(script, config, seed=9)
    small.restore(again, saved)
    return result | {
        "resumed losses": small.train(again, config, [2]),
        "resumed": small.checkpoint(again),
    }


@pytest.fixture(scope="module", params=[1, 2, 4])
def ranks(request, tmp_path_factory) -> list[dict]:
    """The results of each rank, for every case."""
    folder = tmp_path_factory.mktemp("faces")
    (folder / "a").mkdir()
    return on_ranks(request.param, run_cases, folder)


def reference_psi(by_rank, kappa):
    """kappa and psi after each epoch from the vectors of all ranks, in float64."""
    length, memory, result = len(by_rank[0]["steps"]) // 3, {}, []
    a = kappa.get("memory_momentum", 0.3)
    for epoch in range(3):
        vectors, labels = [], []
        for k in range(length):
            steps = [rank["steps"][epoch * length + k] for rank in by_rank]
            fast, slow = (torch.cat([step[i] for step in steps]).double().numpy() for i in (1, 2))
            ids = [i for rank in by_rank for i in rank["ids"][epoch][k]]
            batch_labels = torch.cat([step[0] for step in steps]).tolist()
            assert batch_labels == small.LABELS[ids].tolist()
            reference.remember(memory, fast, ids, a)
            vectors.append(slow)
            labels += batch_labels
        vectors = np.concatenate(vectors)
        if kappa.get("estimator") == "memory":
            vectors, labels = np.array(list(memory.values())), small.LABELS[list(memory)].tolist()
        constants = kappa.get("temperature", 0.4), kappa.get("gamma", 0.7)
        result.append(reference.kappa_psi(vectors, labels, small.COUNTS, *constants))
    return result


@pytest.mark.parametrize("case", CASES)
def test_psi_equals_the_reference(ranks, case):
    by_rank, (settings, _) = [rank[case] for rank in ranks], CASES[case]
    expected = reference_psi(by_rank, settings)
    for rank in by_rank:
        for psi, (_, wanted) in zip(rank["psi"], expected[1:]):
            np.testing.assert_allclose(psi.double(), wanted, atol=1e-5, rtol=0)
        np.testing.assert_allclose(rank["kappa"].double(), expected[2][0], rtol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_every_label_gets_its_margin(ranks, case):
    """psi is found by the global class id on every rank, sampled or not; without sampling the loss is compared."""
    by_rank, (settings, rate) = [rank[case] for rank in ranks], CASES[case]
    psi = [np.ones(6), *(psi for _, psi in reference_psi(by_rank, settings))]
    length = len(by_rank[0]["steps"]) // 3
    for number in range(3 * length):
        steps = [rank["steps"][number] for rank in by_rank]
        labels, embeddings, weight = (torch.cat([step[i] for step in steps]).double() for i in (0, 1, 4))
        labels, wanted = labels.long().tolist(), 0.8 * psi[number // length]
        for *_, (given, margins) in steps:
            np.testing.assert_allclose(margins.double(), wanted[given], atol=1e-5, rtol=0)
        if rate == 1.0:
            losses = [
                reference.head_loss(e[None], weight.numpy(), [y], "ArcMargin", wanted[y], 1.0, 8.0)
                for e, y in zip(embeddings.numpy(), labels)
            ]
            assert float(steps[0][3]) == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_resuming_is_exact(ranks, case):
    for rank in (rank[case] for rank in ranks):
        assert rank["resumed losses"] == rank["losses"][-len(rank["resumed losses"]) :]
        for part in ("backbone", "head"):
            assert rank["whole"][part].keys() == rank["resumed"][part].keys()
            assert all(torch.equal(rank["whole"][part][key], rank["resumed"][part][key]) for key in rank["whole"][part])


@pytest.mark.parametrize("kappa", [{"estimator": "momentum"}, {"estimator": "memory"}], ids=["momentum", "memory"])
def test_while_psi_is_one_nothing_changes(script, tmp_path, kappa):
    """The images, their order and the random numbers are the same, and so are the losses, bit for bit."""
    (tmp_path / "a").mkdir()
    plain = small.configuration(tmp_path, None)
    expected = small.train(small.prepare(script, plain), plain, range(2))
    config = small.configuration(tmp_path, {**kappa, "warmup_epochs": 9})
    run = small.prepare(script, config)
    assert small.train(run, config, range(2)) == expected
    assert run.head.kappa.tracker.kappa.gt(0).all()


@pytest.fixture
def trained(script, tmp_path, request):
    """A run of two epochs with the test's config.kappa."""
    (tmp_path / "a").mkdir()
    config = small.configuration(tmp_path, getattr(request, "param", {"momentum": 0.6}))
    run = small.prepare(script, config)
    small.train(run, config, range(2))
    return run, config


def test_the_optimizer_trains_the_prototypes_alone(trained):
    run, _ = trained
    assert [name for name, _ in run.head.named_parameters()] == ["weight"]
    assert [len(group["params"]) for group in run.optimizer.param_groups] == [7, 1]
    assert list(run.backbone.state_dict()) == list(small.get_model("mbf").state_dict())
    own = [key for key in run.head.state_dict() if not key.startswith("kappa.encoder.")]
    names = ("psi", "kappa", "epoch", "class_counts", "skipped", "estimator.sums", "estimator.counts")
    assert own == ["weight", "loss.margin.psi", "kappa.fingerprint", *(f"kappa.tracker.{name}" for name in names)]


def test_psi_stays_the_trackers_when_the_head_moves(trained):
    head = trained[0].head.double()
    assert head.loss.margin.psi is head.kappa.tracker.psi
    head.load_state_dict(head.state_dict(), assign=True)
    assert head.loss.margin.psi is head.kappa.tracker.psi


def test_it_logs_and_writes_scalars(script, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    (tmp_path / "a").mkdir()
    config = small.configuration(tmp_path, {"estimator": "memory"})
    run = small.prepare(script, config)
    small.train(run, config, range(2))
    tracker, scalars = run.head.kappa.tracker, {(tag, step): value for tag, value, step in run.writer.scalars}
    assert len(scalars) == 12
    assert scalars["kappa/max", 2] == float(tracker.kappa.max())
    assert scalars["margin/min", 2] == pytest.approx(0.8 * float(tracker.psi.min()))
    assert scalars["margin/mean", 2] == pytest.approx(0.8 * float(tracker.psi.mean()))
    assert "KappaFace after epoch 2: kappa mean " in caplog.text


def test_the_momentum_encoder_moves_with_the_weights(script, tmp_path):
    """It moves once for all the steps whose gradients are accumulated, even if the first layer is frozen."""
    (tmp_path / "a").mkdir()
    config, slow = small.configuration(tmp_path, {"momentum": 0.6}, gradient_acc=3), []
    run = small.prepare(script, config)
    run.backbone[1].requires_grad_(False)
    small.train(run, config, [0], lambda *_: slow.append(run.head.kappa.encoder.encoder[5].weight.clone()))
    moved = [not torch.equal(a, b) for a, b in itertools.pairwise(slow)]
    assert moved == [False, False, True, False, False, True, False, False]


def header_set(folder, labels, several=True):
    """A RecordIO set without images, with the class-range records if `several`."""
    folder.mkdir()
    with RecordWriter(folder / "train.idx", folder / "train.rec") as writer:
        if several:
            writer.write_idx(0, pack(IRHeader(2, [len(labels) + 1.0, len(labels) + 3.0], 0, 0), b""))
        for key, label in enumerate(labels, int(several)):
            label = np.array([label, 77.0]) if key % 2 else float(label)
            writer.write_idx(key, pack(IRHeader(0, label, key, 0), b"an image"))
        for key in range(len(labels) + 1, len(labels) + 3) if several else ():
            writer.write_idx(key, pack(IRHeader(2, [1.0, 2.0], key, 0), b""))


@pytest.mark.parametrize("several", [True, False])
def test_labels_are_read_without_images(tmp_path, several, monkeypatch):
    monkeypatch.setattr("verimargin_insightface.recordio.BLOCK", 5)
    header_set(tmp_path / "rec", small.LABELS.tolist() if several else [3.0, *small.LABELS.tolist()], several)
    with RecordReader(tmp_path / "rec" / "train.idx", tmp_path / "rec" / "train.rec") as records:
        labels = records.labels(image_keys(records) if several else image_keys(records)[1:])
    assert labels.dtype == np.int64
    assert labels.tolist() == small.LABELS.tolist()


def test_damaged_labels_are_named(tmp_path):
    header_set(tmp_path / "rec", [0, 1.5, 2])
    paths = tmp_path / "rec" / "train.idx", tmp_path / "rec" / "train.rec"
    with RecordReader(*paths) as records, pytest.raises(RecordError, match=r"record 2 of .* has the label 1.5"):
        records.labels(image_keys(records))
    paths[1].write_bytes(paths[1].read_bytes()[:60])
    with RecordReader(*paths) as records, pytest.raises(RecordError, match=r"record 2 of .* is truncated"):
        records.labels(image_keys(records))


def test_dali_works_with_momentum_alone(script, tmp_path):
    header_set(tmp_path / "rec", small.LABELS.tolist())
    config = small.configuration(tmp_path / "rec", {"momentum": 0.6}, dali=True)
    run = small.prepare(script, config)
    small.train(run, config, [0])
    assert run.head.kappa.tracker.class_counts.tolist() == small.COUNTS
    assert run.head.kappa.tracker.psi.lt(1).all()
    config.kappa = {"estimator": "memory"}
    with pytest.raises(ValueError, match=r'"memory", which has to identify each image, but DALI does not number them'):
        small.prepare(script, config)


def test_counts_that_do_not_match_are_refused():
    labels = np.array([0, 1, 1, 4])
    with pytest.raises(ValueError, match=r"has the label 4, config.num_classes is 4: set it to 5"):
        class_counts(labels, 4)
    with pytest.raises(ValueError, match=r"has the label -1, .*: labels are numbered from 0"):
        class_counts(np.array([0, -1]), 4)
    with pytest.raises(ValueError, match=r"3 of config.num_classes = 6 classes have no image, the first is class 2"):
        class_counts(labels, 6)
    assert class_counts(np.array([0, 1, 1]), 2).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("kappa", "error"),
    [
        ({"estimator": "mean"}, r'estimator is \'mean\': give "momentum" or "memory"'),
        ({"temprature": 0.4}, r"config.kappa has 'temprature': with estimator 'momentum' it may have .*temperature"),
        ({"estimator": "memory", "momentum": 0.9}, r"config.kappa has 'momentum': with estimator 'memory'"),
        ({"memory_dtype": torch.float16}, r"config.kappa has 'memory_dtype': with estimator 'momentum'"),
        ({"estimator": "memory", "memory_dtype": "float16"}, r"memory_dtype 'float16': give .* such as torch.float16"),
        ({"gamma": 1.5}, r"gamma is 1.5: give a number in \[0, 1\]"),
        ({"momentum": 1.0}, r"momentum is 1.0"),
        (True, r"config.kappa is True: give a dict"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_read(script, tmp_path, kappa, error):
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match=error):
        register(small.configuration(tmp_path, kappa))


def test_what_it_cannot_adapt_is_refused(script, tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match=r"no margin to adapt: NoMargin"):
        register(small.configuration(tmp_path, {}, vm.MarginLoss(vm.NoMargin(), scale=8.0)))
    with pytest.raises(
        ValueError, match=r"needs the classes of real data, but config.rec is .synthetic.: give a real set"
    ):
        register(small.configuration("synthetic", {}))
    with pytest.raises(ValueError, match=r"psi of 1 for each class, but nothing changes it: set config.kappa"):
        register(small.configuration(tmp_path, None, vm.kappaface(6)))


@pytest.mark.parametrize(
    ("trained", "kappa", "error"),
    [
        ({"momentum": 0.6}, None, r"had config.kappa and this one has not"),
        ({"momentum": 0.6}, {"estimator": "memory"}, r"had config.kappa with another estimator"),
        ({"estimator": "memory"}, {"momentum": 0.6}, r"had config.kappa with another estimator"),
    ],
    indirect=["trained"],
)
def test_resuming_without_it_is_refused(script, trained, kappa, error):
    config = small.configuration(trained[1].rec, kappa)
    with pytest.raises(RuntimeError, match=error):
        small.prepare(script, config).head.load_state_dict(trained[0].head.state_dict())


def test_it_may_begin_with_a_checkpoint_without_it(script, tmp_path, caplog):
    (tmp_path / "a").mkdir()
    plain = small.configuration(tmp_path, None)
    before = small.prepare(script, plain)
    small.train(before, plain, [0])
    config = small.configuration(tmp_path, {"momentum": 0.6})
    run = small.prepare(script, config)
    small.restore(run, small.checkpoint(before))
    assert "has no KappaFace: it begins now" in caplog.text
    assert torch.equal(run.head.weight, before.head.weight)
    small.train(run, config, [1])
    assert run.head.kappa.tracker.psi.lt(1).all()


@pytest.mark.parametrize("change", [{"classes": list("bacdef")}, {"targets": small.LABELS.flip(0).tolist()}])
def test_another_order_of_the_data_is_refused(script, trained, monkeypatch, change):
    state = trained[0].head.state_dict()
    for name, value in change.items():
        monkeypatch.setattr(small.Images, name, value)
    with pytest.raises(RuntimeError, match=r"labels, or the names or the order of its classes, are not those"):
        small.prepare(script, trained[1]).head.load_state_dict(state)


def test_a_loader_that_shows_no_batches_is_named(script, tmp_path):
    (tmp_path / "a").mkdir()
    run = small.prepare(script, small.configuration(tmp_path, {}))
    with pytest.raises(RuntimeError, match=r"took no batch from get_dataloader"):
        run.head(torch.randn(2, small.SIZE), torch.tensor([0, 1]))


def test_in_evaluation_mode_the_head_takes_nothing_in(script, tmp_path):
    """A validation loss asks the head without a batch of the loader's, and must not move the momentum encoder."""
    (tmp_path / "a").mkdir()
    run = small.prepare(script, small.configuration(tmp_path, {"momentum": 0.6}))
    before = small.checkpoint(run)
    run.head.eval()
    assert torch.isfinite(run.head(torch.randn(3, small.SIZE), torch.tensor([0, 1, 2])))
    after = small.checkpoint(run)
    assert all(torch.equal(after["head"][key], value) for key, value in before["head"].items())
    run.head.train()
    with pytest.raises(RuntimeError, match="took no batch from get_dataloader"):
        run.head(torch.randn(3, small.SIZE), torch.tensor([0, 1, 2]))
