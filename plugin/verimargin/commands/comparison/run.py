"""One run of an experiment, a loss with a seed, and its folder."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...files.reading import read_text
from ...files.whole import whole
from .experiment import Experiment, folder_name
from .losses import NamedLoss

ERROR = re.compile(r"(\[rank\d+\]: *)?[\w.]*(Error|Exception): ")  # the end of a traceback
SETTINGS, STATE, LOG, TRAIN, EVALUATION = "settings.json", "state.json", "log.txt", "train", "evaluation"
STEPS = ("train", "evaluate")
LAST_LINES = 12


@dataclass(frozen=True)
class Run:
    """A loss and a seed; what belongs to them is kept in `folder`."""

    loss: NamedLoss
    seed: int
    folder: Path
    settings: dict[str, Any]

    @property
    def title(self) -> str:
        return f"{self.loss.title}, seed {self.seed}"

    @property
    def scores(self) -> Path:
        return self.folder / EVALUATION / "report" / "scores.npz"

    def state(self) -> dict[str, dict[str, Any]]:
        """For each step that was started, `seconds` that it has taken so far, and whether it is `finished`."""
        path = self.folder / STATE
        if not path.is_file():
            return {}
        try:
            return json.loads(read_text(path))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is damaged ({error}): remove it, and the run is finished again") from error

    def note(self, step: str, seconds: float, finished: bool) -> None:
        """Write the state of a step."""
        write_json(self.folder / STATE, {**self.state(), step: {"seconds": seconds, "finished": finished}})

    @property
    def finished(self) -> bool:
        state = self.state()
        return all(state.get(step, {}).get("finished") for step in STEPS)

    @property
    def seconds(self) -> float:
        return sum(step["seconds"] for step in self.state().values())

    def last_lines(self) -> str:
        """The end of its log, and before it the last error: torchrun writes a footer of its own after it."""
        path = self.folder / LOG
        if not path.is_file():
            return ""
        text = path.read_bytes()[-200_000:].decode("utf-8", "replace").replace("\r", "\n")
        lines = [line for line in text.splitlines() if line.strip()]
        errors = [line for line in lines[:-LAST_LINES] if ERROR.match(line) and "ChildFailedError" not in line]
        return "\n".join([*errors[-1:], *lines[-LAST_LINES:]])

    def check_folder(self) -> None:
        """Refuse the folder of a run with other settings."""
        path = self.folder / SETTINGS
        if not path.is_file():
            return
        saved, ours = json.loads(read_text(path)), json.loads(json.dumps(self.settings))
        changed = [
            f"{key} is {saved.get(key)!r} there and {ours.get(key)!r} here"
            for key in sorted({*saved, *ours})
            if saved.get(key) != ours.get(key)
        ]
        if changed:
            raise ValueError(
                f"{self.folder} holds a run with other settings ({', '.join(changed)}): give the experiment another "
                "out, or remove that folder"
            )

    def begin(self, versions: dict[str, str]) -> None:
        """Make the folder, and write the settings and versions to it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / SETTINGS, self.settings)
        write_json(self.folder / "versions.json", versions)


def runs_of(experiment: Experiment) -> list[Run]:
    """All runs, the first seed of all losses first; an error names the folder of a run with other settings."""
    ranks = len(experiment.devices[0])
    runs = []
    for seed in experiment.seeds:
        for loss in experiment.losses:
            recipe = experiment.recipe_of(loss)
            settings = {
                "toolkit": experiment.toolkit,
                "recipe": recipe.name,
                "recipe's digest": hashlib.sha256(recipe.read_bytes()).hexdigest()[:12],
                "data": str(experiment.data),
                "trials": str(experiment.trials),
                "test_data": str(experiment.test_data or ""),
                "settings": experiment.settings_of(loss),
                "loss": {
                    key: value for key, value in asdict(loss).items() if key not in ("title", "settings", "recipe")
                },
                "seed": seed,
                "ranks": ranks,
            }
            run = Run(loss, seed, experiment.out / "runs" / folder_name(loss.title) / str(seed), settings)
            run.check_folder()
            runs.append(run)
    return runs


def expected_seconds(run: Run, runs: Sequence[Run]) -> float | None:
    """The mean time of the finished runs of its loss, or of any loss, less what the run has taken; None if unknown."""
    finished = [other for other in runs if other.finished]
    alike = [other for other in finished if other.loss == run.loss] or finished
    if not alike:
        return None
    return max(sum(other.seconds for other in alike) / len(alike) - run.seconds, 0.0)


def write_json(path: Path, values: Any) -> None:
    with whole(path) as partial:
        partial.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
