import pickle

import numpy as np
import pytest
from verimargin.files.pickles import DEEPEST, PLAIN, check_pickle


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_lists_and_arrays_are_plain(protocol):
    check_pickle(pickle.dumps(([b"image", np.ones(300, np.uint8), "text"], [True, np.bool_(0), 2.5, None]), protocol))


@pytest.mark.parametrize("value", [{"a": 1}, {1, 2}, frozenset([1])])
def test_what_hashes_is_not(value):
    with pytest.raises(pickle.UnpicklingError, match=r"it has the instruction [A-Z_]+, which such a file never has"):
        check_pickle(pickle.dumps(value))
    check_pickle(pickle.dumps({"a": 1}), PLAIN | {"EMPTY_DICT", "SETITEM"})


def test_a_memo_that_would_take_30_gigabytes_is_refused():
    with pytest.raises(pickle.UnpicklingError, match="instruction 1 uses the memo 4294967295"):
        check_pickle(b"]r\xff\xff\xff\xff.")


def test_tuples_that_could_end_the_process_when_they_are_hashed_are_refused():
    """A key of a million tuples inside each other ended the process by a segmentation fault."""
    deep = b")" + (DEEPEST + 1) * b"\x85" + b"."
    check_pickle(deep)
    with pytest.raises(pickle.UnpicklingError, match="it makes 50001 tuples"):
        check_pickle(deep, deepest=DEEPEST)


@pytest.mark.parametrize("data", [b"", b"no pickle", pickle.dumps([b"a" * 300])[:-9], b"I" + b"9" * 5000 + b"\n."])
def test_a_damaged_pickle_is_refused(data):
    with pytest.raises(pickle.UnpicklingError):
        check_pickle(data)
