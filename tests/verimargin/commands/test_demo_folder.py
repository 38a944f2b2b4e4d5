import json

import killed
import pytest
from verimargin.commands.demo_folder import demo_folder, remove_leftovers, same_settings
from verimargin.files.whole import alone

SETTINGS = {"seed": 0, "sizes": (1, 2)}


def names(folder):
    return [path.name for path in folder.iterdir()]


def test_the_same_demo_comes_back_to_its_folder_and_no_other(tmp_path):
    output = tmp_path / "deep" / "demo"
    for _ in range(2):
        with demo_folder(output, SETTINGS):
            assert json.loads((output / "settings.json").read_text())["sizes"] == [1, 2]
    assert names(output) == ["settings.json"]
    with pytest.raises(ValueError, match="holds a demo with other settings"), demo_folder(output, {"seed": 1}):
        pass
    with pytest.raises(ValueError, match=r"settings\.json is a file"):
        same_settings(output / "settings.json", SETTINGS)
    with pytest.raises(ValueError, match="not empty and holds no demo"):
        same_settings(output.parent, SETTINGS)


def test_a_wrong_seed_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="seed is -1"), demo_folder(tmp_path / "demo", {"seed": -1}):
        pass
    assert names(tmp_path) == []


def test_two_demos_in_one_folder_are_refused(tmp_path):
    """They trained over each other's checkpoints."""
    same_settings(tmp_path / "demo", SETTINGS)
    with (
        alone(tmp_path / "demo" / "settings.json"),
        pytest.raises(ValueError, match=r"another process is writing .*settings"),
        demo_folder(tmp_path / "demo", SETTINGS),
    ):
        pass
    assert names(tmp_path / "demo") == ["settings.json"]


def test_a_kill_at_the_very_beginning_leaves_a_folder_that_the_demo_takes(tmp_path):
    """The hidden file that was half written made the folder "not empty", for ever."""
    output, count = tmp_path / "demo", 0
    for _ in killed.kills(lambda: same_settings(output, SETTINGS), tmp_path):
        same_settings(output, SETTINGS)
        remove_leftovers(output)
        assert names(output) == ["settings.json"]
        killed.shutil.rmtree(output)
        count += 1
    assert count >= 3


def test_what_a_killed_demo_leaves_is_removed(tmp_path):
    output = tmp_path / "demo"
    (output / ".faces.12345678.partial" / "train").mkdir(parents=True)
    (output / ".settings.12345678.partial.json").touch()
    with demo_folder(output, SETTINGS):
        assert "settings.json" in names(output)
        assert not list(output.rglob("*.partial*"))


def test_damaged_settings_are_named(tmp_path):
    same_settings(tmp_path / "demo", SETTINGS)
    (tmp_path / "demo" / "settings.json").write_text("{")
    with pytest.raises(ValueError, match=r"settings\.json is damaged"):
        same_settings(tmp_path / "demo", SETTINGS)
