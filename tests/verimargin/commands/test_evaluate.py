"""With a training run of no toolkit: samples are (identity, number), and their embeddings are drawn."""

import json
from itertools import combinations
from zlib import crc32

import numpy as np
import pytest
import torch
from small_trials import run
from verimargin.commands import evaluate as module
from verimargin.commands.evaluate import evaluate
from verimargin.commands.score import score
from verimargin.commands.training_run import ListedSet, TrainingSet
from verimargin.files.embeddings import Embeddings, read_embeddings, write_embeddings
from verimargin.files.whole import whole_folder

SIZE, TRAINED, TESTED, EACH = 8, 16, 6, 4
TRAINING = [(f"t{n}", m) for n in range(TRAINED) for m in range(EACH)]
TESTS = [(f"p{n}", m) for n in range(TESTED) for m in range(EACH)]


def vectors(samples):
    def drawn(name, scale):
        return scale * torch.randn(SIZE, generator=torch.Generator().manual_seed(crc32(name.encode())))

    return torch.stack([drawn(who, 1.0) + drawn(f"{who}/{n} of them", 0.5) for who, n in samples])


class Run:
    title, encoder, no_prototypes = "a run", "abc", "it kept none"

    def __init__(self, folder):
        self.folder, self.prototypes, self.embedded = folder, [], []
        self.known, self.tested, self.has_training = [], TESTS, True

    def _embed(self, samples, out):
        self.embedded.append(len(samples))
        ids, labels = [f"{who}/{n}" for who, n in samples], [who for who, _ in samples]
        write_embeddings(out, Embeddings(ids, vectors(samples), labels, self.encoder))

    def tests(self, trials, data):
        ids = [f"{who}/{n}" for who, n in self.tested]
        text = trials.read_text()[5:] if trials.suffix == ".bin" else ""
        embed = lambda out, device: self._embed(self.tested, out)  # noqa: E731
        return ListedSet(ids, embed, "tests", {who for who, _ in self.tested}, text)

    def training(self, folder):
        if not self.has_training:
            raise FileNotFoundError(f"{folder or 'the training set'} does not exist")
        embed = lambda chosen, out, device: self._embed([TRAINING[n] for n in chosen], out)  # noqa: E731
        return TrainingSet(self.folder, np.array([who for who, _ in TRAINING]), embed, "training")

    def class_names(self, training):
        return self.known


@pytest.fixture
def trained(tmp_path, monkeypatch):
    found = Run(tmp_path)
    monkeypatch.setattr(module, "open_run", lambda checkpoint, network: found)
    monkeypatch.setattr(module, "score", light_score)
    write_list(tmp_path / "list.txt", TESTS)
    return found


def light_score(embeddings, trials, out, **options):
    """In the place of `score`, whose figures take seconds: the names of the methods that it would compare."""
    named = {"cohort": "s-norm", "anchors": "IDA-R", "regressor": "IDA-L"}
    with whole_folder(out) as folder:
        for name in ("table.csv", "report.md"):
            lines = ["method", "cosine", *(title for option, title in named.items() if option in options)]
            (folder / name).write_text("\n".join(lines) + "\n")


def write_list(path, samples):
    pairs = [f"{int(a[0] == b[0])} {a[0]}/{a[1]} {b[0]}/{b[1]}" for a, b in combinations(samples, 2)]
    path.write_text("\n".join(pairs) + "\n")


def keep_prototypes(trained, number=TRAINED):
    torch.save({"weight": vectors([(f"t{n}", 9) for n in range(number)])}, trained.folder / "classifier.ckpt")
    trained.prototypes = [trained.folder / "classifier.ckpt"]
    trained.known = [f"t{n}" for n in range(TRAINED)]


def do(trained, *options, trials="list.txt"):
    return run(evaluate, "run", trained.folder / "out", "--trials", trained.folder / trials, "--no-intervals", *options)


def table(folder):
    return (folder / "table.csv").read_text()


def test_all_methods_as_the_commands_give_them(trained, monkeypatch):
    monkeypatch.setattr(module, "score", score)
    keep_prototypes(trained)
    result = do(trained)
    assert trained.embedded == [len(TESTS), len(TRAINING)]
    out = trained.folder / "out"
    cohort, anchors = read_embeddings(out / "train.npz"), read_embeddings(out / "anchors.npz")
    torch.testing.assert_close(cohort.vectors, vectors(TRAINING))
    assert anchors.ids == trained.known
    torch.testing.assert_close(anchors.vectors, vectors([(f"t{n}", 9) for n in range(TRAINED)]))
    assert anchors.encoder == "abc"
    files = {"cohort": out / "train.npz", "anchors": out / "anchors.npz", "regressor": out / "regressor.pt"}
    score(out / "test.npz", trained.folder / "list.txt", trained.folder / "by_hand", intervals=False, **files)
    assert table(out / "report") == table(trained.folder / "by_hand")
    assert {line.split(",")[0] for line in table(out / "report").splitlines()[1:]} == {
        "cosine", "s-norm", "adaptive s-norm (64)", '"IDA-R (k 10', '"IDA-L (k 10',
    }  # fmt: skip
    assert f"verimargin score {out / 'test.npz'}" in result.output.replace("\n", "")


