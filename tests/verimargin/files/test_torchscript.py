import zipfile

import pytest
import torch
from small_networks import Net, seeded
from torch import nn
from verimargin.files.networks import fingerprint
from verimargin.files.torchscript import is_torchscript, scripted_state


class Odd(nn.Module):
    """Names that are digits, a tied layer, attributes that are no weights, and buffers."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3), nn.PReLU())
        self.linear = nn.Linear(3, 3, bias=False)
        self.tied = nn.ModuleList([self.linear, nn.Dropout()])
        self.register_buffer("scale", torch.full((1,), 2.0, dtype=torch.float64))
        self.no_weight = torch.ones(4)
        self.sizes = [1, 2]

    def forward(self, x):
        y = self.tied[0](self.first(x).transpose(1, 2))
        return self.linear(y) * self.scale.float() + self.no_weight.sum() + float(self.sizes[0])


class Runs(nn.Module):
    """Makes a file when it is loaded."""

    def __init__(self, path):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.path: str = path

    def forward(self, x):
        return x * self.weight

    @torch.jit.export
    def __getstate__(self):
        return self.weight, self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, str, bool]):
        self.weight = state[0]
        self.path = state[1]
        self.training = state[2]
        self.weight = state[0] + torch.from_file(state[1], True, 2).sum()  # its use keeps the compiler from dropping it


def made(compiled, path):
    torch.jit.save(compiled, path)
    return path


@pytest.mark.parametrize("odd", [True, False])
@pytest.mark.parametrize("scripted", [True, False])
def test_the_weights_are_those_that_running_the_file_gives(tmp_path, odd, scripted):
    torch.manual_seed(0)
    network, example = (Odd(), seeded(2, 2, 5)) if odd else (Net(), seeded(2, 3, 9, 9))
    network(example)  # so that the running statistics are of their own
    network.eval()
    path = made(torch.jit.script(network) if scripted else torch.jit.trace(network, example), tmp_path / "a.pt")
    assert is_torchscript(path)
    found, expected = scripted_state(path), torch.jit.load(path).state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value)
        assert found[name].dtype == value.dtype
    assert fingerprint(path) == fingerprint(network)


def test_a_file_is_not_run_for_its_fingerprint(tmp_path):
    path = made(torch.jit.script(Runs(str(tmp_path / "ran"))), tmp_path / "a.pt")
    (tmp_path / "ran").unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"a\.pt cannot be read without running it .*keeps its state by a method"):
        scripted_state(path)
    assert len(fingerprint(path)) == 64
    assert not (tmp_path / "ran").exists()
    torch.jit.load(path)
    assert (tmp_path / "ran").exists()  # the file does what it was made for


def test_other_files_are_none(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(b"PK no zip")
    assert not is_torchscript(tmp_path / "a.pt")
    assert not is_torchscript(tmp_path / "b.pt")
    for name in ("a.pt", "b.pt"):
        with pytest.raises(ValueError, match=f"{name} cannot be read without running it"):
            scripted_state(tmp_path / name)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"cposix\nsystem\n(X\x04\x00\x00\x00trueetR.", b""),
        (b"\x80\x02}" + b")" + 60_000 * b"\x85" + b"K\x01s.", b""),
        (b"K\x03K\x02", b"K\x04K\x09"),
        (b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x009"),
    ],
)
def test_a_damaged_pickle_is_refused_and_calls_nothing(tmp_path, old, new):
    """The first two are put in the place of the modules; the others change a shape and the name of a storage."""
    path = made(torch.jit.script(nn.Linear(2, 3)), tmp_path / "whole.pt")
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(tmp_path / "a.pt", "w") as changed:
        for name in whole.namelist():
            content = whole.read(name)
            if name.endswith("/data.pkl"):
                assert not new or old in content
                content = content.replace(old, new) if new else old
            changed.writestr(name, content)
    with pytest.raises(ValueError, match=r"a\.pt cannot be read without running it"):
        scripted_state(tmp_path / "a.pt")
