"""Damaged files: each reader returns what it promises, or names the file in one line. Never another error, nor a hang.

The examples are the same in every run. `run_atheris.py` looks for new ones.
"""

import pytest
from fuzz.damage import KINDS, SNIPPETS, damaged
from fuzz.targets import TARGETS, check
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EDIT = st.tuples(
    st.sampled_from(KINDS), st.integers(0, 2**16 - 1), st.one_of(st.sampled_from(SNIPPETS), st.binary(max_size=8))
)
FEW = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(params=TARGETS)
def target(request):
    for package in TARGETS[request.param].needs:
        pytest.importorskip(package)
    if request.param in ("bin", "bin of arrays"):
        pytest.importorskip("verimargin_insightface")
    return TARGETS[request.param]


@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore")
@FEW
@given(which=st.integers(0, 9), inside=st.booleans(), edits=st.lists(EDIT, min_size=1, max_size=4))
def test_a_damaged_file_is_read_rightly_or_named(target, tmp_path_factory, which, inside, edits):
    folder = tmp_path_factory.mktemp("fuzz")
    files = target.make(folder)
    file = files[which % len(files)]
    file.write_bytes(damaged(file.read_bytes(), edits, inside))
    check(target, folder)


def test_what_is_undamaged_is_read(target, tmp_path):
    target.make(tmp_path)
    target.read(tmp_path)


def test_an_archive_may_be_damaged_inside(tmp_path):
    """With the right checksums, or nothing behind them would ever be reached."""
    import io
    import zipfile

    (file,) = TARGETS["npz"].make(tmp_path)
    content = file.read_bytes()
    changed = damaged(content, [("flip", 0, b"\x01")], inside=True)
    before, after = (zipfile.ZipFile(io.BytesIO(data)) for data in (content, changed))
    assert after.testzip() is None
    unlike = [name for name in before.namelist() if before.read(name) != after.read(name)]
    assert unlike == before.namelist()[:1]
