"""README and docs/ as a reader uses them: every Python block runs, every link leads somewhere, every command works.

The commands of a page run in its order, in one folder that holds small stand-ins of what they read (`workspace.py`):
those of `verimargin` but for the demo, the launcher with `--ida`, and the programs of docs/tools. What takes hours, a
data set, a checkout or a network is checked as far as it can be: `make` by its targets, `pip` by the extras, a
benchmark by its options, a script of upstream's by its name, its recipe or config, and its options. Other tests run
upstream's scripts.
"""

import re
import shlex
from pathlib import Path

import pytest
import workspace
from verimargin.files import hparams

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md"]


def blocks(page, language):
    """The fenced blocks of a language, indented ones too, without their common indentation."""
    found = re.finditer(rf"^( *)```{language}\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return ["\n".join(line.removeprefix(match[1]) for line in match[2].splitlines()) for match in found]


def commands(page):
    """The commands of the bash blocks, split into words, without comments."""
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def named(page):
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize(
    "block", [pytest.param(b, id=f"{named(p)}-{n}") for p in PAGES for n, b in enumerate(blocks(p, "python"))]
)
def test_python_runs(block, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    if "import insightface" in block:
        pytest.importorskip("insightface", reason="pip install --no-deps insightface")
        workspace.make_people(tmp_path)
    exec(compile(block, "block", "exec"), {"__name__": "block"})


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_and_recipes_exist(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(((?!https?:|mailto:)[^)#\s]+)", text):
        assert (page.parent / target).exists(), target
    for name in re.findall(r"verimargin hparams (\w+\.(?:yaml|py))", text):
        hparams.path(name)


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=named)
def test_commands_work(page, workspace_folder, monkeypatch):
    monkeypatch.chdir(workspace_folder)
    made: set[str] = set()
    for words in commands(page):
        workspace.run(words, made)


def test_a_wrong_command_is_noticed(workspace_folder, monkeypatch):
    """The checks above can fail."""
    monkeypatch.chdir(workspace_folder)
    for line in (
        "verimargin scores a b c",
        "verimargin score nothing.npz trials.txt out",
        "python train_speaker_embeddings.py train_ecapa_small.yaml --data_foldr DATA",
        "python train_speaker_embedding.py train_ecapa_small.yaml",
        "python -m verimargin_insightface train_v2.py configs/ms1mv3_r50_margin.py",
        "make demos",
        "pip install '.[speechbrian]'",
        "python benchmarks/heads.py",
        "python benchmarks/head.py --round 3",
        "python docs/tools/long_tail.py nowhere LONGTAIL --most 9 --fewest 2",
        "frobnicate",
    ):
        with pytest.raises(AssertionError):
            workspace.run(shlex.split(line), set())
