"""``python -m verimargin_insightface SCRIPT ARGS``: runs an unchanged upstream script on today's libraries."""

from __future__ import annotations

import argparse
import logging
import os
import runpy
import sys
from collections.abc import Callable

from .compat import FIXES, Fix
from .config_check import check_configs

logger = logging.getLogger(__name__)

IN_EXTRA = {  # the names under which the packages of the extra are imported
    "torchvision", "cv2", "easydict", "tensorboard", "onnx", "onnxruntime", "skimage", "sklearn", "scipy", "pandas",
    "prettytable", "tabulate", "matplotlib", "tqdm", "requests", "PIL",
}  # fmt: skip
USAGE = """python -m verimargin_insightface [--ida FILE] SCRIPT [ARGS ...]
       torchrun [...] -m verimargin_insightface SCRIPT [ARGS ...]"""
ABOUT = """Run an unchanged script of InsightFace's recognition/arcface_torch or recognition/_evaluation_/ijb, after
applying the compatibility fixes that today's libraries or a machine without a GPU require. Each fix that is applied is
logged. The fixes are:

"""


def main(argv: list[str]) -> None:
    """Run a script as a program with the arguments that follow it."""
    options = _options(argv)
    script, arguments = options.script, options.arguments
    if not os.path.isfile(script):
        sys.exit(f"there is no script {script}: give the path of one, e.g. train_v2.py in arcface_torch's folder")
    try:
        check_configs(script, arguments)
    except ValueError as error:
        sys.exit(str(error))
    with_ida = _ida(options) if options.ida else None
    _log_to_stderr()
    sys.argv[:] = [script, *arguments]
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    apply_fixes(FIXES, script)
    try:
        if with_ida:
            with_ida()
        else:
            runpy.run_path(script, run_name="__main__")
    except ModuleNotFoundError as error:
        sys.exit(_missing(script, error))


def _missing(script: str, error: ModuleNotFoundError) -> str:
    """What to do about an import of the script that failed."""
    name = (error.name or "").partition(".")[0]
    if name in IN_EXTRA:
        advice = "pip install 'verimargin[insightface]', which has what the scripts need"
    elif name == "insightface":
        advice = "pip install insightface, or keep the script in a whole checkout, beside python-package"
    else:  # not "pip install": a package of that name may be anything
        advice = f"the script needs {name}, which is neither beside it nor installed"
    return f"{script}: {error}: {advice}"


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        usage=USAGE,
        epilog=ABOUT + "".join(f"  {fix.name:<24}{fix.why}\n" for fix in FIXES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--ida",
        metavar="FILE",
        help="score with IDA, by a file from `verimargin anchors` or `verimargin train-ssr`; for the IJB evaluators",
    )
    parser.add_argument("--ida-k", metavar="K", type=int, help="the number of nearest anchors that IDA uses (10)")
    parser.add_argument("--ida-tau", metavar="TAU", type=float, help="IDA's temperature (1)")
    parser.add_argument("script", metavar="SCRIPT")
    parser.add_argument("arguments", metavar="ARGS", nargs=argparse.REMAINDER)
    options = parser.parse_args(argv)
    if not options.ida and (options.ida_k, options.ida_tau) != (None, None):
        parser.error("--ida-k and --ida-tau belong to --ida FILE: give that too")
    return options


def _ida(options: argparse.Namespace) -> Callable[[], None]:
    """A function that runs the script with IDA; what cannot be run is refused before that."""
    from . import ida

    try:
        code = ida.with_seams(options.script)
        scorer = ida.open_scorer(options.ida, options.ida_k, options.ida_tau, options.arguments)
    except (ValueError, OSError) as error:
        sys.exit(f"--ida: {error}")
    return lambda: ida.run(options.script, code, scorer)


def apply_fixes(fixes: tuple[Fix, ...], script: str = "") -> list[str]:
    """Apply the fixes that are needed here, in order, and return their names."""
    applied = []
    for fix in fixes:
        if fix.needed(script):
            fix.apply(script)
            logger.info("applied %s: %s", fix.name, fix.why)
            applied.append(fix.name)
    return applied


def _log_to_stderr() -> None:
    """Log to stderr by a separate handler, as the scripts configure the root logger; only rank 0 logs everything."""
    log = logging.getLogger("verimargin_insightface")
    log.propagate = False
    log.addHandler(logging.StreamHandler())
    log.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