def test_a_second_run_makes_only_what_has_changed(trained):
    do(trained)
    trained.embedded.clear()
    before = table(trained.folder / "out" / "report")
    again = do(trained).output
    assert trained.embedded == []
    assert again.count(": kept, ") == 5
    assert table(trained.folder / "out" / "report") == before
    changed = do(trained, "--per-identity", "2").output
    assert trained.embedded == [2 * TRAINED]
    assert changed.count("made again, as its input has changed") == 4
    assert "test.npz: kept" in changed
    trained.embedded.clear()
    assert do(trained, "--per-identity", "2", "--tau", "2").output.count("made again") == 2  # the regressor, the report
    write_list(trained.folder / "list.txt", TESTS[:-1])
    trained.tested = TESTS[:-1]
    assert "train.npz: kept" in do(trained, "--per-identity", "2", "--tau", "2").output
    assert trained.embedded == [len(TESTS) - 1]


def test_an_interrupted_run_is_continued(trained, monkeypatch):
    with monkeypatch.context() as context:
        context.setattr(module, "train_ssr", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            do(trained)
    assert not (trained.folder / "out" / "report").exists()
    trained.embedded.clear()
    do(trained)
    assert trained.embedded == []
    assert (trained.folder / "out" / "report" / "report.md").is_file()


def test_without_prototypes_the_anchors_are_training_samples(trained):
    text = do(trained).output
    anchors = read_embeddings(trained.folder / "out" / "anchors.npz")
    assert sorted(anchors.ids) == sorted({who for who, _ in TRAINING})
    training = {row.tobytes() for row in vectors(TRAINING).numpy()}
    assert all(row.tobytes() in training for row in anchors.vectors.numpy())
    assert "The anchors are training samples, one of each identity, and no prototypes: it kept none." in text


def test_prototypes_that_cannot_be_read_are_not_taken(trained):
    keep_prototypes(trained, number=TRAINED - 1)
    text = do(trained).output.replace("\n", " ")
    assert "and no prototypes: the training set has 16 identities, but the head 15 prototypes" in text
    torch.save({"a": torch.zeros(2, 3), "b": torch.zeros(2, 3)}, trained.prototypes[0])
    assert "holds the matrices ['a', 'b'] and no head's" in do(trained).output.replace("\n", " ")


def test_classes_without_a_sample_are_known_by_number(trained):
    keep_prototypes(trained, number=TRAINED + 2)
    do(trained)
    assert read_embeddings(trained.folder / "out" / "anchors.npz").ids == [*trained.known, "16", "17"]


def test_without_the_training_set(trained):
    trained.has_training = False
    text = do(trained).output.replace("\n", " ")
    assert "No s-norm and no IDA-L, which need training samples: the training set does not exist" in text
    assert "No IDA, which needs anchors: there is no training set, and there are no prototypes: it kept none." in text
    assert table(trained.folder / "out" / "report").split() == ["method", "cosine"]
    keep_prototypes(trained)
    do(trained)
    assert table(trained.folder / "out" / "report").split() == ["method", "cosine", "IDA-R"]
    with pytest.raises(ValueError, match="x/y does not exist"):
        do(trained, "--train", "x/y")


def test_identities_of_the_trials_that_were_trained_on_are_left_out(trained):
    keep_prototypes(trained)
    trained.tested = [*TESTS, ("t3", 7), ("t3", 8), ("t5", 7)]
    write_list(trained.folder / "list.txt", trained.tested)
    text = do(trained).output.replace("\n", " ")
    assert "Identities of the trials (2, such as t3) were trained on" in text
    for name in ("train.npz", "anchors.npz"):
        found = read_embeddings(trained.folder / "out" / name)
        assert not {"t3", "t5"} & set(found.labels or found.ids)
        assert "t4" in (found.labels or found.ids)
    trained.known = sorted({who for who, _ in TRAINING})
    trained.tested = [(who, n + 50) for who, n in TRAINING]
    write_list(trained.folder / "list.txt", trained.tested)
    with pytest.raises(ValueError, match="the trials are about all training identities"):
        do(trained)


def test_some_samples_of_some_identities(trained):
    do(trained, "--per-identity", "3", "--identities", "12")
    labels = read_embeddings(trained.folder / "out" / "train.npz").labels
    assert sorted(np.unique(labels, return_counts=True)[1]) == [3] * 12
    do(trained, "--per-identity", "3", "--identities", "12", "--seed", "1")
    assert set(read_embeddings(trained.folder / "out" / "train.npz").labels) != set(labels)


def test_a_list_that_is_made_of_another_file(trained):
    text = (trained.folder / "list.txt").read_text()
    (trained.folder / "pairs.bin").write_text("pairs" + text)
    do(trained, trials="pairs.bin")
    assert (trained.folder / "out" / "trials.txt").read_text() == text
    do(trained)
    assert not (trained.folder / "out" / "trials.txt").exists()


def test_a_bad_list_is_refused_before_anything_is_embedded(trained):
    (trained.folder / "list.txt").write_text("1 p0/0 p0/1\n0 p0/0 q/1\n")
    with pytest.raises(ValueError, match="names q/1, for which there is no embedding"):
        do(trained)
    with pytest.raises(ValueError, match=r"none\.txt does not exist"):
        do(trained, trials="none.txt")
    assert trained.embedded == []


def test_a_folder_of_another_checkpoint_is_refused(trained):
    do(trained)
    trained.encoder = "xyz"
    with pytest.raises(ValueError, match=r"holds the evaluation of other weights \(abc, these are xyz\)"):
        do(trained)
    record = json.loads((trained.folder / "out" / "evaluate.json").read_text())
    assert set(record["files"]) == {"test.npz", "train.npz", "anchors.npz", "regressor.pt", "report"}
