import numpy as np
import pytest
import small_trials
from small_trials import run
from verimargin.commands.score import score


@pytest.fixture
def two_lists(tmp_path, monkeypatch):
    monkeypatch.chdir(small_trials.make(tmp_path))
    return tmp_path


@pytest.mark.parametrize("collapsed", [False, True])
def test_densities_that_rival_the_cosines_are_told(two_lists, collapsed):
    """A three-epoch face model with its prototypes fell from a TAR of 68 to one of 19 without a word."""
    random = np.random.default_rng(0)
    voices = random.normal(size=(50, 8)) * (np.arange(8) > 0)
    np.savez("prototypes.npz", ids=[f"p{n}" for n in range(50)], embeddings=voices)
    with np.load("e.npz") as held:
        ids, rows = held["ids"], held["embeddings"]
    np.savez("given.npz", ids=ids, embeddings=rows + 40.0 * collapsed * np.eye(8)[0])
    result = run(score, "given.npz", "trials.txt", "out", "--anchors", "prototypes.npz", "--k", 3, "--no-intervals")
    for text in (result.output, (two_lists / "out" / "report.md").read_text()):
        assert ("IDA-R (k 3, tau 1): IDA's densities rival the cosines" in " ".join(text.split())) == collapsed
