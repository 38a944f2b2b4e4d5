import pytest
import torch
from verimargin.files.prototypes import in_rank_order, read_prototypes

WEIGHT = torch.arange(42.0).view(7, 2, 3)  # seven classes with two sub-centres


def saved(folder, parts):
    for rank, part in enumerate(parts):
        torch.save({"state_dict_softmax_fc": {"weight": part}}, folder / f"checkpoint_gpu_{rank}.pt")
    return folder


@pytest.mark.parametrize("weight", [WEIGHT, WEIGHT[:, 0]])
@pytest.mark.parametrize("sizes", [[7], [4, 3], [3, 2, 2]])
def test_prototypes_of_all_ranks(tmp_path, weight, sizes):
    assert torch.equal(read_prototypes([saved(tmp_path, weight.half().split(sizes))]), weight)


def test_files_are_in_rank_order(tmp_path):
    saved(tmp_path, WEIGHT.split(3))
    files = [tmp_path / f"checkpoint_gpu_{rank}.pt" for rank in (2, 0, 1)]
    assert [file.name[-4] for file in in_rank_order(files)] == ["0", "1", "2"]
    files[0].unlink()
    with pytest.raises(ValueError, match=r"the prototypes are not the parts|checkpoint_gpu_2.pt"):
        read_prototypes(files)


def test_other_numbers_of_subcenters_are_not_one_head(tmp_path):
    saved(tmp_path, [WEIGHT[:4], WEIGHT[4:, :1]])
    with pytest.raises(ValueError, match="are not the parts of one head"):
        read_prototypes([tmp_path])


def test_files_of_two_checkpoints_are_not_one_head(tmp_path):
    """As a glob over the folders of SpeechBrain's checkpoints finds them."""
    files = [tmp_path / name / "classifier.ckpt" for name in ("CKPT+1", "CKPT+2")]
    for file in files:
        file.parent.mkdir()
        torch.save({"weight": WEIGHT[:, 0]}, file)
    for given in (files, files[:1] * 2):
        with pytest.raises(ValueError, match=r"are of two checkpoints, or one twice: give the files of one"):
            read_prototypes(given)


def test_a_rank_that_is_left_out_at_the_end_is_noticed(tmp_path):
    saved(tmp_path, WEIGHT[:, 0].split(4))
    with pytest.raises(ValueError, match=r"checkpoint_gpu_1\.pt is not among the files, and with it the classes"):
        read_prototypes([tmp_path / "checkpoint_gpu_0.pt"])
