import pytest
import small_trials
import torch
import verimargin as vm
from verimargin.commands.chosen_methods import check_settings, choose_methods
from verimargin.commands.trial_set import read_trial_set
from verimargin.files.scorers import write_regressor

SIZE = small_trials.SIZE


def test_the_methods_whose_files_are_given(tmp_path):
    folder = small_trials.make(tmp_path)
    regressor = vm.SupportSetRegressor(SIZE, hidden=4, k=3, tau=2.5)
    regressor.fit(torch.randn(9, SIZE), torch.rand(9) + 0.1, epochs=1)
    write_regressor(folder / "r.pt", regressor, "abc")
    trial_set, cohort = read_trial_set(folder / "e.npz", folder / "trials.txt"), folder / "cohort.npz"
    alone = choose_methods(trial_set, None, None, None, None, None, None, "cpu")
    assert [method.name for method in alone.methods] == ["cosine"]
    assert (alone.inputs, alone.cohort, alone.tau, alone.notes) == ({}, None, {}, [])
    chosen = choose_methods(trial_set, cohort, 7, cohort, 5, 0.5, folder / "r.pt", "cpu")
    assert [method.title for method in chosen.methods] == [
        *("cosine", "s-norm", "adaptive s-norm (7)", "IDA-R (k 5, tau 0.5)", "IDA-L (k 3, tau 2.5)")
    ]
    assert chosen.tau == {"ida-r": 0.5, "ida-l": 2.5}
    assert chosen.cohort.cohort_size == 7
    assert set(chosen.inputs) == {"cohort", "cohort_size", "anchors", "regressor"}
    again = choose_methods(trial_set, cohort, None, None, 5, 0.5, None, "cpu")
    assert again.inputs["cohort"] == chosen.inputs["cohort"] == chosen.inputs["anchors"]
    assert again.inputs["cohort_size"] == "40"
    defaults = choose_methods(trial_set, None, None, cohort, None, None, None, "cpu")
    assert defaults.methods[1].title == "IDA-R (k 10, tau 1)"
    with pytest.raises(ValueError, match=r"share embeddings \(70,"):
        choose_methods(trial_set, folder / "e.npz", None, None, 10, 1.0, None, "cpu")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cohort_size": 9}, "--cohort-size is 9"),
        ({"k": 3, "cohort": "c.npz", "cohort_size": 9}, "--k is 3"),
        ({"tau": "auto", "regressor": "r.pt"}, r"--tau is auto, .* \(the regressor of IDA-L has"),
        ({"tau": 1.0, "k": 3, "anchors": "a.npz"}, ""),
        ({}, ""),
    ],
)
def test_settings_without_their_file_are_refused(given, message):
    """They were ignored without a word."""
    wanted = dict.fromkeys(("cohort", "cohort_size", "anchors", "k", "tau", "regressor")) | given
    if not message:
        check_settings(**wanted)
        return
    with pytest.raises(ValueError, match=message):
        check_settings(**wanted)
