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
