import os
import subprocess
import sys
from pathlib import Path

import pytest

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
