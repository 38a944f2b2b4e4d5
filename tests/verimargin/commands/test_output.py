import pytest
from verimargin.commands.output import new_output
from verimargin.files.whole import alone, whole


@new_output(".npz")
def command(given, out, seed=0):
    """What it does."""
    with whole(out) as partial:
        partial.write_text(f"{given} {seed}")


def test_a_command_writes_a_new_file(tmp_path):
    assert command.__doc__ == "What it does."
    command("a", tmp_path / "a.npz")
    command("b", out=tmp_path / "b.npz", seed=3)
    assert (tmp_path / "b.npz").read_text() == "b 3"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_it_does_not_begin_where_it_could_not_end(tmp_path):
    for wrong, message in (("a.pt", "to be an"), ("none/a.npz", "is not a folder")):
        with pytest.raises(ValueError, match=message):
            command("a", tmp_path / wrong)
    with alone(tmp_path / "a.npz"), pytest.raises(ValueError, match=r"another process is writing .*a\.npz"):
        command("a", tmp_path / "a.npz")
    assert not list(tmp_path.iterdir())
