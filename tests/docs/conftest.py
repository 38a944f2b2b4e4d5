import shutil

import pytest
import workspace


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory):
    for package in ("typer", "speechbrain", "onnx", "PIL"):
        pytest.importorskip(package, reason="the documentation's commands need all extras")
    folder = tmp_path_factory.mktemp("stand_ins") / "arcface_torch"
    folder.mkdir()
    workspace.make(folder)
    return folder.parent


@pytest.fixture
def workspace_folder(stand_ins, tmp_path):
    """A copy for each page, in which its commands leave their files."""
    shutil.copytree(stand_ins, tmp_path, dirs_exist_ok=True)
    return tmp_path / "arcface_torch"
