import pytest
import torch
from verimargin_insightface import launcher

SCRIPT = """
import sys, os
import numpy as np
import mxnet as mx
from mxnet import ndarray as nd
from neighbour import WHERE
assert sys.path[0] == os.path.dirname(os.path.abspath(__file__)), sys.path
assert sys.modules["__main__"].__dict__ is globals()
if __name__ == "__main__":
    print(WHERE, sys.argv, np.array(["3"]).astype(np.int), nd.transpose(np.ones((2, 3, 4)), axes=(2, 0, 1)).shape)
    sys.exit(7)
"""


def test_runs_a_script_as_main_in_its_folder(python, tmp_path):
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "script.py").write_text(SCRIPT)
    (tmp_path / "up" / "neighbour.py").write_text("WHERE = 'next to it'")
    done = python("-m", "verimargin_insightface", "up/script.py", "--x", "1", cwd=tmp_path, check=False)
    assert done.returncode == 7, done.stderr
    assert done.stdout == "next to it ['up/script.py', '--x', '1'] [3] (4, 2, 3)\n"
    lines = [line for line in done.stderr.splitlines() if line.startswith("applied")]
    assert len(lines) == len(set(lines))
    assert any(line.startswith("applied mxnet: mxnet is not installed") for line in lines)
    assert torch.cuda.is_available() or any(line.startswith("applied nccl: there is no GPU") for line in lines)


def test_under_torchrun_the_first_rank_says_it_and_the_ranks_talk(python, tmp_path):
    (tmp_path / "script.py").write_text(
        "import torch, torch.distributed as dist\n"
        "dist.init_process_group('nccl')\n"
        "x = torch.ones(1).cuda()\n"
        "dist.all_reduce(x)\n"
        "print(f'sum {x.item()}\\n', end='')\n"
    )
    if torch.cuda.is_available():
        pytest.skip("two ranks would need two GPUs")
    done = python("-m", "verimargin_insightface", tmp_path / "script.py", ranks=2)
    assert done.stdout.count("sum 2.0") == 2
    assert done.stderr.count("applied nccl") == 1


def test_help_lists_the_fixes(python):
    done = python("-m", "verimargin_insightface", "--help")
    assert "LRScheduler.verbose" in done.stdout
    assert "torchrun" in done.stdout


def test_a_missing_requirement_of_the_script_is_named(python, tmp_path):
    """It ended with a traceback through runpy."""
    (tmp_path / "script.py").write_text("import nowhere_to_be_found.part\n")
    done = python("-m", "verimargin_insightface", tmp_path / "script.py", check=False)
    assert done.returncode == 1
    assert done.stderr.endswith("neither beside it nor installed\n")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("easydict", "pip install 'verimargin[insightface]', which has what the scripts need"),
        ("sklearn.metrics", "pip install 'verimargin[insightface]', which has what the scripts need"),
        ("insightface.app", "pip install insightface, or keep the script in a whole checkout, beside python-package"),
    ],
)
def test_the_advice_for_a_missing_requirement(name, advice):
    error = ModuleNotFoundError(f"No module named {name!r}", name=name)
    assert launcher._missing("train_v2.py", error) == f"train_v2.py: No module named {name!r}: {advice}"


def test_a_script_that_is_not_there_is_named(python):
    done = python("-m", "verimargin_insightface", "train_v9.py", check=False)
    assert done.returncode == 1
    assert "there is no script train_v9.py" in done.stderr
