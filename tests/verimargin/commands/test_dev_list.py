import numpy as np
import pytest
import small_trials
import verimargin as vm
from verimargin.commands.dev_list import TAUS, choose_tau, identities_of_trials, read_dev_list, shared_identities
from verimargin.commands.trial_set import read_trial_set
from verimargin.files.embeddings import Embeddings, read_embeddings, write_embeddings


@pytest.fixture
def folder(tmp_path):
    return small_trials.make(tmp_path)


def judged(folder):
    return read_trial_set(folder / "e.npz", folder / "trials.txt")


def as_it_is(steps, title):
    return steps


def test_a_list_of_others_is_read(folder):
    dev_set = read_dev_list(folder / "e.npz", folder / "dev.txt", folder / "trials.txt", judged(folder))
    assert {name[0] for name in dev_set.embeddings.ids} == {"d"}
    assert shared_identities(dev_set, judged(folder), (folder / "dev.txt", folder / "trials.txt")) == ""


def test_the_list_that_is_judged_is_refused_under_any_name(folder):
    trials = folder / "trials.txt"
    with pytest.raises(ValueError, match=r"--dev is .*trials\.txt, the list that is judged"):
        read_dev_list(folder / "e.npz", trials, trials, judged(folder))
    lines = trials.read_text().splitlines()
    (folder / "copy.txt").write_text("\n".join(reversed(lines)))
    with pytest.raises(ValueError, match=r"copy\.txt and .*trials\.txt share trials \(2415, such as j0/0 j0/1"):
        read_dev_list(folder / "e.npz", folder / "copy.txt", trials, judged(folder))
    (folder / "part.txt").write_text((folder / "dev.txt").read_text() + "1 j0/1 j0/0\n")  # the other way round
    with pytest.raises(ValueError, match=r"share trials \(1, such as j0/0 j0/1"):
        read_dev_list(folder / "e.npz", folder / "part.txt", trials, judged(folder))


def test_a_list_of_another_encoder_or_with_its_own_anchors_is_refused(folder):
    held, trials = read_embeddings(folder / "e.npz"), folder / "trials.txt"
    write_embeddings(folder / "other.npz", Embeddings(held.ids, held.vectors, encoder="def"))
    write_embeddings(folder / "short.npz", Embeddings(held.ids, held.vectors[:, :5]))
    with pytest.raises(ValueError, match=r"other\.npz holds was made with the encoder def, but .* with abc"):
        read_dev_list(folder / "other.npz", folder / "dev.txt", trials, judged(folder))
    with pytest.raises(ValueError, match=r"vectors in .*short\.npz have 5 numbers, those of the trials 8"):
        read_dev_list(folder / "short.npz", folder / "dev.txt", trials, judged(folder))
    write_embeddings(folder / "some.npz", Embeddings(held.ids[:3], held.vectors[:3]))
    with pytest.raises(ValueError, match=r"some\.npz and the trials share embeddings \(3,"):
        read_dev_list(folder / "e.npz", folder / "dev.txt", trials, judged(folder), [None, folder / "some.npz"])


def test_shared_identities_are_named(folder):
    ids = read_embeddings(folder / "e.npz").ids
    names = folder / "mixed.txt", folder / "trials.txt"
    small_trials.write_list(names[0], [*ids[:20], "j3/0", "j3/1", "j5/0"])
    small_trials.write_list(names[1], [one for one in ids if one[0] == "j" and one not in ("j3/0", "j3/1", "j5/0")])
    dev_set = read_dev_list(folder / "e.npz", names[0], names[1], judged(folder))
    assert "mixed.txt and" in (text := shared_identities(dev_set, judged(folder), names))
    assert "share identities (2, such as j3): what is chosen on the first looks better" in text


def test_a_wrong_label_hides_no_shared_identity(folder):
    """With it the folders are no identities, and only recordings in both lists counted."""
    names = folder / "wrong.txt", folder / "trials.txt"
    names[0].write_text("1 j1/0 j1/1\n1 j2/0 d3/0\n0 j1/0 d2/0\n")
    names[1].write_text("1 j1/2 j1/3\n0 j1/2 j5/0\n")
    lists = [read_trial_set(folder / "e.npz", name) for name in names]
    assert "share identities (1, such as j1)" in shared_identities(lists[0], lists[1], names)
    assert "share identities (1, such as j1)" in shared_identities(lists[1], lists[0], names[::-1])


def test_where_folders_are_no_identities_embeddings_tell_who_is_shared(folder):
    held = read_embeddings(folder / "e.npz")
    renamed = [name.replace("/", "-") for name in held.ids]
    (folder / "e.npz").unlink()
    write_embeddings(folder / "e.npz", Embeddings(renamed, held.vectors))
    for name in ("dev.txt", "trials.txt"):
        (folder / name).write_text((folder / name).read_text().replace("/", "-"))
    others = (folder / "dev.txt").read_text()
    names = folder / "mixed.txt", folder / "trials.txt"
    names[0].write_text(others + "0 d0-0 j0-0\n")
    dev_set = read_dev_list(folder / "e.npz", names[0], names[1], judged(folder))
    assert "share embeddings, and so their identities (1, such as j0-0)" in shared_identities(
        dev_set, judged(folder), names
    )


