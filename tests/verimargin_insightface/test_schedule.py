"""config.schedule in a small script with upstream's calls."""

import pytest
import reference
import small_train_v2 as small
import torch
import verimargin as vm
from distributed import on_ranks
from verimargin_insightface import register
from verimargin_insightface.schedule import ConfigSchedule

RAMPS = {"margin": vm.Ramp(0.0, 0.4, 0, 2), "scale": vm.Ramp(4.0, 8.0, 1, 3, "exponential")}


def values(ramps, t):
    return tuple(reference.ramp(r.initial, r.final, r.start, r.end, r.shape, t) for r in ramps.values())


def run_cases(rank, folder):
    with small.as_train_v2() as script:
        return {unit: follow(script, folder, unit) for unit in ("steps", "epochs")}


def follow(script, folder, unit):
    """The values and losses of three epochs, of which the last is run once more from the checkpoint before it."""
    config = small.configuration(folder, None, schedule={**RAMPS, "unit": unit})
    run, seen = small.prepare(script, config), []

    def look(*_):
        seen.append((run.head.schedule.count, config.loss.margin.m, config.loss.scale))

    losses = small.train(run, config, [0, 1], look)
    saved = small.checkpoint(run)
    last = small.train(run, config, [2])
    again = small.prepare(script, small.configuration(folder, None, schedule={**RAMPS, "unit": unit}), seed=9)
    small.restore(again, saved)
    resumed = small.train(again, config, [2])
    return {"seen": seen, "steps": len(losses) // 2, "last": last, "resumed": resumed, "keys": list(saved["head"])}


@pytest.mark.parametrize("ranks", [1, 2])
def test_each_step_has_its_margin_and_scale_and_a_resumed_run_equals_an_uninterrupted_one(ranks, tmp_path):
    (tmp_path / "a").mkdir()
    for result in on_ranks(ranks, run_cases, str(tmp_path)):
        for unit, found in result.items():
            steps = found["steps"]
            for n, (count, margin, scale) in enumerate(found["seen"]):
                t = n + 1 if unit == "steps" else n // steps  # a step is looked at after its loss
                assert count == t
                assert (margin, scale) == pytest.approx(values(RAMPS, t), abs=1e-12)
            assert found["last"] == found["resumed"]
            assert found["keys"] == ["weight"], "upstream's head opens the checkpoint"


def test_kappaface_scales_the_scheduled_margin(tmp_path):
    (tmp_path / "a").mkdir()
    (result,) = on_ranks(1, with_kappa, str(tmp_path))
    for count, margins, labels, psi in result:
        torch.testing.assert_close(margins, psi[labels] * reference.ramp(0.0, 0.8, 0, 2, "linear", count))


def with_kappa(rank, folder):
    with small.as_train_v2() as script:
        loss = vm.MarginLoss(small.Margins(0.8), scale=8.0)
        schedule = {"margin": vm.Ramp(0.0, 0.8, 0, 2), "unit": "epochs"}
        config = small.configuration(folder, {"estimator": "momentum"}, loss, schedule=schedule)
        run, seen = small.prepare(script, config), []

        def look(*_):
            labels, margins = loss.margin.given[-1]
            seen.append((run.head.schedule.count, margins.float(), labels, run.head.kappa.tracker.psi.float().clone()))

        small.train(run, config, [0, 1, 2], look)
        return seen


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (0.2, "config.schedule is 0.2: give a dict, such as"),
        (
            {"margn": vm.Ramp(0.0, 0.2, 0, 2), "unit": "steps"},
            "config.schedule has 'margn': it may have margin, scale, unit",
        ),
        ({"margin": vm.Ramp(0.0, 0.2, 0, 2)}, 'config.schedule has the unit None: give "steps" or "epochs"'),
        ({"margin": 0.2, "unit": "steps"}, "the schedule's margin is 0.2: give a Ramp"),
        ({"unit": "steps"}, "neither a margin nor a scale"),
    ],
)
def test_bad_settings_are_named(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        ConfigSchedule(settings, vm.q_margin())
    (tmp_path / "a").mkdir()
    with small.as_train_v2(), pytest.raises(ValueError, match=message):
        register(small.configuration(tmp_path, None, schedule=settings))
