from pathlib import Path

import pytest
from verimargin.files import hparams as recipes

SHIPPED = Path(__file__).resolve().parents[3] / "hparams"


def test_each_file_of_the_folder_is_listed_and_found_by_both_of_its_names():
    found = [file for file in SHIPPED.rglob("*.*") if file.suffix in (".py", ".yaml")]
    files = {file.relative_to(SHIPPED).as_posix(): file for file in found}
    assert recipes.names() == sorted(files)
    assert len(files) > 10
    for name, file in files.items():
        for known in (name, file.name):
            assert recipes.path(known).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("name", ["train_ecapa.yaml", "", "arcface_torch", "../pyproject.toml"])
def test_an_unknown_recipe_is_refused_with_the_list(name):
    with pytest.raises(ValueError, match=r"there is no recipe '.*': .*he recipes are arcface_torch/.*speechbrain/"):
        recipes.path(name)


def test_a_misspelt_recipe_is_recognised():
    with pytest.raises(
        ValueError, match=r"no recipe 'cpu_mbf_qmargn.py': did you mean cpu_mbf_qmargin.py\? The recipes"
    ):
        recipes.path("cpu_mbf_qmargn.py")
    with pytest.raises(ValueError, match=r"no recipe 'zzz': the recipes are"):
        recipes.path("zzz")


def test_the_folder_inside_an_installed_package_comes_first(tmp_path, monkeypatch):
    for folder in (tmp_path / "src" / "verimargin" / "hparams", tmp_path / "hparams"):
        (folder / "toolkit").mkdir(parents=True)
    monkeypatch.setattr(recipes, "__file__", str(tmp_path / "src" / "verimargin" / "files" / "hparams.py"))
    assert recipes.folder() == tmp_path / "src" / "verimargin" / "hparams"
    (tmp_path / "src" / "verimargin" / "hparams" / "toolkit").rmdir()
    (tmp_path / "src" / "verimargin" / "hparams").rmdir()
    assert recipes.folder() == tmp_path / "hparams"
