import math

import numpy as np
import pytest
import torch
import verimargin as vm
from small_networks import ENCODER, seeded
from torch import nn
from verimargin.files import anchors as core
from verimargin.files.embeddings import Embeddings, read_embeddings, write_embeddings
from verimargin.files.networks import fingerprint

SIZE = 6


class TestPrototypes:
    def test_all_ranks_of_partial_fc_in_class_order(self, tmp_path):
        """12 ranks, whose files sort as 0, 1, 10, 11, 2, ... by name."""
        weight = seeded(29, SIZE)
        sizes = [3] * 5 + [2] * 7
        for rank, part in enumerate(weight.split(sizes)):
            state = {"state_dict_backbone": {"fc.weight": torch.zeros(3, 3)}, "state_dict_softmax_fc": {"weight": part}}
            torch.save(state, tmp_path / f"checkpoint_gpu_{rank}.pt")
        found = core.anchors_from_prototypes([tmp_path])
        assert torch.equal(found.vectors, weight)
        assert found.ids == [str(c) for c in range(29)]
        shuffled = [tmp_path / f"checkpoint_gpu_{rank}.pt" for rank in torch.randperm(12).tolist()]
        assert torch.equal(core.anchors_from_prototypes(shuffled).vectors, weight)
        (tmp_path / "checkpoint_gpu_4.pt").unlink()
        with pytest.raises(ValueError, match=r"checkpoint_gpu_4\.pt is missing"):
            core.anchors_from_prototypes([tmp_path])

    def test_a_sharded_head_of_ours_says_how_many_ranks_there_are(self, tmp_path):
        for rank in range(2):
            state = nn.Linear(SIZE, 5, bias=False).state_dict()
            layout = {"classes": 15, "ranks": 3, "rank": rank, "rows": 5}
            state._metadata[""]["verimargin"] = {"layout": layout, "random": {"cpu": torch.get_rng_state()}}
            torch.save({"state_dict_softmax_fc": state}, tmp_path / f"checkpoint_gpu_{rank}.pt")
        with pytest.raises(ValueError, match="rank 0 of 3, and is file 0 of 2: give the files of all ranks"):
            core.anchors_from_prototypes([tmp_path])

    @pytest.mark.parametrize("form", ["layers", "sequential", "tensor", "head", "half"])
    def test_finds_the_prototypes_among_a_classifiers_tensors(self, form, tmp_path):
        weight = seeded(9, SIZE)
        head = vm.PrototypeHead(SIZE, 9, vm.q_margin())
        head.weight.data.copy_(weight)
        torch.save(
            {
                "layers": {"blocks.0.weight": seeded(4, 4), "blocks.0.bias": seeded(4), "weight": weight},
                "sequential": {"0.weight": weight},
                "tensor": weight,
                "head": head.state_dict(),
                "half": {"weight": weight.half()},
            }[form],
            tmp_path / "classifier.ckpt",
        )
        found = core.anchors_from_prototypes([tmp_path / "classifier.ckpt"])
        assert found.vectors.dtype == torch.float32
        torch.testing.assert_close(found.vectors, weight.half().float() if form == "half" else weight)

    def test_identities_by_name_are_left_out(self, tmp_path):
        torch.save({"weight": seeded(4, SIZE)}, tmp_path / "classifier.ckpt")
        names = ["ann", "bob", "cy", "dee"]
        found = core.anchors_from_prototypes([tmp_path / "classifier.ckpt"], names, exclude=["cy", "unheard of"])
        assert (found.ids, found.source["excluded"]) == (["ann", "bob", "dee"], ["cy"])
        assert torch.equal(found.vectors, seeded(4, SIZE)[[0, 1, 3]])

    def test_what_holds_no_prototypes_is_refused(self, tmp_path):
        path = tmp_path / "c.ckpt"
        with pytest.raises(ValueError, match="does not exist"):
            core.anchors_from_prototypes([path])
        path.write_bytes(b"\x80nothing")
        with pytest.raises(ValueError, match="is damaged, or holds more than tensors"):
            core.anchors_from_prototypes([path])
        torch.save({"a": seeded(2, 2), "b": seeded(2, 2)}, path)
        with pytest.raises(ValueError, match=r"holds the matrices \['a', 'b'\] and no head's"):
            core.anchors_from_prototypes([path])
        torch.save(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(8, SIZE)).state_dict(), path)
        with pytest.raises(ValueError, match=r"holds the matrices \['2.weight'\] and no head's"):  # a backbone
            core.anchors_from_prototypes([path])
        with pytest.raises(ValueError, match="no checkpoint_gpu_<rank>"):
            core.anchors_from_prototypes([tmp_path])
        torch.save({"weight": seeded(4, SIZE)}, path)
        with pytest.raises(ValueError, match="3 names for 4 classes"):
            core.anchors_from_prototypes([path], ["x"] * 3)
        with pytest.raises(ValueError, match="all 4 identities are excluded"):
            core.anchors_from_prototypes([path], exclude="0123")
        torch.save({"weight": seeded(7, SIZE)}, tmp_path / "d.ckpt")
        with pytest.raises(ValueError, match="not the parts of one head"):
            core.anchors_from_prototypes([path, tmp_path / "d.ckpt"])