def test_numbers_are_shared_only_with_the_same_embeddings(folder):
    held = read_embeddings(folder / "e.npz")
    numbers = [str(n) for n in range(len(held.ids))]
    write_embeddings(folder / "one.npz", Embeddings(numbers, held.vectors))
    write_embeddings(folder / "other.npz", Embeddings(numbers, held.vectors.flip(0)))
    (folder / "n.txt").write_text("0 1 1\n0 7 0\n")
    (folder / "m.txt").write_text("0 1 1\n0 9 0\n")
    one = read_trial_set(folder / "one.npz", folder / "n.txt")
    read_dev_list(folder / "other.npz", folder / "m.txt", folder / "n.txt", one)
    with pytest.raises(ValueError, match=r"share trials \(1, such as 0 1"):
        read_dev_list(folder / "one.npz", folder / "m.txt", folder / "n.txt", one)


def test_the_tau_with_the_lowest_eer_is_chosen(folder):
    dev_set = read_dev_list(folder / "e.npz", folder / "dev.txt", folder / "trials.txt", judged(folder))
    choice = choose_tau(dev_set, folder / "cohort.npz", 4, "cpu", as_it_is, 2**20)
    anchors, same = read_embeddings(folder / "cohort.npz").vectors, dev_set.trials.same
    i, j = dev_set.trials.enrol, dev_set.trials.test
    expected = {}
    for tau in TAUS:
        s = vm.IDAScorer(anchors, 4, tau).score_pairs(dev_set.embeddings.vectors, i, j, log=True).numpy()
        expected[tau] = 100 * vm.metrics.eer(s[same], s[~same])[0], 100 * vm.metrics.min_dcf(s[same], s[~same])[0]
    assert {tau: pytest.approx(values) for tau, values in expected.items()} == choice.tried
    assert len({eer for eer, _ in expected.values()}) > 1
    assert expected[choice.tau][0] == min(eer for eer, _ in expected.values())
    text = choice.text(folder / "dev.txt")
    assert f"tau {choice.tau:g} has the lowest EER on dev.txt" in text
    assert text.count("\n| ") == 2 + len(TAUS)
    assert np.isfinite(list(choice.tried.values())).all()


@pytest.mark.parametrize(
    ("eers", "tau", "said"),
    [
        ([5, 5, 5, 5, 5, 5], 1.0, "dev.txt, as have 0.1, 0.3, 3, 10, 30, of which it is the nearest to 1."),
        ([5, 4, 5, 4, 5, 5], 3.0, "dev.txt, as have 0.3, of which it is the nearest to 1."),
        ([5, 5, 5, 4, 3, 5], 10.0, "dev.txt."),
        ([5, 5, 5, 4, 3, 2], 30.0, "dev.txt. It is the largest that was tried: a larger one may be better"),
        ([1, 5, 5, 4, 3, 2], 0.1, "dev.txt. It is the smallest that was tried: a smaller one may be better"),
    ],
)
def test_equal_taus_and_those_at_the_edge_are_told(eers, tau, said, folder, monkeypatch):
    """Of equal ones it took 0.1."""
    dev_set = read_trial_set(folder / "e.npz", folder / "dev.txt")
    rates = iter(eers)
    monkeypatch.setattr(vm.metrics.DetCurve, "eer", lambda curve: (next(rates) / 100, 0.0))
    choice = choose_tau(dev_set, folder / "cohort.npz", 4, "cpu", as_it_is, 2**20)
    assert choice.tau == tau
    assert f"tau {tau:g} has the lowest EER on {said}" in choice.text(folder / "dev.txt")
    assert ("sweep" in choice.text(folder / "dev.txt")) == (tau in (TAUS[0], TAUS[-1]))


def test_identities_of_trials_among_impostors_are_named(folder):
    trial_set, given = judged(folder), read_embeddings(folder / "e.npz")
    others = Embeddings(["x/0", "j3/9", "j1/9", "7"], given.vectors[:4])
    assert "c.npz has embeddings of identities of the trials (2, such as j1)" in identities_of_trials(
        folder / "c.npz", others, trial_set
    )
    anchors = Embeddings(["j5", "x"], given.vectors[:2])  # named by their identities
    assert "(1, such as j5), who are taken for impostors" in identities_of_trials(folder / "a.npz", anchors, trial_set)
    strangers = Embeddings(["x/0", "3"], given.vectors[:2], labels=["x", "y"])
    assert identities_of_trials(folder / "s.npz", strangers, trial_set) == ""
