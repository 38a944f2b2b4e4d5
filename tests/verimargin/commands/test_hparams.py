import pytest
from installed_command import installed, verimargin_command
from verimargin.files import hparams as recipes

pytest.importorskip("typer", reason="typer is not installed: pip install 'verimargin[cli]'")
from verimargin.commands.hparams import hparams


@installed
def test_lists_the_recipes_and_copies_one(tmp_path):
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
    assert "there is no recipe 'train_ecapa.yaml': did you mean " in unknown.stderr
    assert "Traceback" not in unknown.stderr


def test_a_copy_is_exact_in_the_folder_given_and_never_overwrites(tmp_path, capsys):
    hparams("speechbrain/train_ecapa_small.yaml", tmp_path)
    copied = tmp_path / "train_ecapa_small.yaml"
    assert copied.read_bytes() == recipes.path("train_ecapa_small.yaml").read_bytes()
    copied.write_text("mine")
    with pytest.raises(OSError, match="exists already"):
        hparams("train_ecapa_small.yaml", tmp_path)
    assert copied.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [copied]
    capsys.readouterr()
    hparams()
    assert capsys.readouterr().out.split() == recipes.names()
