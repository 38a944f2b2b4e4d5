import json
import sys

import numpy as np
import pytest
import torch
from small_networks import ENCODER, seeded
from torch import nn

pytest.importorskip("typer", reason="typer is not installed: pip install 'verimargin[cli]'")
from typer.testing import CliRunner
from verimargin.commands.anchors import anchors as command
from verimargin.commands.anchors import fc
from verimargin.files import anchors as core
from verimargin.files.networks import fingerprint

SIZE = 6


def run(*arguments):
    result = CliRunner().invoke(command, list(map(str, arguments)))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


class TestCommand:
    @pytest.mark.parametrize("given", [["RUN"], ["a.pt", "b.pt"], ["classifier.ckpt"]])
    def test_a_missing_out_is_named(self, given):
        """The message was that the checkpoints are missing."""
        with pytest.raises(
            ValueError, match=f"OUT is missing, the last argument is {given[-1]}: give the classifier's"
        ):
            run("fc", *given)

    def test_fc(self, tmp_path):
        torch.save({"weight": seeded(4, SIZE)}, tmp_path / "classifier.ckpt")
        (tmp_path / "names").write_text("ann\nbob\ncy\ndee\n")
        (tmp_path / "test").write_text("bob\nzoe\n")
        encoder = tmp_path / "encoder.bin"
        encoder.write_bytes(b"any file")
        options = ["--names", tmp_path / "names", "--exclude", tmp_path / "test", "--encoder", encoder]
        output = run("fc", tmp_path / "classifier.ckpt", tmp_path / "a.npz", *options)
        assert (
            f"3 anchors of size 6 in {tmp_path / 'a.npz'}, 1 identities excluded; encoder {fingerprint(encoder)[:12]}"
            in output
        )
        assert core.read_anchors(tmp_path / "a.npz").ids == ["ann", "cy", "dee"]
        with pytest.raises(ValueError, match="names bob, but prototypes are known by number only: give --names"):
            fc([tmp_path / "classifier.ckpt"], tmp_path / "b.npz", names=None, exclude=tmp_path / "test", encoder=None)

    def test_fc_records_the_encoder_beside_the_classifier(self, tmp_path):
        torch.save({"weight": seeded(4, SIZE)}, tmp_path / "classifier.ckpt")
        torch.save({"w": seeded(2, 2)}, tmp_path / "embedding_model.ckpt")
        known = fingerprint(tmp_path / "embedding_model.ckpt")
        assert f"encoder {known[:12]}" in run("fc", tmp_path / "classifier.ckpt", tmp_path / "a.npz")
        made = core.read_anchors(tmp_path / "a.npz")
        assert made.encoder == known
        assert made.source["encoder"] == "embedding_model.ckpt"

    def test_real(self, tmp_path):
        path = tmp_path / "train.npz"
        np.savez(path, embeddings=seeded(6, SIZE), labels=[5, 5, 8, 8, 9, 9], encoder="abc")
        assert "3 anchors of size 6" in run("real", path, tmp_path / "a.npz", "--seed", 2)
        assert core.read_anchors(tmp_path / "a.npz").encoder == "abc"
        np.savez(path, embeddings=seeded(3, SIZE), ids=["id1/x/0", "id1/y/1", "id2/x/0"])
        assert "2 anchors of size 6" in run("real", path, tmp_path / "b.npz")
        assert core.read_anchors(tmp_path / "b.npz").ids == ["id1", "id2"]
        np.savez(path, embeddings=seeded(1, SIZE), ids=["x"])
        with pytest.raises(ValueError, match="does not tell the identities"):
            run("real", path, tmp_path / "c.npz")

    @pytest.mark.parametrize("form", ["torchscript", "onnx", "callable"])
    def test_fake(self, form, tmp_path, monkeypatch):
        if form == "onnx":
            pytest.importorskip("onnx")
        made = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
        nets = {"made": made, "read": ENCODER}
        names = {name: f"nets_of_test:{name}" for name in nets}
        monkeypatch.setitem(sys.modules, "nets_of_test", type("Nets", (), nets))
        for name, net in nets.items():
            example = torch.zeros(2, next(net.parameters()).shape[1])
            if form == "torchscript":
                names[name] = tmp_path / f"{name}.pt"
                torch.jit.save(torch.jit.trace(net, example), names[name])
            elif form == "onnx":
                names[name] = tmp_path / f"{name}.onnx"
                axes = {"x": {0: "n"}, "y": {0: "n"}}
                torch.onnx.export(
                    net, (example,), names[name], input_names=["x"], output_names=["y"], dynamic_axes=axes, dynamo=False
                )
        options = ["--latent-size", "4", "--number", "7", "--truncation", "1.5", "--seed", "5", "--batch-size", "3"]
        run("fake", names["made"], names["read"], tmp_path / "a.npz", *options)
        found = core.read_anchors(tmp_path / "a.npz", SIZE)
        wanted = core.anchors_from_generator(made, ENCODER, 4, 7, truncation=1.5, seed=5).vectors
        torch.testing.assert_close(found.vectors, wanted, rtol=1e-5, atol=1e-5)
        assert found.encoder == fingerprint(names["read"] if form == "onnx" else ENCODER)
        source = {"kind": "fake", "latent_size": [4], "truncation": 1.5, "seed": 5, "generator": str(names["made"])}
        assert json.loads(json.dumps(found.source)) == source
