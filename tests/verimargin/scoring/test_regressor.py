import pytest
import torch
import verimargin as vm
from small_ida import SIZE, A, F, N, fitted, rows


class TestRegressor:
    def test_learns_the_density_of_embeddings_it_has_not_seen(self):
        f, scorer = (
            rows(3000, 3)[torch.randperm(3000, generator=torch.Generator().manual_seed(0))],
            vm.IDAScorer(rows(400, 4), k=10, tau=2.0),
        )
        regressor, history = vm.SupportSetRegressor(SIZE, 128, tau=2.0), []
        fit = regressor.fit(
            f[:2500].float(), scorer.density(f[:2500]), epochs=60, on_epoch=lambda *epoch: history.append(epoch)
        )
        truth = scorer.log_density(f[2500:])
        error = float((regressor.log_density(f[2500:]) - truth).square().mean() / truth.var())
        assert error < 0.2
        assert fit.held_out_error == pytest.approx(error, rel=0.5)
        assert [epoch for epoch, *_ in history] == list(range(1, fit.epochs + 1))
        assert fit.held_out_error == min(error for *_, error in history)
        assert history[fit.best_epoch - 1][2] == fit.held_out_error

    def test_is_scaled_by_the_training_part_alone(self):
        """What is held out measures the fit, and must not take part in it."""
        densities = torch.linspace(0.5, 2.0, 10)
        regressor = vm.SupportSetRegressor(SIZE, 4)
        regressor.fit(rows(10, 5).float(), densities, held_out=0.4, epochs=1, seed=3)
        train = torch.randperm(10, generator=torch.Generator().manual_seed(3))[4:]
        logs = densities.double().log()[train]
        assert float(regressor.mean) == pytest.approx(float(logs.mean()), abs=1e-6)
        assert float(regressor.std) == pytest.approx(float(logs.std(correction=0)), abs=1e-6)

    def test_stops_early_and_keeps_the_best_epoch(self):
        """Densities that nothing predicts: the held-out error soon rises."""
        noise = torch.rand(60, generator=torch.Generator().manual_seed(0)) + 0.5
        short, long = vm.SupportSetRegressor(SIZE, 64), vm.SupportSetRegressor(SIZE, 64)
        fit = long.fit(rows(60, 5).float(), noise, held_out=0.3, patience=4, learning_rate=0.01)
        assert fit.epochs == fit.best_epoch + 4 < 200
        short.fit(rows(60, 5).float(), noise, held_out=0.3, learning_rate=0.01, epochs=fit.best_epoch)
        assert torch.equal(short.linear1.weight, long.linear1.weight)

    def test_a_seed_gives_the_same_weights_whatever_came_before(self):
        torch.manual_seed(1)
        first = fitted().state_dict()
        torch.manual_seed(2)
        before = torch.get_rng_state()
        second = vm.SupportSetRegressor(SIZE, 32, 4, 1.5)
        torch.set_rng_state(before)
        second.fit(F.float(), vm.IDAScorer(A, 4, 1.5).density(F.float()), epochs=20, batch_size=8)
        assert torch.equal(torch.get_rng_state(), before)
        assert all(torch.equal(second.state_dict()[key], first[key]) for key in ("linear1.weight", "linear2.weight"))

    def test_alike_densities_are_predicted_as_they_are(self):
        regressor = vm.SupportSetRegressor(SIZE, 8)
        regressor.fit(F.float(), torch.full((N,), 0.25), epochs=300, learning_rate=0.01, patience=300)
        torch.testing.assert_close(regressor.density(F.float()), torch.full((N,), 0.25), atol=0.02, rtol=0)


ONES = torch.ones(4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: vm.SupportSetRegressor(SIZE, 0), ValueError, "hidden is 0"),
        (lambda: vm.SupportSetRegressor(SIZE, 8, tau=0), ValueError, r"tau is 0\.0"),
        (lambda: vm.SupportSetRegressor(SIZE, 8).score(F, F), RuntimeError, r"not fitted: call fit\(\)"),
        (lambda: vm.SupportSetRegressor(SIZE, 8).fit(F[:4], ONES[:3]), ValueError, r"densities \(3,\)"),
        (lambda: vm.SupportSetRegressor(SIZE, 8).fit(F[:1], ONES[:1]), ValueError, "N at least 2"),
        (lambda: vm.SupportSetRegressor(SIZE, 8).fit(F[:4], 0 * ONES), ValueError, "density 0 is 0: give positive"),
        (lambda: vm.SupportSetRegressor(SIZE, 8).fit(F[:4], ONES, held_out=1), ValueError, r"held_out is 1\.0"),
        (lambda: vm.SupportSetRegressor(SIZE, 8).fit(F[:4], ONES, patience=0), ValueError, "patience 0"),
        (
            lambda: vm.SupportSetRegressor(SIZE, 8).fit(F[:4], ONES, learning_rate=0),
            ValueError,
            r"learning_rate is 0\.0",
        ),
        (lambda: vm.SupportSetRegressor(SIZE, 8).fit(F[0], ONES), ValueError, "N at least 2"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_settings_are_the_papers_unless_others_are_given():
    for scorer in (vm.SupportSetRegressor(SIZE, 8), vm.IDAScorer(A)):
        assert (scorer.k, scorer.tau) == (10, 1.0)
