import pytest

pytest.importorskip("tqdm", reason="tqdm is not installed: pip install 'verimargin[cli]'")
from verimargin.commands.progress import progress


@pytest.mark.parametrize("steps", [[3, 1, 2], range(4), []])
def test_yields_the_steps_as_they_are(steps):
    assert list(progress(steps, "counting")) == list(steps)


def test_takes_steps_one_by_one():
    taken = []

    def steps():
        for n in range(3):
            taken.append(n)
            yield n

    shown = iter(progress(steps(), "counting", "step", total=3))
    assert next(shown) == 0
    assert taken == [0]


def test_says_what_and_how_far_on_a_terminal_alone(monkeypatch, capsys):
    list(progress(range(3), "counting", "sheep"))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    for _ in progress(range(3), "counting", "sheep", mininterval=0):
        pass
    shown = capsys.readouterr().err
    assert "counting" in shown
    assert "2/3" in shown
    assert "sheep" in shown
