import json

import pytest
from verimargin.files import calibrations as files
from verimargin.files.calibrations import (
    CalibratedMethod,
    Calibrations,
    FarThreshold,
    describe_list,
    read_calibrations,
    write_calibrations,
)
from verimargin.scoring.calibration import Calibration


@pytest.fixture
def example(tmp_path):
    (tmp_path / "dev.txt").write_text("1 a b\n0 a c\n")
    thresholds = [FarThreshold(0.1, 1 / 3, (0.25, 0.5)), FarThreshold(0.01, 2.0, None)]
    cosine = CalibratedMethod("cosine", Calibration(-1 / 3, 12.5, {"size": (0.1, -0.2)}), thresholds)
    listed = describe_list(tmp_path / "dev.txt", targets=1, non_targets=1)
    return Calibrations(listed, "abc", 0.5, {"cohort": "123"}, {"cosine": cosine})


def test_what_is_written_is_read_and_can_be_read_by_people(example, tmp_path):
    write_calibrations(tmp_path / "c.json", example)
    assert read_calibrations(tmp_path / "c.json") == example
    text = json.loads((tmp_path / "c.json").read_text())
    assert text["format"] == "verimargin calibration"
    assert text["version"] == 1
    assert text["methods"]["cosine"]["qualities"]["size"] == {"low": 0.1, "high": -0.2}
    assert text["methods"]["cosine"]["thresholds"][1] == {"far": 0.01, "threshold": 2.0, "interval": None}
    assert text["trials"]["name"] == "dev.txt"
    assert text["trials"]["targets"] == 1


def test_a_list_is_known_by_its_content(tmp_path):
    (tmp_path / "a").write_text("1 a b\n")
    (tmp_path / "b").write_text("1 a b\n")
    (tmp_path / "c").write_text("1 a c\n")
    a, b, c = (files.digest(tmp_path / name) for name in "abc")
    assert a == b != c
    assert len(a) == 64


def test_nothing_is_overwritten_and_no_nan_is_written(example, tmp_path):
    write_calibrations(tmp_path / "c.json", example)
    with pytest.raises(FileExistsError, match="exists already"):
        write_calibrations(tmp_path / "c.json", example)
    with pytest.raises(ValueError, match=r"has to be an \.json file"):
        write_calibrations(tmp_path / "c.pkl", example)
    example.methods["cosine"] = CalibratedMethod("cosine", Calibration(float("nan"), 1.0), [])
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_calibrations(tmp_path / "d.json", example)
    assert not (tmp_path / "d.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda held: held.update(format="other"), "is no calibration: give a file that verimargin calibrate wrote"),
        (lambda held: held.update(version=2), "has version 2 of its format, this verimargin knows 1: update it"),
        (lambda held: held.pop("methods"), "is no calibration"),
        (lambda held: held["methods"]["cosine"].update(scale="12"), "is no calibration"),
        (lambda held: held["methods"]["cosine"].update(offset=True), "is no calibration"),
        (lambda held: held["methods"]["cosine"].update(offset=float("inf")), "is no calibration"),
        (lambda held: held["methods"].update(cosine=[]), "is no calibration"),
        (lambda held: held["methods"]["cosine"]["thresholds"][0].update(interval=[1]), "is no calibration"),
    ],
)
def test_another_file_is_named(example, tmp_path, change, message):
    write_calibrations(tmp_path / "c.json", example)
    held = json.loads((tmp_path / "c.json").read_text())
    change(held)
    (tmp_path / "c.json").write_text(json.dumps(held))
    with pytest.raises(ValueError, match=message):
        read_calibrations(tmp_path / "c.json")


@pytest.mark.parametrize("content", ["", "[1]", "{", "null", "[" * 10_000])
def test_what_is_no_json_object_is_named(tmp_path, content):
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(ValueError, match=r"c\.json is no calibration"):
        read_calibrations(tmp_path / "c.json")
    with pytest.raises(ValueError, match="does not exist: make it with verimargin calibrate"):
        read_calibrations(tmp_path / "none.json")
