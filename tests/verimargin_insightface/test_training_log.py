"""The statistics in upstream's log and TensorBoard, in a small script with upstream's calls."""

import logging

import pytest
import small_train_v2 as small
import verimargin as vm
from distributed import on_ranks

NAMES = ("active classes", "zero loss", "target cosine", "margin", "scale")


class Callback:
    """Like upstream's CallBackLogging."""

    def __init__(self, frequent, total_step, batch_size, start_step=0, writer=None):
        self.frequent, self.writer, self.calls = frequent, writer, 0

    def __call__(self, global_step, *_):
        self.calls += 1


def run(rank, folder):
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger().addHandler(handler)
    with small.as_train_v2() as script:
        small.NAMES["CallBackLogging"] = Callback
        config = small.configuration(folder, None, vm.q_margin(1.5, 10.0, 0.2))
        training, step = small.prepare(script, config), 0
        writer = script.SummaryWriter()
        callback = script.CallBackLogging(frequent=2, total_step=9, batch_size=3, writer=writer)
        values = []

        def look(*_):
            nonlocal step
            step += 1
            values.append(float(training.head.active_classes))
            callback(step, None, 0, False, 0.1, None)

        small.train(training, config, [0], look)
        return {"lines": lines, "scalars": writer.scalars, "steps": step, "calls": callback.calls, "active": values}


@pytest.mark.parametrize("ranks", [1, 2])
def test_rank_0_logs_the_means_as_often_as_upstream_and_each_epochs_end(ranks, tmp_path):
    (tmp_path / "a").mkdir()
    first, *others = on_ranks(ranks, run, str(tmp_path))
    steps, active = first["steps"], first["active"]
    logged = [line for line in first["lines"] if "active classes" in line]
    assert len(logged) == steps // 2 > 1
    assert all(name in line for line in logged for name in NAMES)
    assert logged[0].startswith("Global Step: 2   active classes ")
    (last,) = [line for line in first["lines"] if "prototypes without gradient" in line]
    assert last.startswith(f"Global Step: {steps}   ")
    scalars = [(step, value) for name, value, step in first["scalars"] if name == "head/active_classes"]
    assert [step for step, _ in scalars] == list(range(2, steps + 1, 2))
    assert [value for _, value in scalars] == pytest.approx(
        [(active[i] + active[i + 1]) / 2 for i in range(0, len(scalars) * 2, 2)]
    )
    assert {name for name, *_ in first["scalars"]} == {
        "head/active_classes", "head/zero_loss", "head/target_cosine", "head/margin", "head/scale",
        "head/prototypes_without_gradient",
    }  # fmt: skip
    assert first["calls"] == steps, "upstream's own callback is called too"
    for other in others:
        assert not other["scalars"]
        assert not [line for line in other["lines"] if "active classes" in line]
