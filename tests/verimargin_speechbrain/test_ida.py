"""IDA through SpeechBrain's own comparison of embeddings."""

import copy
import io
import sys

import numpy as np
import pytest
import reference
import torch
import verimargin as vm
from speechbrain.inference.speaker import SpeakerRecognition
from verimargin.files.embeddings import Embeddings, write_embeddings
from verimargin.files.networks import fingerprint
from verimargin.files.scorers import write_regressor
from verimargin_speechbrain import IDAEmbedding, IDAEmbeddingModel

SIZE, K, TAU = 6, 4, 1.5
similarity = torch.nn.CosineSimilarity(dim=-1, eps=1e-6)  # as in the script and in SpeakerRecognition


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, SIZE)

    def forward(self, features, lengths=None):
        return self.linear(features).mean(1, keepdim=True)


@pytest.fixture
def anchors(tmp_path):
    torch.manual_seed(0)
    vectors = torch.randn(30, SIZE)
    write_embeddings(
        tmp_path / "anchors.npz", Embeddings([str(i) for i in range(30)], vectors, source={"kind": "real"})
    )
    return tmp_path / "anchors.npz", vectors


def expected(x1, x2, anchors, log=False):
    """DAO of embeddings (n, d) row by row, from the formulas."""
    x1, x2, anchors = (np.asarray(x, dtype=np.float64) for x in (x1, x2, anchors))
    densities = (reference.ida_density(x, anchors, K, TAU) for x in (x1, x2))
    scores = [reference.dao(a, b, f1, f2, TAU) for a, b, f1, f2 in zip(x1, x2, *densities)]
    return np.log(scores) if log else np.array(scores)


@pytest.mark.parametrize("log", [False, True])
def test_the_scripts_comparison_gives_dao(anchors, log):
    """What speaker_verification_cosine.py does with its embeddings, trial by trial and with a cohort."""
    path, vectors = anchors
    model = IDAEmbeddingModel(Model(), path, K, TAU, log).eval()
    calls = []
    model.scorer.log_density = lambda f: pytest.fail("the anchors are looked at once more")
    support = model.scorer.support
    model.scorer.support = lambda f: (calls.append(len(f)), support(f))[1]
    kept = {}
    with torch.no_grad():
        batch = model(torch.randn(8, 5, 3), torch.ones(8)).squeeze(1).unsqueeze(1)
        for i in range(8):
            kept[i] = batch[i].detach().clone()
    plain = torch.stack([x.as_subclass(torch.Tensor) for x in kept.values()]).squeeze(1)
    for i, j in ((0, 1), (2, 7), (3, 3)):
        score = similarity(kept[i], kept[j])[0]
        assert type(score) is torch.Tensor
        assert float(score) == pytest.approx(expected(plain[[i]], plain[[j]], vectors, log)[0], rel=1e-5, abs=1e-5)
    cohort = torch.stack(list(kept.values()))
    scores = similarity(kept[2].repeat(cohort.shape[0], 1, 1), cohort)
    np.testing.assert_allclose(scores[:, 0], expected(plain[[2] * 8], plain, vectors, log), rtol=1e-5, atol=1e-5)
    assert calls == [8]  # the anchors are looked at once for each embedding


def test_an_altered_embedding_gets_its_own_density(anchors):
    _, vectors = anchors
    scorer = vm.IDAScorer(vectors, K, TAU)
    rows = torch.randn(4, SIZE)
    x = IDAEmbedding.wrap(rows, scorer, False)
    other = IDAEmbedding.wrap(torch.randn(1, SIZE), scorer, False)
    alterations = {
        "mean": (x.mean(0, keepdim=True), rows.mean(0, keepdim=True)),
        "sum": (x[:1] + x[1:2], rows[:1] + rows[1:2]),
        "squeezed": (x[:1].unsqueeze(0).squeeze(), rows[0]),
        "with a plain one": (torch.cat([x[:1], rows[2:3]])[1:], rows[2:3]),
        "plain": (rows[:1], rows[:1]),
    }
    moved = x.clone()[1:2]
    moved += 1.0
    alterations["in place"] = moved, rows[1:2] + 1.0
    moved = x.clone()
    moved[0] = rows[3]
    alterations["assigned"] = moved[:1], rows[3:4]
    for name, (ours, plain) in alterations.items():
        score = similarity(ours, other)
        want = expected(plain.reshape(1, -1), other.as_subclass(torch.Tensor), vectors)
        np.testing.assert_allclose(score.reshape(1), want, rtol=1e-5, err_msg=name)
    with pytest.raises(ValueError, match="dim is 0"):
        torch.nn.functional.cosine_similarity(x, x, dim=0)


