"""A margin or a scale on a schedule, as one more entry of a recipe."""

from __future__ import annotations

import verimargin as vm
from speechbrain.utils.epoch_loop import EpochCounter

from .cost import SpeakerCost


class MarginSchedule(vm.Schedule):
    """A `verimargin.Schedule` that follows the training of the unmodified script::

        schedule: !new:verimargin_speechbrain.MarginSchedule
            cost: !ref <compute_cost>
            margin: !new:verimargin.Ramp {initial: 0.0, final: 0.2, start: 0, end: 4}
            epoch_counter: !ref <epoch_counter>

    List it under the checkpointer's `recoverables`, so that a resumed run goes on with it; without that, training is
    refused. Validation does not count.

    Args:
        cost: the recipe's `compute_cost`: a `QMarginLoss`, `MarginCost` or `PrototypeCost`.
        margin, scale: a `verimargin.Ramp` each.
        epoch_counter: that of the recipe. With it, t is the number of epochs that are finished; without it, of training
            steps, of which each is one computation of the loss.
    """

    def __init__(
        self,
        cost: SpeakerCost,
        margin: vm.Ramp | None = None,
        scale: vm.Ramp | None = None,
        epoch_counter: EpochCounter | None = None,
    ):
        if not isinstance(cost, SpeakerCost):
            raise ValueError(
                f"the schedule's cost is a {type(cost).__name__}: give a QMarginLoss, MarginCost or PrototypeCost, "
                "`cost: !ref <compute_cost>`"
            )
        super().__init__(cost.margin_loss, margin, scale)
        self.epoch_counter = epoch_counter
        cost.follow(self)

    def before_step(self) -> None:
        """Go to the epoch that is being trained, if epochs are counted."""
        if self.epoch_counter is None:
            return
        if self.epoch_counter.current < 1:
            raise RuntimeError(
                "the schedule's epoch_counter counts no epoch: give it the one that the script uses, `epoch_counter: "
                "!ref <epoch_counter>`"
            )
        if self.count != self.epoch_counter.current - 1:
            self.set_count(self.epoch_counter.current - 1)

    def after_step(self) -> None:
        """Go on by one step, if steps are counted."""
        if self.epoch_counter is None:
            self.step()

    def settings(self) -> dict[str, str]:
        """What must not change between the checkpoints of a run."""
        return {**super().settings(), "Schedule.unit": "steps" if self.epoch_counter is None else "epochs"}
