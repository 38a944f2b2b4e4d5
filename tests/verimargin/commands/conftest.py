import pytest

for needed in ("typer", "rich", "tqdm", "matplotlib"):
    pytest.importorskip(needed, reason="the cli extra is not installed: pip install 'verimargin[cli]'")
