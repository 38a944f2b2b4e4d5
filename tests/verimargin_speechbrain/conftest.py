import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_speech import make_corpus

pytest.importorskip("speechbrain", reason="SpeechBrain is not installed: pip install 'verimargin[speechbrain]'")


@pytest.fixture(scope="session")
def voxceleb_layout(tmp_path_factory):
    """Real speech laid out as VoxCeleb."""
    tool = Path(__file__).resolve().parents[3] / "shared" / "tools" / "vox_layout.py"
    if not tool.is_file():
        pytest.skip("the real speech samples (shared/data beside the checkout) are not here")
    folder = tmp_path_factory.mktemp("voxceleb")
    subprocess.run([sys.executable, tool, folder], check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.fixture(scope="session")
def upstream_recipe():
    """The folder of SpeechBrain's own VoxCeleb scripts."""
    home = os.environ.get("SPEECHBRAIN_HOME")
    if not home:
        pytest.skip("SPEECHBRAIN_HOME names no checkout of github.com speechbrain/speechbrain")
    return Path(home, "recipes", "VoxCeleb", "SpeakerRec")


@pytest.fixture(scope="session")
def synthetic_corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("synthetic") / "corpus")


@pytest.fixture
def corpus_shell(tmp_path):
    """An empty shell of a corpus: 3 training speakers, 2 tested."""
    for speaker in ("id1", "id2", "id3", "id8", "id9"):
        path = tmp_path / "wav" / speaker / "s0" / "0.wav"
        path.parent.mkdir(parents=True)
        path.touch()
    (tmp_path / "veri_test.txt").write_text("1 id8/s0/0.wav id8/s0/0.wav\n0 id9/s0/0.wav id8/s0/0.wav\n")
    return tmp_path
