import fcntl
import json

import low_far
import low_far_tables
import low_far_training
import numpy as np
import pytest
import torch
import verimargin as vm
from impostors import scores
from low_far_evaluation import development_figure, left_out
from low_far_losses import FAMILIES, loss_of
from low_far_tables import Estimate
from low_far_training import Job, Run, network
from torch.nn import functional as F
from verimargin.metrics import speakers, student


def job(family, classes=60, epochs=2, batch=32, seed=0):
    return Job(family, FAMILIES[family].grid[0], classes, epochs, batch, seed)


def trained(of, path):
    run = Run(of)
    run.train(path)
    return [*run.network.state_dict().values(), *run.head.state_dict().values()]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_killed_run_ends_like_one_that_was_not(family, tmp_path, monkeypatch):
    monkeypatch.setattr(low_far_training, "DENSE_CLASSES", 10)  # a softmax draws classes at random
    monkeypatch.setattr(low_far_training, "SECONDS", 0.0)
    whole = trained(job(family), tmp_path / "whole.pt")
    done = Run.step

    def killed(run, index):
        done(run, index)
        if run.done == 12:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        Run(job(family)).train(tmp_path / "killed.pt")
    monkeypatch.setattr(Run, "step", done)
    assert torch.load(tmp_path / "killed.pt")["done"] == 11
    resumed = trained(job(family), tmp_path / "killed.pt")
    for one, other in zip(whole, resumed, strict=True):
        assert one == other if isinstance(one, dict) else torch.equal(one, other)


def test_another_seed_gives_another_network(tmp_path):
    one, other = (trained(job("Q-Margin", seed=seed), tmp_path / f"{seed}.pt") for seed in (1, 2))
    assert not torch.equal(one[0], other[0])


def test_kappaface_has_margins_of_its_own_after_the_first_epoch(tmp_path):
    run = Run(job("KappaFace"))
    run.train(tmp_path / "run.pt")
    assert run.head.loss.margin.psi is run.tracker.psi
    assert float(run.tracker.psi.std()) > 0.05


def test_training_helps_with_identities_that_were_not_seen(tmp_path):
    torch.manual_seed(0)
    run = Run(job("Q-Margin", classes=400, epochs=4, batch=128))
    run.train(tmp_path / "run.pt")
    untrained, after = (development_figure(n.eval(), 500) for n in (network(), run.network))
    assert after > untrained + 0.1


def test_every_family_has_the_same_budget_and_a_loss_for_each_setting():
    for family, (_, grid, _) in FAMILIES.items():
        assert len(grid) == len({tuple(s.values()) for s in grid}) == 6
        for setting in grid:
            loss = loss_of(family, setting)
            assert (loss.scale, loss.margin.m) == (setting["scale"], setting.get("margin", 0.0))
            assert loss.alpha == setting.get("alpha", 1.0)


def test_the_setting_with_the_best_development_figure_is_chosen(tmp_path):
    grid = FAMILIES["CosFace"].grid
    for n, setting in enumerate(grid):
        result = {"job": job("CosFace")._replace(setting=setting)._asdict(), "development": 0.5 + (n == 4) * 0.1}
        (tmp_path / f"{n}.json").write_text(json.dumps(result))
    assert low_far.chosen_setting("CosFace", tmp_path) == grid[4]
    result["job"]["epochs"] = 3
    (tmp_path / "5.json").write_text(json.dumps(result))
    with pytest.raises(ValueError, match=r"CosFace with 60 classes, 2 epochs .* and with 60 classes, 3 epochs"):
        low_far.chosen_setting("CosFace", tmp_path)
    (tmp_path / "5.json").unlink()
    with pytest.raises(ValueError, match=r"no result for CosFace with .*0\.2.*: run `grid` to its end first"):
        low_far.chosen_setting("CosFace", tmp_path)


