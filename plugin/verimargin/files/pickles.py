"""Which instructions a pickle consists of, looked at before it is opened.

An unpickler can be kept from importing anything, and still be crashed: by a key whose hash recurses through a million
tuples, or by the number of a memo that makes it reserve 30 GB.
"""

from __future__ import annotations

import pickle
import pickletools
from collections import Counter
from collections.abc import Collection

# What lists, tuples, strings, bytes, numbers, and the calls for arrays or tensors are written with.
# fmt: off
PLAIN = frozenset({
    "PROTO", "FRAME", "STOP", "MARK", "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1",
    "TUPLE2", "TUPLE3", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT",
    "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES",
    "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "PUT", "BINPUT",
    "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET", "MEMOIZE",
})
# fmt: on
DEEPEST = 50_000  # tuples that may lie inside each other: to hash a million of them ends the process


def check_pickle(data: bytes, allowed: Collection[str] = PLAIN, deepest: int | None = None) -> None:
    """Refuse a pickle that has other instructions, numbers its memo at will, or could nest more tuples than `deepest`.

    Raises:
        pickle.UnpicklingError: it is refused, or damaged.
    """
    used: Counter[str] = Counter()
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            used[opcode.name] += 1
            if opcode.name not in allowed:
                raise pickle.UnpicklingError(f"it has the instruction {opcode.name}, which such a file never has")
            if opcode.name.endswith("PUT") and int(argument) > number:  # type: ignore[arg-type]
                raise pickle.UnpicklingError(f"instruction {number} uses the memo {argument}")
    except (ValueError, OverflowError, MemoryError, IndexError) as error:
        raise pickle.UnpicklingError(str(error) or type(error).__name__) from error
    tuples = sum(used[name] for name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"))
    if deepest is not None and tuples > deepest:
        raise pickle.UnpicklingError(f"it makes {tuples} tuples, which may lie inside each other")
