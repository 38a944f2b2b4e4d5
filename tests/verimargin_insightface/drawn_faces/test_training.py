import numpy as np
import pytest
import torch
from small_drawn_faces import TINY, read_faces, small_corpus, trained
from verimargin_insightface.drawn_faces.training import LOSSES, Recipe, Run, SmallNet, as_input, embed, one_process


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return read_faces(small_corpus(tmp_path_factory.mktemp("drawn") / "faces") / "train")


def state(run):
    return {
        **{f"backbone.{name}": value for name, value in run.backbone.state_dict().items()},
        **{f"head.{name}": value for name, value in run.head.state_dict().items()},
    }


def differences(a, b):
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


@pytest.mark.parametrize("name", LOSSES)
def test_a_seed_gives_the_same_weights_and_so_does_a_resumed_run(name, faces, tmp_path):
    whole = trained(tmp_path / "whole", faces, name)
    assert differences(state(whole), state(trained(tmp_path / "again", faces, name))) == []
    assert differences(state(whole), state(trained(tmp_path / "other", faces, name, seed=1)))
    with one_process():
        stopped = Run(tmp_path / "stopped", faces, LOSSES[name], Recipe(**TINY), 0)

        def progress(steps, title):
            if "epoch 2 of 2" in title:
                raise KeyboardInterrupt
            return steps

        with pytest.raises(KeyboardInterrupt):
            stopped.train(progress)
        assert Run(tmp_path / "stopped", faces, LOSSES[name], Recipe(**TINY), 0).resume() == 1
    assert differences(state(whole), state(trained(tmp_path / "stopped", faces, name))) == []


@pytest.mark.parametrize("name", ["kappaface", "adaptive"])
def test_the_margins_adapt(name, faces, tmp_path):
    psi = trained(tmp_path, faces, name).head.loss.margin.psi
    assert len(psi) == len(faces.names)
    assert psi.std() > 0.01
    assert (psi < 1).all()


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_falls(name, faces, tmp_path):
    """On its own training images, each with the margin."""
    with one_process():
        run = Run(tmp_path, faces, LOSSES[name], Recipe(**{**TINY, "epochs": 16, "lr": 0.05}), 0)
        labels = torch.from_numpy(faces.labels)

        def right():
            cosine = torch.nn.functional.normalize(embed(run.backbone, faces.images)) @ run.head.weight.detach().T
            return float((cosine.argmax(1) == labels).float().mean())

        before = right()
        run.train(lambda steps, title: steps)
        assert right() > max(0.5, 2 * before)


def test_the_network_has_arcface_torchs_shapes(faces):
    torch.manual_seed(0)
    net = SmallNet(TINY["channels"], 12)
    pixels = as_input(faces.images[:2])
    assert pixels.shape == (2, 3, 112, 112)
    expected = (faces.images[1, 40, 50].astype(np.float64) - 127.5) / 127.5
    np.testing.assert_allclose(pixels[1, :, 40, 50].numpy(), expected, atol=1e-6)
    net.eval()
    assert embed(net, faces.images).shape == (len(faces.labels), 12)
    assert torch.allclose(embed(net, faces.images)[:2], net(pixels).detach(), atol=1e-5)


def test_a_process_group_that_is_there_is_used():
    with one_process():
        with one_process():
            assert torch.distributed.get_world_size() == 1
        assert torch.distributed.is_initialized()
    assert not torch.distributed.is_initialized()
