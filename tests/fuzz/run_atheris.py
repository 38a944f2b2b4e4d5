"""Looks for inputs that a reader neither reads nor refuses properly, guided by coverage, until it is stopped.

    pip install atheris
    python tests/fuzz/run_atheris.py "recordio" -max_total_time=3600

The first argument names a target of `targets.py`; the others are libFuzzer's. A finding is printed with its bytes.
"""

import sys
import tempfile
from pathlib import Path

PACKAGES = ["verimargin", "verimargin_insightface", "verimargin_speechbrain"]


def main() -> None:
    import atheris

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    with atheris.instrument_imports(include=PACKAGES):
        from fuzz.damage import KINDS, SNIPPETS, damaged
        from fuzz.targets import TARGETS, check

    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"give one of the targets: {', '.join(TARGETS)}")
    target = TARGETS[sys.argv.pop(1)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = target.make(folder)
        whole = {file: file.read_bytes() for file in files}

        def one_input(data: bytes) -> None:
            given = atheris.FuzzedDataProvider(data)
            file = files[given.ConsumeIntInRange(0, len(files) - 1)]
            inside = given.ConsumeBool()
            edits = []
            for _ in range(given.ConsumeIntInRange(1, 4)):
                kind, place = given.PickValueInList(list(KINDS)), given.ConsumeIntInRange(0, 2**16 - 1)
                snippet = given.ConsumeBool()
                edits.append((kind, place, given.PickValueInList(list(SNIPPETS)) if snippet else given.ConsumeBytes(8)))
            file.write_bytes(damaged(whole[file], edits, inside))
            try:
                check(target, folder)
            finally:
                file.write_bytes(whole[file])

        atheris.Setup(sys.argv, one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
