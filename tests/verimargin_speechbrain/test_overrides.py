from pathlib import Path

import pytest
from hyperpyyaml import load_hyperpyyaml
from verimargin_speechbrain.overrides import as_yaml

RECIPE = """
folder: !PLACEHOLDER
inside: !ref <folder>/wav
number: 5
other: !ref <number>
"""
ODD = [
    "run #3",
    "#3",
    "a: b",
    "a:",
    "- a",
    "it's",
    'a "b" c',
    "a\tb",
    "*a",
    "&a b",
    "@a",
    "%a",
    "[a",
    "{a",
    "| a",
    "a,b",
    "é 5",
    "\\n",
]


@pytest.mark.parametrize("name", [*ODD, "5", "true", "1e3", "null", "plain", "a b"])
def test_a_path_arrives_as_it_is(name):
    loaded = load_hyperpyyaml(RECIPE, as_yaml({"folder": Path("/data", name)}))
    assert loaded["folder"] == f"/data/{name}"
    assert loaded["inside"] == f"/data/{name}/wav"
    assert load_hyperpyyaml(RECIPE, as_yaml({"folder": Path(name)}))["folder"] == name


@pytest.mark.parametrize("text", ODD)
def test_a_text_that_is_no_yaml_arrives_as_it_is(text):
    assert load_hyperpyyaml(RECIPE, as_yaml({"folder": f"/data/{text}"}))["inside"] == f"/data/{text}/wav"


@pytest.mark.parametrize(
    ("text", "value"),
    [("7", 7), ("1.5", 1.5), ("true", True), ("", None), ("'a #b'", "a #b"), ("[1, 2]", [1, 2])],
)
def test_a_text_may_be_yaml(text, value):
    assert load_hyperpyyaml(RECIPE, as_yaml({"folder": "x", "number": text}))["number"] == value


def test_a_reference_is_one():
    assert load_hyperpyyaml(RECIPE, as_yaml({"folder": "x", "other": "!ref <number>"}))["other"] == 5


@pytest.mark.parametrize("value", [3, 0.001, 1e-05, True, None, [1, 2]])
def test_values_keep_their_type(value):
    loaded = load_hyperpyyaml(RECIPE, as_yaml({"folder": "x", "number": value}))["number"]
    assert loaded == value
    assert type(loaded) is type(value)
