import subprocess
import sys

import verimargin


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
