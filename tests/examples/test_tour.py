from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: pip install 'verimargin[test]'")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install 'verimargin[test]'")
pytest.importorskip("ipykernel", reason="ipykernel is not installed: pip install 'verimargin[test]'")
pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'verimargin[cli]'")

TOUR = Path(__file__).resolve().parents[2] / "examples" / "tour.ipynb"

CHECKS = """
for name in ("ArcFace", "CosFace", "Q-Margin", "Q-Margin, m = 0"):
    assert results[name]["EER"] < results["no network"]["EER"] / 3, (name, results[name])

active, zero_loss = runs["Q-Margin"]["history"].T
unrestrained = runs["Q-Margin, m = 0"]["history"].T[1]
assert active[:100].max() > 50 and active[-50:].mean() < 20  # of 600
assert zero_loss[-50:].mean() < 0.05 and unrestrained[-50:].mean() > 0.3
assert runs["ArcFace"]["history"].isnan().all()  # a softmax has no support

assert head_error < 1e-5 and 1 < head_active < 200  # of 20,000
assert head_bytes < dense_bytes / 20

assert torch.stack([spread, tracker.kappa.log()]).corrcoef()[0, 1] < -0.9
assert torch.stack([sizes.float(), tracker.psi]).corrcoef()[0, 1] < -0.7
assert 0 < tracker.psi.min() and tracker.psi.max() < 1

for name, values in ida_results.items():
    assert abs(values["EER"] - results[name]["EER"]) < 0.01, (name, values)  # close to the cosine, better or worse
    assert not torch.equal(runs[name]["ida"], runs[name]["cosine"])
assert accepted["cosine"][0] > accepted["cosine"][4]
assert accepted["ida"][0] - accepted["ida"][4] < accepted["cosine"][0] - accepted["cosine"][4]
"""


def test_the_tour_runs_and_shows_what_it_says():
    notebook = nbformat.read(TOUR, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    notebook.cells.append(nbformat.v4.new_code_cell(CHECKS))
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()  # raises what a cell raises
    assert all(cell.execution_count for cell in cells)
    drawn = [output for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(drawn) == 3


def test_the_tour_is_kept_without_outputs():
    for cell in nbformat.read(TOUR, as_version=4).cells:
        assert cell.cell_type == "markdown" or (cell.outputs == [] and cell.execution_count is None)
