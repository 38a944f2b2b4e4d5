import pytest
import torch
import verimargin as vm
from small_disk import files_up_to
from small_networks import SIZE, fitted, seeded
from verimargin.files.embeddings import Embeddings, write_embeddings
from verimargin.files.scorers import read_regressor, read_scorer, write_regressor


def test_files_of_other_kinds_and_regressors_that_are_not_fitted_are_refused(tmp_path):
    torch.save({"weight": seeded(2, 2)}, tmp_path / "no.pt")
    with pytest.raises(ValueError, match="holds no regressor"):
        read_regressor(tmp_path / "no.pt")
    with pytest.raises(RuntimeError, match="not fitted"):
        write_regressor(tmp_path / "ssr.pt", vm.SupportSetRegressor(SIZE, 4))


def test_anchors_become_a_scorer_with_the_settings_given(tmp_path):
    anchors, f = seeded(30, SIZE), seeded(9, SIZE, seed=1)
    write_embeddings(tmp_path / "a.npz", Embeddings([*map(str, range(30))], anchors, encoder="abc"))
    read = read_scorer(tmp_path / "a.npz", k=3, tau=2.0)
    assert (read.path, read.encoder) == (tmp_path / "a.npz", "abc")
    assert torch.equal(read.scorer.log_density(f), vm.IDAScorer(anchors, 3, 2.0).log_density(f))
    with pytest.raises(ValueError, match="k is 31, but there are 30 anchors"):
        read_scorer(tmp_path / "a.npz", k=31)


def test_a_regressor_comes_back_with_settings_of_its_own(tmp_path):
    regressor, f = fitted(), seeded(9, SIZE, seed=1)
    write_regressor(tmp_path / "r.pt", regressor, "abc", {"anchors": {"kind": "fc"}})
    for read in (read_scorer(tmp_path / "r.pt", k=3, tau=2.0), read_regressor(tmp_path / "r.pt")):
        assert isinstance(read.scorer, vm.SupportSetRegressor)
        assert (read.scorer.k, read.scorer.tau, read.encoder) == (4, 1.5, "abc")
        assert torch.equal(read.scorer.log_density(f), regressor.log_density(f))
    assert torch.load(tmp_path / "r.pt", weights_only=True)["source"] == {"anchors": {"kind": "fc"}}
    assert [path.name for path in tmp_path.iterdir()] == ["r.pt"]


def test_another_size_or_encoder_is_refused_where_it_is_known(tmp_path):
    write_regressor(tmp_path / "known.pt", fitted(), "abc")
    write_regressor(tmp_path / "unknown.pt", fitted())
    known, unknown = read_scorer(tmp_path / "known.pt"), read_scorer(tmp_path / "unknown.pt")
    known.check_size(SIZE)
    with pytest.raises(ValueError, match=r"known\.pt is for embeddings of 8 numbers, the model's have 7: make it"):
        known.check_size(7)
    with pytest.raises(ValueError, match="8 numbers, mine have 7"):
        known.check_size(7, "mine")
    with pytest.raises(ValueError, match="made with the encoder abc, but the embeddings with xyz"):
        known.check_encoder("xyz")
    known.check_encoder("abc")
    known.check_encoder("")
    unknown.check_encoder("xyz")


def test_what_is_no_scorer_is_refused_and_nothing_is_overwritten(tmp_path):
    (tmp_path / "text.pt").write_text("no")
    with pytest.raises(
        ValueError,
        match=r"text\.pt is damaged, or holds more than tensors: give a file that verimargin train-ssr wrote",
    ):
        read_scorer(tmp_path / "text.pt")
    with pytest.raises(FileNotFoundError):
        read_scorer(tmp_path / "none.pt")
    with pytest.raises(ValueError, match="do not exist"):
        read_scorer(tmp_path / "none.npz")
    with pytest.raises(FileExistsError, match="exists already"):
        write_regressor(tmp_path / "text.pt", fitted())
    with pytest.raises(ValueError, match=r"to be an \.pt"):
        write_regressor(tmp_path / "r.npz", fitted())


@pytest.mark.parametrize(
    "change",
    [{"embedding_size": 10**7}, {"hidden": 10**9}, {"state_dict": {}}, {"state_dict": 3}, {"encoder": None}, {}],
)
def test_a_damaged_regressor_is_refused_before_its_layers_are_made(tmp_path, change):
    """An embedding_size of 10**7 took 20 GB before it was compared with the weights."""
    write_regressor(tmp_path / "whole.pt", fitted())
    held = torch.load(tmp_path / "whole.pt")
    if not change:
        held["state_dict"]["linear2.weight"][0] = torch.nan
    if change.get("encoder", "") is None:
        del held["encoder"]
    torch.save({**held, **change} if "encoder" not in change else held, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt holds no regressor: give a file that verimargin train-ssr wrote"):
        read_regressor(tmp_path / "a.pt")


def test_a_regressor_on_a_full_disk_is_named(tmp_path):
    """torch.save said "file write failed" in a traceback."""
    with files_up_to(1000), pytest.raises(OSError, match=r"File too large: '.*a\.pt'"):
        write_regressor(tmp_path / "a.pt", fitted())
    assert not list(tmp_path.iterdir())