def test_it_is_saved_as_a_plain_tensor_and_copied_whole(anchors):
    x = IDAEmbedding.wrap(torch.randn(2, SIZE), vm.IDAScorer(anchors[1], K, TAU), False)
    assert torch.equal(similarity(copy.deepcopy(x), x), similarity(x, x))
    file = io.BytesIO()
    torch.save({"a": x}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)["a"]
    assert type(loaded) is torch.Tensor
    assert torch.equal(loaded, x.as_subclass(torch.Tensor))
    assert (x.abs().log() < 9).all()
    assert type(x.numpy()) is np.ndarray


def test_verify_batch_and_verify_files_return_dao(anchors, tmp_path):
    path, vectors = anchors
    soundfile = pytest.importorskip("soundfile")
    (tmp_path / "hyperparams.yaml").write_text(f"""
compute_features: !new:speechbrain.lobes.features.Fbank {{n_mels: 8}}
mean_var_norm: !new:speechbrain.processing.features.InputNormalization {{norm_type: sentence, std_norm: False}}
ecapa: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: 8
    channels: [8, 8, 8, 8, 24]
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    attention_channels: 8
    se_channels: 8
    lin_neurons: {SIZE}
embedding_model: !new:verimargin_speechbrain.IDAEmbeddingModel
    model: !ref <ecapa>
    anchors: {path}
    k: {K}
    tau: {TAU}
modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    mean_var_norm_emb: !ref <mean_var_norm>
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables: {{}}
""")
    torch.manual_seed(3)
    recognition = SpeakerRecognition.from_hparams(source=str(tmp_path), savedir=str(tmp_path / "saved"))
    wavs = 0.1 * torch.randn(4, 8000)
    score, _ = recognition.verify_batch(wavs[:2], wavs[2:])
    emb = recognition.encode_batch(wavs).squeeze(1).as_subclass(torch.Tensor)
    np.testing.assert_allclose(score.squeeze(1), expected(emb[:2], emb[2:], vectors), rtol=1e-5)
    for i in range(2):
        soundfile.write(tmp_path / f"{i}.wav", wavs[i].numpy(), 16000)
    score, same = recognition.verify_files(str(tmp_path / "0.wav"), str(tmp_path / "1.wav"))
    np.testing.assert_allclose(score, expected(emb[:1], emb[1:2], vectors), rtol=1e-3)  # 16-bit files
    assert bool(same) == bool(score > 0.25)


def test_mistakes_are_named(anchors, tmp_path):
    path, vectors = anchors
    for k, tau, message in ((31, 1.0, "k is 31, but there are 30 anchors"), (3, 0.0, "tau is 0")):
        with pytest.raises(ValueError, match=message):
            IDAEmbeddingModel(Model(), path, k, tau)
    with pytest.raises(ValueError, match="do not exist"):
        IDAEmbeddingModel(Model(), tmp_path / "none.npz")
    wide = Model()
    wide.linear = torch.nn.Linear(3, SIZE + 1)
    with pytest.raises(ValueError, match="is for embeddings of 6 numbers, the model's have 7"):
        IDAEmbeddingModel(wide, path)(torch.randn(1, 2, 3))
    mine, other = Model(), Model()
    write_embeddings(tmp_path / "mine.npz", Embeddings([*map(str, range(30))], vectors, encoder=fingerprint(mine)))
    IDAEmbeddingModel(mine, tmp_path / "mine.npz")(torch.randn(1, 2, 3))
    with pytest.raises(ValueError, match="was made with the encoder"):
        IDAEmbeddingModel(other, tmp_path / "mine.npz")(torch.randn(1, 2, 3))


def test_a_checkpoint_of_the_model_alone_fills_it(anchors):
    """As a pretrainer does whose loadables still name the recipe's embedding_model."""
    trained, wrapped = Model(), IDAEmbeddingModel(Model(), anchors[0])
    assert not wrapped.load_state_dict(trained.state_dict(), strict=False).missing_keys
    features = torch.randn(2, 2, 3)
    assert torch.equal(wrapped(features).as_subclass(torch.Tensor), trained(features))
    again = IDAEmbeddingModel(Model(), anchors[0])
    again.load_state_dict(wrapped.state_dict())
    assert torch.equal(again(features).as_subclass(torch.Tensor), trained(features))