class TestEmbeddings:
    def test_one_random_embedding_of_each_identity(self):
        labels = np.array([3, 1, 3, 3, 2, 1] * 5)
        embeddings = torch.arange(30.0)[:, None].expand(30, SIZE) + 1
        found = core.anchors_from_embeddings(embeddings, labels, seed=1)
        assert found.ids == ["1", "2", "3"]
        rows = (found.vectors[:, 0] - 1).long()
        assert labels[rows].tolist() == [1, 2, 3]
        assert core.anchors_from_embeddings(embeddings, labels, seed=1).vectors.equal(found.vectors)
        chosen = {float(core.anchors_from_embeddings(embeddings, labels, seed=s).vectors[2, 0]) for s in range(200)}
        assert chosen == {n + 1.0 for n in range(30) if labels[n] == 3}

    def test_labels_that_do_not_fit_are_refused(self):
        with pytest.raises(ValueError, match=r"3 labels, and embeddings of shape \(4, 6\)"):
            core.anchors_from_embeddings(seeded(4, SIZE), [1, 2, 3])


def generator(latents):
    return torch.stack([latents.sin(), latents.cos()], 1)


class TestGenerator:
    def test_embeds_what_is_generated(self):
        found = core.anchors_from_generator(generator, ENCODER, 4, 10, seed=3)
        latents = torch.empty(10, 4).normal_(generator=torch.Generator().manual_seed(3))
        torch.testing.assert_close(found.vectors, ENCODER(generator(latents)).detach())
        assert found.encoder == fingerprint(ENCODER)
        for other in (dict(batch_size=3), dict(batch_size=1, progress=list)):
            again = core.anchors_from_generator(generator, ENCODER, 4, 10, seed=3, **other)
            torch.testing.assert_close(again.vectors, found.vectors)
        assert not torch.allclose(core.anchors_from_generator(generator, ENCODER, 4, 10).vectors, found.vectors)

    def test_truncation_bounds_each_number_of_a_latent(self):
        found = core.anchors_from_generator(lambda z: z, nn.Flatten(), (5, 2, 1), 4000, truncation=0.7)
        assert found.vectors.shape == (4000, 10)
        assert 0.69 < float(found.vectors.abs().max()) <= 0.7
        assert float(found.vectors.std()) == pytest.approx(0.39, abs=0.01)  # of a normal cut at 0.7

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"number": 0}, "number is 0"),
            ({"latent_size": 0}, "latent_size is 0"),
            ({"latent_size": []}, "latent_size is 0"),
            ({"truncation": 0.0}, r"truncation is 0\.0"),
            ({"encoder": lambda x: 0 * x[:, 0]}, r"generated sample 0 \(and 1 more\) has norm 0"),
        ],
    )
    def test_bad_input_is_named(self, options, message):
        with pytest.raises(ValueError, match=message):
            core.anchors_from_generator(
                **{"generator": generator, "encoder": ENCODER, "latent_size": 4, "number": 2} | options
            )


