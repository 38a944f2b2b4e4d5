import pytest
from verimargin.commands.comparison import toolkit


class Entry:
    name = "speechbrain"

    def load(self):
        return "the adapter"


def test_a_toolkit_is_found_by_its_entry_point(monkeypatch):
    monkeypatch.setattr(toolkit, "entry_points", lambda group: [Entry()] if group == toolkit.GROUP else [])
    assert toolkit.find_toolkit("speechbrain") == "the adapter"
    with pytest.raises(ValueError, match="did you mean speechbrain"):
        toolkit.find_toolkit("speechbrian")


def test_a_refusal_names_the_key_and_keeps_the_words():
    with pytest.raises(ValueError, match="test_data is refused: no folder"), toolkit.refused("test_data"):
        raise ValueError("no folder")


def test_counts_are_positive_integers():
    assert toolkit.positive_integer("num_classes", 3) == 3
    for wrong in ("3", 3.0, 0, True, None):
        with pytest.raises(ValueError, match=r"settings have num_classes .*: give a whole number of at least 1"):
            toolkit.positive_integer("num_classes", wrong)
