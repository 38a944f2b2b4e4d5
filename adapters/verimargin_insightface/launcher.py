"""``python -m verimargin_insightface SCRIPT ARGS``: an upstream script, unchanged, on today's libraries."""

from __future__ import annotations

import logging
import os
import runpy
import sys

from .mends import MENDS, Mend

logger = logging.getLogger(__name__)

USAGE = """usage: python -m verimargin_insightface SCRIPT [ARGS ...]
       torchrun [...] -m verimargin_insightface SCRIPT [ARGS ...]

Run a script of InsightFace's recognition/arcface_torch or recognition/_evaluation_/ijb as it is, after
mending what today's libraries or a machine without a GPU lack, each said in one line. The mends are:
"""


def main(argv: list[str]) -> None:
    """Run argv[0] as a program with the rest as its arguments."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE + "".join(f"  {mend.name:<24}{mend.why}\n" for mend in MENDS))
        sys.exit(0 if argv else 2)
    script = argv[0]
    if not os.path.isfile(script):
        sys.exit(f"there is no script {script}: give the path of one, e.g. train_v2.py in arcface_torch's folder")
    _log_to_stderr()
    sys.argv[:] = argv
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    mend_all(MENDS, script)
    runpy.run_path(script, run_name="__main__")


def mend_all(mends: tuple[Mend, ...], script: str = "") -> list[str]:
    """Apply the mends that are needed here, in order, and return their names."""
    applied = []
    for mend in mends:
        if mend.needed(script):
            mend.apply(script)
            logger.info("mended %s: %s", mend.name, mend.why)
            applied.append(mend.name)
    return applied


def _log_to_stderr() -> None:
    """On the first rank, by a handler of its own: the scripts set up the root logger for themselves."""
    log = logging.getLogger("verimargin_insightface")
    log.propagate = False
    log.addHandler(logging.StreamHandler())
    log.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
