"""IDA instead of the cosine in the IJB evaluators: ``python -m verimargin_insightface --ida FILE SCRIPT ARGS``.

The files of the scripts are not changed. `SEAMS` lists their functions that compare templates: if a script defines one
of them, ours replaces it in the namespace of the running script, and nowhere else.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import numpy as np
import torch
import verimargin as vm
from torch import Tensor
from verimargin._checks import unit_rows
from verimargin.files.networks import fingerprint
from verimargin.files.scorers import ScorerFile, read_scorer
from verimargin.scoring.density_spread import spread_over_all_pairs
from verimargin.scoring.ida import DensityScorer, dao
from verimargin.scoring.pairs import slices

logger = logging.getLogger(__name__)

PAIRS = ("template_norm_feats", "unique_templates", "p1", "p2")
ALL = ("query_feats", "gallery_feats")
SEAMS = {  # the names of upstream's functions, with the arguments that each begins with
    "verification": PAIRS,  # onnx_ijbc.py, eval_ijbc.py, ijb_11.py, ijb_onnx.py
    "verification_11": PAIRS,  # ijb_evals.py, 1:1
    "evaluation_1N": ALL,  # ijb_evals.py, 1:N
    "evaluation": ALL,  # ijb_1n.py
}
SCRIPTS = "onnx_ijbc.py, eval_ijbc.py and ijb_evals.py"
DECORATOR = "_verimargin_ida"
ENOUGH = 32  # templates to look at the spread of their densities
LARGEST_TAU = 300.0  # up to here exp(-2 tau) is a normal float64


def run(script: str, code: CodeType, scorer: DensityScorer) -> None:
    """Run the code from `with_seams` as a program."""
    module = ModuleType("__main__")
    module.__dict__.update({"__file__": script, DECORATOR: Comparison(scorer).instead_of})
    before, sys.modules["__main__"] = sys.modules["__main__"], module
    try:
        exec(code, module.__dict__)
    finally:
        sys.modules["__main__"] = before


def with_seams(script: str) -> CodeType:
    """The code of the script with each function of `SEAMS` in it decorated.

    Raises:
        ValueError: the script defines none of these functions, or one with other arguments.
    """
    tree = ast.parse(Path(script).read_bytes(), script)
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in SEAMS]
    if not found:
        raise ValueError(f"{script} defines none of {', '.join(SEAMS)}: --ida is for {SCRIPTS}")
    for node in found:
        known, names = SEAMS[node.name], tuple(argument.arg for argument in node.args.args)
        if names[: len(known)] != known:
            raise ValueError(
                f"{script} defines {node.name}({', '.join(names)}), but --ida replaces a function that begins with "
                f"({', '.join(known)}): score it without --ida, and compare the methods with `verimargin score`"
            )
        node.decorator_list.append(ast.Name(DECORATOR, ast.Load(), lineno=node.lineno, col_offset=node.col_offset))
    return compile(tree, script, "exec")


def open_scorer(path: str, k: int | None, tau: float | None, arguments: Sequence[str]) -> DensityScorer:
    """The scorer from a file of anchors or of a regressor, refused if it is for another encoder than the one that the
    script's arguments name.
    """
    models = _models(arguments)
    file = read_scorer(path, 10 if k is None else k, 1.0 if tau is None else tau)
    scorer = file.scorer
    _check_encoder(file, models)
    if isinstance(scorer, vm.SupportSetRegressor) and (k, tau) != (None, None):
        raise ValueError(
            f"{path} holds a regressor that was fitted for k {scorer.k} and tau {scorer.tau:g}: leave --ida-k and "
            "--ida-tau out"
        )
    if scorer.tau > LARGEST_TAU:
        raise ValueError(f"tau is {scorer.tau:g}: its scores would leave float64's range; give at most {LARGEST_TAU:g}")
    sizes = {size for model in models if (size := _output_size(model))}
    if sizes and scorer.embedding_size not in sizes:
        file.check_size(min(sizes), f"{models[0]}'s")
    return scorer.to("cuda" if torch.cuda.is_available() else "cpu")


def _check_encoder(file: ScorerFile, models: Sequence[Path]) -> None:
    """Refuse a file whose encoder is known and is none of the models."""
    if not file.encoder or not models:
        return
    found = [fingerprint(model) for model in models]
    if file.encoder not in found:
        try:
            file.check_encoder(found[-1])
        except ValueError as error:
            raise ValueError(
                f"{error}: the script uses {models[-1]} (an .onnx file that was not exported by the launcher or by "
                "export_onnx does not tell which model.pt it was made of: export it again)"
            ) from None


def describe(scorer: DensityScorer) -> str:
    if isinstance(scorer, vm.IDAScorer):
        return f"IDA-R, {len(scorer.anchors)} anchors, k {scorer.k}, tau {scorer.tau:g}"
    return f"IDA-L, fitted for k {scorer.k}, tau {scorer.tau:g}"


class Comparison:
    """Functions that replace the script's own and return the DAO, ``exp(tau cos) (F1 + F2)``, instead of the cosine.

    The density is computed once per template. Scores are computed as logarithms in float32, in blocks of the scorer's
    max_bytes, and returned as float64 like the script's.
    """

    def __init__(self, scorer: DensityScorer):
        self.scorer = scorer
        self._watched = False
        self._last: tuple[bytes, tuple[Tensor, Tensor]] | None = None  # of the features with this content

    def instead_of(self, function: Callable) -> Callable:
        """A decorator that replaces a function of `SEAMS` by ours, according to its name."""
        name = function.__name__
        logger.info("%s compares by %s", name, describe(self.scorer))
        return self.verification if SEAMS[name] == PAIRS else functools.partial(self.evaluation, function)

    def verification(
        self, template_norm_feats: np.ndarray, unique_templates: np.ndarray, p1: np.ndarray, p2: np.ndarray, *_: Any
    ) -> np.ndarray:
        """The scores (P,) of the templates p1 with the templates p2, from features (N, d) of unique templates (N,)."""
        unit, log_density = self._densities(template_norm_feats, unique_templates)
        i, j = _places(unique_templates, p1), _places(unique_templates, p2)
        return self.scorer.score_pairs(unit, i, j, log=True, log_density=log_density).double().exp_().cpu().numpy()

    def evaluation(
        self, function: Callable, query_feats: np.ndarray, gallery_feats: np.ndarray, *args: Any, **kwargs: Any
    ) -> Any:
        """The script's own function, called with probes whose np.dot with the gallery is the matrix of our scores."""
        return function(Probes(query_feats, self.matrix), gallery_feats, *args, **kwargs)

    def matrix(self, probes: np.ndarray, gallery: np.ndarray) -> np.ndarray:
        """The scores (N, M) of all probes (N, d) with the whole gallery (M, d)."""
        unit, log_density = self._densities(probes)
        others, of_others = self._densities(gallery, keep=False)
        scores = np.empty((len(unit), len(others)))
        for rows in slices(0, len(unit), max(1, self.scorer.max_bytes // (16 * len(others)))):
            log = dao(unit[rows] @ others.T, log_density[rows, None], of_others, self.scorer.tau, log=True)
            scores[rows] = log.double().exp_().cpu().numpy()
        return scores

    def _densities(
        self, features: np.ndarray, templates: np.ndarray | None = None, keep: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Unit features (N, d) and their log densities (N,), kept for the next call with the same features."""
        content = _content(features)  # not the array's identity: it may have been edited in place
        if self._last is not None and self._last[0] == content:  # the probes are used with two galleries
            return self._last[1]
        if features.shape[1] != self.scorer.embedding_size:
            raise ValueError(
                f"the templates' features have {features.shape[1]} numbers, the scorer's {self.scorer.embedding_size}: "
                "make the anchors with the model that is evaluated"
            )
        device = next(self.scorer.buffers()).device
        rows = torch.from_numpy(features.astype(np.float32)).to(device)
        unit = unit_rows(rows, "the feature of template", templates)
        found = unit, self.scorer.log_density(unit)
        self._watch_spread(*found)
        if keep:
            self._last = content, found
        return found

    def _watch_spread(self, unit: Tensor, log_density: Tensor) -> None:
        """Say once, of the first templates, if their densities rival their cosines."""
        if self._watched or len(unit) < ENOUGH:
            return
        self._watched = True
        if warning := spread_over_all_pairs(unit, log_density, self.scorer.tau).warning:
            logger.warning("%s", warning)


def _content(features: np.ndarray) -> bytes:
    digest = hashlib.blake2b(f"{features.dtype} {features.shape}".encode())
    digest.update(np.ascontiguousarray(features).data)
    return digest.digest()


class Probes:
    """Features with ``np.dot(probes, gallery.T) == matrix(features, gallery)``; no other operation works on them."""

    def __init__(self, features: np.ndarray, matrix: Callable[[np.ndarray, np.ndarray], np.ndarray]):
        self.features, self.matrix, self.shape = features, matrix, features.shape

    def __array_function__(self, function: Callable, types: Any, args: tuple, kwargs: dict) -> Any:
        if function is np.dot and len(args) == 2 and args[0] is self and not kwargs:
            return self.matrix(self.features, args[1].T)
        return NotImplemented


def _places(unique_templates: np.ndarray, templates: np.ndarray) -> Tensor:
    """The row of each template."""
    unique_templates, templates = np.asarray(unique_templates), np.asarray(templates)
    table = np.full(unique_templates.max() + 2, -1)
    table[unique_templates] = np.arange(len(unique_templates))
    place = table[templates.clip(-1, len(table) - 1)]  # the last entry belongs to no template
    if (missing := place < 0).any():
        raise ValueError(
            f"the list of pairs names template {templates[missing][0]}, but there is no image of it "
            f"({int(missing.sum())} such pairs): give the lists of one protocol"
        )
    return torch.from_numpy(place)


def _models(arguments: Sequence[str]) -> list[Path]:
    """The encoder files among the arguments of a script, or in the folders among them (onnx_ijbc.py's --model-root)."""
    paths = [Path(argument.partition("=")[2] if argument.startswith("--") else argument) for argument in arguments]
    found = [path for path in paths if path.suffix in (".onnx", ".pt", ".pth") and path.is_file()]
    return found + [model for path in paths if path.name and path.is_dir() for model in sorted(path.glob("*.onnx"))]


def _output_size(model: Path) -> int | None:
    """The embedding size, if an .onnx file declares it."""
    if model.suffix != ".onnx":
        return None
    import onnx

    shape = onnx.load(model, load_external_data=False).graph.output[0].type.tensor_type.shape
    return (shape.dim[-1].dim_value or None) if shape.dim else None
