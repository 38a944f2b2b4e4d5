from importlib.metadata import entry_points

import pytest
from verimargin.commands.training_run import GROUP, open_run


def test_the_first_toolkit_that_knows_the_run_opens_it(tmp_path):
    openers = [lambda *_: None, lambda path, network: (path, network), lambda *_: pytest.fail("it has been opened")]
    assert open_run(tmp_path, "r50", openers) == (tmp_path, "r50")


def test_a_folder_of_no_toolkit_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"is no folder of a training run: give SpeechBrain's.*model\.pt"):
        open_run(tmp_path, "", [lambda *_: None])
    with pytest.raises(ValueError, match="none does not exist: give the output folder"):
        open_run(tmp_path / "none", "", [])


@pytest.mark.skipif(not entry_points(group=GROUP), reason="verimargin is not installed")
def test_both_adapters_are_asked():
    assert {entry.name for entry in entry_points(group=GROUP)} == {"insightface", "speechbrain"}
