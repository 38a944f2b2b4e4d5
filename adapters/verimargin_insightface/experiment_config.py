"""The config of one run of `verimargin compare`, made of a config file and what the experiment changes."""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import verimargin as vm

from . import rank_files


def configured(recipe: str, changes: Mapping[str, Any]) -> Any:
    """The config of a file with changes, registered if it has a loss of ours.

    Args:
        recipe: the path of a config file, ours or upstream's. A `register` in it waits for the changes.
        changes: `settings`, which replace those of the file; `loss`, None or the name of a function of the package and
            `options`, its arguments; `kappa`, that of the loss; `output`, the folder of the run.
    """
    import verimargin_insightface as adapter

    with _register_later():
        config = runpy.run_path(recipe)["config"]
    config.update(changes["settings"])
    output = Path(changes["output"])
    config.update(output=str(output), save_all_states=True, resume=bool(rank_files.saved(output)))
    if changes["loss"]:
        options = dict(changes["options"])
        if "quality" in options:
            options["quality"] = vm.Quality(**options["quality"])
        config.loss = getattr(vm, changes["loss"])(**options)
        config.pop("kappa", None)
        if changes["kappa"] is not None:
            config.kappa = dict(changes["kappa"])
    if config.get("loss") is not None:
        adapter.register(config)
    return config


def config_file(recipe: Path, changes: Mapping[str, Any]) -> str:
    """The text of a config file that `train_v2.py` imports."""
    return (
        '"""Written by verimargin compare."""\n\n'
        "import json\n\n"
        "from verimargin_insightface.experiment_config import configured\n\n"
        f"config = configured({str(recipe)!r}, json.loads({json.dumps(changes)!r}))\n"
    )


@contextmanager
def _register_later() -> Iterator[None]:
    """`register` does nothing meanwhile, under both names that a config file may import it by."""
    import verimargin_insightface as adapter

    from . import registration

    places: list[tuple[Any, Any]] = [(place, place.register) for place in (adapter, registration)]
    for place, _ in places:
        place.register = lambda config: None
    try:
        yield
    finally:
        for place, original in places:
            place.register = original