def test_takes_a_regressor_in_the_anchors_place(anchors, tmp_path):
    model, features = Model(), torch.randn(40, 2, 3)
    embeddings = model(features).detach().squeeze(1)
    regressor = vm.SupportSetRegressor(SIZE, 16, K, TAU)
    regressor.fit(embeddings, vm.IDAScorer(anchors[1], K, TAU).density(embeddings), epochs=3)
    write_regressor(tmp_path / "ssr.pt", regressor, fingerprint(model))
    with torch.no_grad():
        ours = IDAEmbeddingModel(model, tmp_path / "ssr.pt")(features)
    scores = similarity(ours[:9], ours[9:18])[:, 0]
    torch.testing.assert_close(scores, regressor.score(embeddings[:9], embeddings[9:18]))
    with pytest.raises(ValueError, match="was made with the encoder"):
        IDAEmbeddingModel(Model(), tmp_path / "ssr.pt")(features)


def test_the_scripts_score_norm_is_named_once(anchors, caplog, monkeypatch):
    """Stock `score_norm: s-norm` stayed on unnoticed when IDA was put into the recipe."""
    path, vectors = anchors
    monkeypatch.setattr(sys.modules["__main__"], "params", {"score_norm": "s-norm"}, raising=False)
    model = IDAEmbeddingModel(Model(), path, K, TAU).eval()
    with torch.no_grad():
        embeddings = model(torch.randn(7, 5, 3))
        model(torch.randn(7, 5, 3))
    assert caplog.text.count("the recipe has score_norm: s-norm, so IDA's scores are normalised") == 1
    enrol, cohort = embeddings[0], torch.stack([embeddings[n] for n in range(2, 7)])
    scores = similarity(enrol.repeat(5, 1, 1), cohort)  # as the script does
    np.testing.assert_allclose(scores[:, 0], expected(enrol.expand(5, SIZE), cohort[:, 0], vectors), rtol=1e-5)
    del sys.modules["__main__"].params["score_norm"]
    caplog.clear()
    IDAEmbeddingModel(Model(), path, K, TAU)(torch.randn(1, 5, 3))
    assert "score_norm" not in caplog.text


def test_split_and_unpacked_embeddings_are_compared_by_ida(anchors):
    """They were compared by their cosine."""
    path, vectors = anchors
    model = IDAEmbeddingModel(Model(), path, K, TAU).eval()
    with torch.no_grad():
        batch = model(torch.randn(4, 5, 3))[:, 0]
    a, b, *_ = batch
    np.testing.assert_allclose(similarity(a[None], b[None]), expected(batch[:1], batch[1:2], vectors), rtol=1e-5)
    first, second = batch.split(2)
    np.testing.assert_allclose(similarity(first, second), expected(batch[:2], batch[2:], vectors), rtol=1e-5)


def test_anchors_that_hold_what_is_scored_are_refused(tmp_path, anchors):
    """`verimargin score` refused them, the recipe took them: each embedding was its own nearest neighbour."""
    model, features = Model().eval(), torch.randn(4, 5, 3)
    with torch.no_grad():
        own = model(features)[:, 0]
    write_embeddings(tmp_path / "own.npz", Embeddings([str(i) for i in range(4)], 3 * own))
    wrapped = IDAEmbeddingModel(model, tmp_path / "own.npz", 2)
    with torch.no_grad():
        wrapped(torch.randn(1, 5, 3))  # the first recording may be a stranger
    with torch.no_grad(), pytest.raises(ValueError, match=r"own.npz holds an embedding that is to be scored"):
        wrapped(features[2:3])


@pytest.mark.parametrize(("length", "told"), [(0.0, False), (30.0, True)])
def test_densities_that_rival_the_cosines_are_told_once(tmp_path, caplog, length, told):
    """Half-trained: embeddings with a long common direction, which the prototypes have nothing of."""
    torch.manual_seed(0)
    voices, axis = torch.randn(100, 32) * (torch.arange(32) > 0), torch.eye(32)[0]
    write_embeddings(tmp_path / "a.npz", Embeddings([str(i) for i in range(60)], voices[:60], source={"kind": "fc"}))
    model = IDAEmbeddingModel(torch.nn.Identity(), tmp_path / "a.npz", k=3)
    rows = voices[60:].repeat(4, 1) + torch.randn(160, 32) + length * axis
    for start in range(0, 160, 8):
        model(rows[start : start + 8].unsqueeze(1))
        assert ("IDA's densities rival the cosines" in caplog.text) == (told and start >= 24)
    assert caplog.text.count("rival") == told
    assert model._seen is None or not told
