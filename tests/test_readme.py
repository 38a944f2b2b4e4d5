import re
from pathlib import Path

import pytest
from verimargin.files import hparams as recipes

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL))
def test_its_python_runs(block):
    exec(compile(block, "README.md", "exec"), {})


def test_what_it_names_exists():
    assert all((ROOT / target).exists() for target in re.findall(r"\]\(((?!http)[^)#]+)\)", README))
    assert all(recipes.path(name) for name in re.findall(r"hparams (\w+\.(?:yaml|py))", README))
