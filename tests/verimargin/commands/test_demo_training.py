import io

import pytest
from rich.console import Console
from verimargin.commands.demo_training import Step, how_it_begins, sending, train_all


def job(number, send):
    send(how_it_begins(number, "save/checkpoint"))
    for _ in sending(send)([1, 2, 3], title="epoch 1 of 1"):
        pass


def failing(number, send):
    for _ in sending(send)([1, 2], title="epoch 1 of 1"):
        raise ValueError(f"loss {number} is nan")


def test_the_terminal_names_the_loss_and_says_what_is_resumed_and_done():
    console = Console(file=io.StringIO(), width=200)
    train_all(job, {"ArcFace": (0,), "Q-Margin": (2,), "KappaFace": (0,)}, console)
    lines = console.file.getvalue().splitlines()
    assert lines[0].startswith("Training 3 losses, ")
    assert sorted(lines[1:]) == [
        "ArcFace: begins",
        "ArcFace: trained and scored",
        "KappaFace: begins",
        "KappaFace: trained and scored",
        "Q-Margin: resumes after epoch 2, from save/checkpoint",
        "Q-Margin: trained and scored",
    ]
    train_all(job, {}, console)
    assert len(console.file.getvalue().splitlines()) == 7


def test_bars_name_the_loss_and_the_epoch(monkeypatch):
    import tqdm

    shown = []

    class Bar(tqdm.tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **{**kwargs, "disable": False, "file": io.StringIO(), "mininterval": 0})

        def update(self, n=1):
            super().update(n)
            shown.append((self.desc, self.n, self.total))

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    train_all(job, {"ArcFace": (0,)}, Console(file=io.StringIO()))
    assert shown == [("ArcFace, epoch 1 of 1: ", n, 3) for n in (1, 2, 3)]


def test_an_error_in_a_training_is_that_of_the_command():
    with pytest.raises(ValueError, match=r"^loss 7 is nan$"):
        train_all(failing, {"ArcFace": (7,)}, Console(file=io.StringIO()))


def test_steps_are_sent_when_they_are_done():
    sent = []
    for letter in sending(sent.append)("ab", title="part"):
        sent.append(letter)
    assert sent == ["a", Step("part", 1, 2), "b", Step("part", 2, 2)]
