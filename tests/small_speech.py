"""The demo in small: its recipe's values, and a corpus of a few synthetic speakers."""

import subprocess
import sys

TINY = {"channels": 16, "emb_dim": 24, "lr": 0.004, "batch_size": 8}
CORPUS = {"train_speakers": 6, "test_speakers": 4, "utterances": 6, "test_utterances": 3}


def make_corpus(folder):
    """In a process of its own: some of eSpeak's voices depend on what the process has said before."""
    code = "import sys, verimargin_speechbrain.synthesis as s; from pathlib import Path; "
    code += f"print(len(list(s.make_corpus(Path(sys.argv[1]), **{CORPUS}, seed=0))))"
    made = subprocess.run([sys.executable, "-c", code, folder], check=True, capture_output=True, text=True)
    assert made.stdout == "10\n"
    return folder