class TestFile:
    def test_comes_back_as_it_was_and_reads_as_embeddings(self, tmp_path):
        saved = Embeddings(["a", "b"], seeded(2, SIZE), encoder="f" * 64, source={"kind": "real", "seed": 4})
        write_embeddings(tmp_path / "a.npz", saved)
        loaded = core.read_anchors(tmp_path / "a.npz", SIZE, "f" * 64)
        assert (loaded.ids, loaded.source, loaded.encoder) == (saved.ids, saved.source, saved.encoder)
        assert torch.equal(loaded.vectors, saved.vectors)
        assert read_embeddings(tmp_path / "a.npz").ids == ["a", "b"]
        assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]

    def test_is_refused_with_another_encoders_embeddings(self, tmp_path):
        path = tmp_path / "a.npz"
        write_embeddings(path, Embeddings(["a"], seeded(1, SIZE), encoder=fingerprint(ENCODER)))
        with pytest.raises(ValueError, match="have 6 numbers, the embeddings 7: make them"):
            core.read_anchors(path, 7)
        with pytest.raises(ValueError, match=f"{fingerprint(ENCODER)[:12]}, but the embeddings with 0000"):
            core.read_anchors(path, encoder="0" * 64)

    def test_nothing_is_overwritten_or_half_written(self, tmp_path, monkeypatch):
        anchors = Embeddings(["a"], seeded(1, SIZE))
        with pytest.raises(ValueError, match=r"has to be an \.npz"):
            write_embeddings(tmp_path / "a.pt", anchors)
        with pytest.raises(ValueError, match="is not a folder"):
            write_embeddings(tmp_path / "no" / "a.npz", anchors)

        def full(path, **_):
            path.write_bytes(b"half")
            raise OSError("disk full")

        monkeypatch.setattr(np, "savez", full)
        with pytest.raises(OSError, match="disk full"):
            write_embeddings(tmp_path / "a.npz", anchors)
        assert not list(tmp_path.iterdir())
        (tmp_path / "a.npz").touch()
        with pytest.raises(FileExistsError, match="exists already"):
            write_embeddings(tmp_path / "a.npz", anchors)


@pytest.mark.parametrize(
    ("classifier", "name"), [("classifier.ckpt", "embedding_model.ckpt"), ("checkpoint_gpu_0.pt", "model.pt")]
)
def test_the_encoder_lies_beside_the_classifier(tmp_path, classifier, name):
    """Without --encoder another model's anchors were scored without a word, and a wrong one was believed."""
    torch.save({"weight": seeded(4, SIZE)}, tmp_path / classifier)
    assert core.encoder_beside([tmp_path / classifier]) is None
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / name)
    for given in (tmp_path / classifier, tmp_path):
        assert core.encoder_beside([given]) == tmp_path / name
    torch.save(torch.load(tmp_path / name), tmp_path / "copy.pt")
    assert core.encoder_beside([tmp_path], tmp_path / "copy.pt") == tmp_path / "copy.pt"
    assert core.encoder_beside([tmp_path], tmp_path / "model.onnx") == tmp_path / "model.onnx"
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "other.pt")
    with pytest.raises(ValueError, match=rf"other.pt is not the encoder that was trained .*{name}: give that one"):
        core.encoder_beside([tmp_path], tmp_path / "other.pt")


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_a_prototype_without_a_direction_is_no_anchor(tmp_path, value):
    weight = torch.ones(3, 4)
    weight[1] = value
    torch.save({"weight": weight}, tmp_path / "classifier.ckpt")
    with pytest.raises(ValueError, match=f"the prototype of class 1 has norm {value:g}"):
        core.anchors_from_prototypes([tmp_path / "classifier.ckpt"])
