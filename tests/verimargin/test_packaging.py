import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import verimargin
from verimargin.files import hparams as recipes

ROOT = Path(__file__).resolve().parents[2]


def test_the_core_imports_with_torch_and_numpy_alone():
    """Everything else that a user may not have installed is made impossible to import."""
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"speechbrain", "typer", "rich", "matplotlib", "scipy", "soundfile", "torchaudio",
                                  "torchvision", "tqdm", "hyperpyyaml", "sklearn", "cv2", "PIL", "mxnet"}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import verimargin as vm, torch
vm.q_margin(1.5, 10, 0.2)(torch.zeros(1, 3), torch.tensor([0]))
vm.metrics.eer([1.0], [0.0])
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names():
    assert all(hasattr(verimargin, name) for name in verimargin.__all__)


def verimargin_command(*arguments, cwd=None):
    script = Path(sys.executable).with_name("verimargin")
    return subprocess.run([script, *arguments], capture_output=True, text=True, cwd=cwd, check=False)


@pytest.mark.skipif(not entry_points(group="verimargin.commands"), reason="verimargin is not installed")
def test_the_command_line(tmp_path):
    pytest.importorskip("typer")
    listed = verimargin_command("hparams").stdout.split()
    assert listed == recipes.names()
    assert "speechbrain/train_ecapa_qmargin.yaml" in listed
    copied = verimargin_command("hparams", "train_ecapa_qmargin.yaml", cwd=tmp_path)
    assert copied.returncode == 0
    assert (tmp_path / "train_ecapa_qmargin.yaml").read_text() == recipes.path("train_ecapa_qmargin.yaml").read_text()
    again = verimargin_command("hparams", "train_ecapa_qmargin.yaml", cwd=tmp_path)
    assert again.returncode == 1
    assert "exists already" in again.stderr
    unknown = verimargin_command("hparams", "train_ecapa.yaml")
    assert unknown.returncode == 1
    assert "there is no recipe 'train_ecapa.yaml': the recipes are" in unknown.stderr
    assert "Traceback" not in unknown.stderr
    for command in ("demo", "hparams"):
        assert verimargin_command(command, "--help").returncode == 0