def test_the_program_makes_tables(tmp_path, capsys):
    sizes = ["--families", "Q-Margin", "KappaFace", "--classes", "40", "--epochs", "1", "--batch", "32"]
    sizes += ["--identities", "200"]
    with pytest.raises(ValueError, match="run `grid` to its end first"):
        low_far.main(["final", str(tmp_path), *sizes])
    low_far.main(["grid", str(tmp_path), *sizes])
    low_far.main(["final", str(tmp_path), *sizes])
    results = sorted((tmp_path / "final").glob("*.json"))
    assert len(results) == 4
    assert not list(tmp_path.glob("*/*.pt"))
    written = [path.read_bytes() for path in results]
    low_far.main(["final", str(tmp_path), *sizes])  # finds all of it done
    assert [path.read_bytes() for path in results] == written
    capsys.readouterr()
    low_far.main(["tables", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "## 40 classes, 1 epochs in batches of 32, 199,000 impostor pairs, seeds [1, 2]" in shown
    assert shown.count("| KappaFace | scale ") == 1
    active = {cells[0]: cells[3] for line in shown.splitlines() if len(cells := line[2:].split(" | ")) == 8}
    assert active["KappaFace"] == "all"
    assert 1 <= int(active["Q-Margin"]) <= 40
    assert (tmp_path / "low_far_40classes_1epochs.svg").read_text().startswith("<?xml")
    longer = json.loads(results[2].read_text())
    longer["job"]["epochs"] = 2
    (tmp_path / "final" / "longer.json").write_text(json.dumps(longer))
    low_far.main(["tables", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "seeds [1, 2]" in shown
    assert "## 40 classes, 2 epochs in batches of 32, 199,000 impostor pairs, seeds [1]" in shown
    (tmp_path / "final" / "longer.json").unlink()
    results[0].unlink()  # of KappaFace
    low_far.main(["tables", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "'KappaFace': [2]" in shown
    assert "| KappaFace | scale " not in shown
    for path in results[2:]:
        path.unlink()
    with pytest.raises(ValueError, match="no results of Q-Margin"):
        low_far.main(["tables", str(tmp_path)])


def test_a_run_of_another_process_is_left_to_it(tmp_path, capsys):
    with (tmp_path / f".{job('Q-Margin').name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        low_far.work([job("Q-Margin")], tmp_path, 40, False)
    assert "another process" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.json"))


def test_with_one_seed_a_difference_has_the_interval_of_the_jackknife():
    torch.manual_seed(0)
    mean, n = torch.randn(60, 8), 60
    systems = [F.normalize(mean + noise * torch.randn(2, n, 8), dim=-1) for noise in (0.4, 0.6)]
    found = [left_out(scores(x[0], x[1:]), lambda s, kept: s.curve(kept).eer()[0], 1) for x in systems]
    one, other = (Estimate(np.array([f["value"]]), np.array([f["without"]])) for f in found)
    identity = torch.arange(n)
    trials = [(x[1] @ x[0].T).flatten().numpy() for x in systems]
    probed, enrolled = identity.repeat_interleave(n).numpy(), identity.repeat(n).numpy()
    values = speakers.values_of({"EER": vm.metrics.DetCurve.eer})
    without = [
        speakers.jackknife(values, speakers.grouped(listed, probed == enrolled, probed, enrolled), iter)
        for listed in trials
    ]
    variance, freedom = speakers.jackknife_variance(without[0][1][0] - without[1][1][0])
    difference = one.minus(other)
    assert difference.mean == pytest.approx(without[0][0][0] - without[1][0][0])
    assert difference.half_width(0.0, 1.0) == pytest.approx(student.quantile(0.95, freedom) * variance**0.5, rel=1e-6)


def test_families_are_left_out_as_a_whole():
    torch.manual_seed(0)
    x = F.normalize(torch.randn(2, 200, 8), dim=-1)
    kept = []
    left_out(scores(x[0], x[1:]), lambda s, k: 0.0 if k is None else float(kept.append(k.reshape(10, 20)) or 0))
    assert len(kept) == 40
    for families in kept:
        assert (families.all(1) ^ ~families.any(1)).all()
        assert families.all(1).sum() == 9


def test_the_variance_between_seeds_widens_the_interval():
    without = np.full((3, 4, 10), 0.5)
    estimates = [Estimate(np.array([0.5, 0.6, 0.7]), without), Estimate(np.array([0.1, 0.1, 0.1]), without)]
    variance, freedom = low_far_tables.seed_variance(estimates)
    assert (variance, freedom) == pytest.approx((0.005, 4))  # (0.01 + 0) / 2, two degrees of freedom each
    t = 2.776  # of 4 degrees of freedom
    assert estimates[0].half_width(variance, freedom) == pytest.approx(t * (0.005 / 3) ** 0.5, rel=0.02)
