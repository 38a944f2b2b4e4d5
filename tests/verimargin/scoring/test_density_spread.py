import numpy as np
import pytest
import torch
import verimargin as vm
from verimargin.scoring import density_spread as module
from verimargin.scoring.density_spread import density_spread, spread_over_all_pairs


def scored(collapse, tau=1.0):
    """Cosines of pairs, their scores with prototypes as anchors, log(F1 + F2), and which pairs are targets.

    With a collapse, the embeddings share a long common direction that the prototypes, as differences between classes,
    have nothing of.
    """
    random = np.random.default_rng(0)
    common, who = collapse * np.eye(32)[0], np.repeat(np.arange(40), 4)
    voices = random.normal(size=(540, 32)) * (np.arange(32) > 0)
    f = torch.from_numpy(voices[who] + 0.9 * random.normal(size=(160, 32)) + common).float()
    anchors = torch.from_numpy(voices[40:]).float()
    i, j = np.triu_indices(len(f), 1)
    unit = torch.nn.functional.normalize(f)
    cosine = (unit[i] * unit[j]).sum(1).numpy()
    scorer = vm.IDAScorer(anchors, k=3, tau=tau)
    log_dao = scorer.score_pairs(f, torch.from_numpy(i), torch.from_numpy(j), log=True).numpy()
    density = scorer.log_density(f).double().numpy()
    return cosine, log_dao, np.logaddexp(density[i], density[j]), who[i] == who[j]


@pytest.mark.parametrize("tau", [0.1, 1.0, 10.0])
def test_it_is_the_spread_of_both_parts_of_the_score(tau):
    cosine, log_dao, log_sum, _ = scored(10.0, tau)
    found = density_spread(cosine, log_dao, tau)
    assert found.cosines == pytest.approx(tau * np.std(cosine.astype(float)), rel=1e-5)
    assert found.densities == pytest.approx(np.std(log_sum), rel=1e-3)


def test_healthy_embeddings_are_told_from_collapsed_ones():
    cosine, log_dao, _, same = scored(0.0)
    assert density_spread(cosine, log_dao, 1.0).warning == ""
    eers = [vm.metrics.eer(s[same], s[~same])[0] for s in (cosine, log_dao)]
    assert eers[1] < eers[0] + 0.01
    cosine, log_dao, _, same = scored(30.0)
    collapsed = density_spread(cosine, log_dao, 1.0)
    for figure in (f"standard deviation {collapsed.densities:.3g}", f"the cosine {collapsed.cosines:.3g}"):
        assert figure in collapsed.warning
    eers = [vm.metrics.eer(s[same], s[~same])[0] for s in (cosine, log_dao)]
    assert eers[1] > eers[0] + 0.1  # what the warning is for


@pytest.mark.parametrize("collapse", [0.0, 3.0, 10.0, 30.0])
def test_the_scores_agree_with_the_cosines_as_far_as_the_ratio_promises(collapse):
    cosine, log_dao, *_ = scored(collapse)
    spread = density_spread(cosine, log_dao, 1.0)
    ratio = spread.densities / spread.cosines
    if ratio < 1:
        assert np.corrcoef(cosine, log_dao)[0, 1] >= (1 - ratio**2) ** 0.5


def test_the_promise_is_sharp_and_does_not_hold_beyond_one():
    """log(F1 + F2) in the worst direction: at the ratio 2 the scores are the cosines turned round."""
    cosine = np.linspace(0, 1, 101)
    away = np.cos(2 * np.pi * cosine)
    away = (away - away.mean()) / away.std() * cosine.std()
    away -= ((away * (cosine - cosine.mean())).mean() / cosine.var()) * (cosine - cosine.mean())
    ratio = 0.6
    worst = -(ratio**2) * cosine + ratio * (1 - ratio**2) ** 0.5 * away * cosine.std() / away.std()
    assert density_spread(cosine, cosine + worst, 1.0).densities == pytest.approx(ratio * cosine.std(), rel=1e-9)
    assert np.corrcoef(cosine, cosine + worst)[0, 1] == pytest.approx((1 - ratio**2) ** 0.5)
    assert np.corrcoef(cosine, cosine - 2 * cosine)[0, 1] == pytest.approx(-1.0)
    assert density_spread(cosine, cosine - 2 * cosine, 1.0).warning


def test_all_pairs_and_a_part_of_very_many(monkeypatch):
    f = torch.nn.functional.normalize(torch.randn(90, 8, generator=torch.Generator().manual_seed(0)))
    log_density = torch.randn(90, generator=torch.Generator().manual_seed(1))
    i, j = np.triu_indices(90, 1)
    cosine = (f[i] * f[j]).sum(1).numpy()
    log_dao = 2.0 * cosine + np.logaddexp(log_density.numpy()[i], log_density.numpy()[j])
    found = spread_over_all_pairs(f, log_density, 2.0)
    assert found == pytest.approx(density_spread(cosine, log_dao, 2.0), rel=1e-5)
    monkeypatch.setattr(module, "SAMPLE", 30)
    assert spread_over_all_pairs(f, log_density, 2.0) == spread_over_all_pairs(f[::3], log_density[::3], 2.0)
