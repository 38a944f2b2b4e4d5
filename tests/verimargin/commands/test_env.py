from verimargin.commands.env import env
from verimargin.commands.environment import describe


def test_prints_one_line_for_each(capsys):
    env()
    assert len(capsys.readouterr().out.splitlines()) == len(describe())
