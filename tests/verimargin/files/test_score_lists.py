import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from verimargin.files import score_lists
from verimargin.files.score_lists import decimals, write_score_list
from verimargin.files.trials import Trials

IDS = ["a", "id10270/x/00001.wav", "é\0ÿ", "b" * 50]
dtypes = st.sampled_from([np.float32, np.float64])
usual = st.floats(-4, 4, width=32) | st.floats(-(2.0**30), 2.0**30, width=32)


@settings(deadline=None, max_examples=300)
@given(st.lists(usual, max_size=9) | st.lists(st.floats(width=32), max_size=9), dtypes)
@example([0.0078125, -0.0078125, 0.0234375, -0.0, -1e-7, 0.9999999], np.float32)  # halves go to the even digit
@example([2.0**31, np.nan, np.inf, -np.inf], np.float32)
@example([123456.789, -12.5, 1e-6], np.float32)
def test_numbers_are_written_as_python_writes_them(values, dtype):
    values = np.array(values, dtype=dtype)
    written = [row.tobytes().replace(b"\xff", b"").decode() for row in decimals(values)]
    assert written == [f"{value:f}" for value in values.tolist()]


@pytest.mark.parametrize("block", [1, 300, 2**22])
def test_a_line_for_each_trial(tmp_path, block, monkeypatch):
    monkeypatch.setattr(score_lists, "BLOCK", block)
    random = np.random.default_rng(0)
    enrol, test = random.integers(len(IDS), size=(2, 50)).astype(np.int32)
    trials, scores = Trials(enrol, test, enrol == test), random.normal(size=50).astype(np.float32) * 100
    write_score_list(tmp_path / "s.txt", IDS, trials, scores)
    lines = [f"{IDS[e]} {IDS[t]} {e == t:d} {s:f}\n" for e, t, s in zip(enrol, test, scores.tolist())]
    assert (tmp_path / "s.txt").read_bytes() == "".join(lines).encode()
