import math

import pytest
import torch
from verimargin import _checks

CPU = torch.device("cpu")
BATCH = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("call", "result"),
    [
        (lambda: _checks.check_alpha(1), 1.0),
        (lambda: _checks.check_at_least("x", 0, 0.0), 0.0),
        (lambda: _checks.check_integer("x", 3.0, 3), 3),
        (lambda: _checks.check_integer("x", "4e4", 3), 40_000),  # as YAML reads it
        (lambda: _checks.check_share("x", 0, "[0, 1)"), 0.0),
        (lambda: _checks.check_share("x", 1, "(0, 1]"), 1.0),
    ],
)
def test_good_numbers_come_back_with_their_type(call, result):
    assert call() == result
    assert type(call()) is type(result)


def index(values, dtype=torch.long):
    return torch.tensor(values, dtype=dtype)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: _checks.check_alpha(0.5), r"alpha is 0\.5: give a finite alpha >= 1"),
        (lambda: _checks.check_alpha(math.inf), "alpha is inf"),
        (lambda: _checks.check_alpha(math.nan), "alpha is nan"),
        (lambda: _checks.check_at_least("scale", -1, 0.0), r"scale is -1\.0: give a finite number >= 0"),
        (lambda: _checks.check_at_least("scale", 0, 0.0, strict=True), r"scale is 0\.0: give a finite number > 0"),
        (lambda: _checks.check_at_least("scale", math.inf, 0.0), "scale is inf"),
        (lambda: _checks.check_integer("k", 2.5, 1), r"k is 2\.5: give an integer >= 1"),
        (lambda: _checks.check_integer("k", 0, 1), "k is 0: give an integer >= 1"),
        (lambda: _checks.check_integer("k", None, 1), "k is None: give an integer >= 1"),
        (lambda: _checks.check_integer("k", "three", 1), "k is 'three': give an integer >= 1"),
        (lambda: _checks.check_integer("k", math.inf, 1), "k is inf: give an integer >= 1"),
        (lambda: _checks.check_at_least("scale", "high", 0.0), "scale is 'high': give a finite number >= 0"),
        (lambda: _checks.check_at_least("scale", None, 0.0), "scale is None: give a finite number >= 0"),
        (lambda: _checks.check_share("gamma", 1, "[0, 1)"), r"gamma is 1\.0: give a number in \[0, 1\)"),
        (lambda: _checks.check_share("gamma", 1.5, "[0, 1]"), r"gamma is 1\.5: give a number in \[0, 1\]"),
        (lambda: _checks.check_share("gamma", 0, "(0, 1]"), r"gamma is 0\.0: give a finite number > 0"),
        (lambda: _checks.check_share("gamma", math.nan, "[0, 1]"), "gamma is nan"),
        (
            lambda: _checks.check_labels([0, 1], 2, 5, CPU),
            r"labels are given as list: .*as_tensor\(labels\)",
        ),
        (lambda: _checks.check_sample_ids(index([0]).numpy(), 1, 5, CPU), r"sample_ids are given as ndarray"),
        (lambda: _checks.check_training_embeddings(BATCH.numpy(), 3, BATCH, "head"), "embeddings are given as ndarray"),
        (lambda: _checks.check_labels(index([0, 5]), 2, 5, CPU), r"label 5 of sample 1 is outside 0\.\.4: there are 5"),
        (lambda: _checks.check_labels(index([-1, 0]), 2, 5, CPU), "label -1 of sample 0"),
        (lambda: _checks.check_labels(index([0, 1], torch.bool), 2, 5, CPU), r"labels have dtype torch\.bool"),
        (lambda: _checks.check_labels(BATCH, 2, 5, CPU), r"dtype torch\.float32: give integer class ids, not scores"),
        (lambda: _checks.check_labels(index([[0], [1]]), 2, 5, CPU), r"shape \(2, 1\): give one class id .*\(2,\)"),
        (lambda: _checks.check_labels(index([0, 1]).to("meta"), 2, 5, CPU), "are on meta, the batch on cpu: move"),
        (lambda: _checks.check_sample_ids(index([7, 0]), 2, 7, CPU), r"sample id 7 of sample 0 .* num_samples is 7"),
        (lambda: _checks.check_sample_ids(BATCH[:, 0], 2, 7, CPU), "give integer sample ids"),
        (lambda: _checks.check_finite("values", BATCH * index([[1], [0]]).log()), "sample 1 has -inf among its values"),
        (lambda: _checks.check_cosines(BATCH * 1.5), r"the cosines hold 1\.5: the loss takes cosines"),
        (lambda: _checks.check_norms(torch.tensor([1.0, 0.0])), "the embedding of sample 1 has norm 0 and so no dir"),
        (lambda: _checks.check_norms(torch.tensor([math.inf, 0.0]), "file"), r"file 0 \(and 1 more\) has norm inf"),
        (lambda: _checks.check_norms(torch.tensor([1.0, math.nan]), "of", ["a", "b"]), "of b has norm nan"),
        (lambda: _checks.unit_rows(torch.zeros(1, 2), "anchor", ["ann"]), "anchor ann has norm 0"),
        (lambda: _checks.check_prototypes(torch.tensor([1.0, math.nan])), "prototype 1 of this step has norm nan"),
        (lambda: _checks.check_training_embeddings(BATCH, 4, BATCH, "head"), r"shape \(2, 3\): give \(B, 4\)"),
        (lambda: _checks.check_training_embeddings(BATCH, 3, BATCH.to("meta"), "head"), "on cpu, the head on meta"),
        (lambda: _checks.check_training_embeddings(BATCH, 3, BATCH.half(), "head"), r"the head is torch\.float16"),
        (lambda: _checks.check_training_embeddings(BATCH / 0, 3, BATCH, "head"), "sample 0 has inf among"),
        (lambda: _checks.check_pairs(index([0]), index([0, 1]), 2, CPU), r"shapes \(1,\) and \(2,\)"),
        (lambda: _checks.check_pairs(index([0]), index([2]), 2, CPU), r"j of pair 0 is 2, and there are 2 .*0\.\.1"),
        (lambda: _checks.check_pairs(index([-1]), index([1]), 2, CPU), "i of pair 0 is -1"),
        (lambda: _checks.check_pairs(BATCH[0], BATCH[0], 2, CPU), r"i has dtype torch\.float32"),
    ],
)
def test_each_message_names_the_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_any_integer_dtype_becomes_int64(dtype):
    labels = _checks.check_labels(index([4, 0], dtype), 2, 5, CPU)
    assert labels.dtype == torch.long
    assert labels.tolist() == [4, 0]
    i, j = _checks.check_pairs(index([1, 0], dtype).numpy(), index([0, 0], dtype), 2, CPU)
    assert (i.dtype, j.dtype, i.tolist(), j.tolist()) == (torch.long, torch.long, [1, 0], [0, 0])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16])
@pytest.mark.parametrize("bound", [128, 256, 300, 40_000, 2**16, 2**20])
def test_a_bound_that_the_dtype_cannot_hold_does_not_wrap(dtype, bound):
    """Labels in uint8 were refused with 256 classes, and labels outside let through with others."""
    largest = min(torch.iinfo(dtype).max, bound - 1)
    assert _checks.check_labels(index([0, largest], dtype), 2, bound, CPU).tolist() == [0, largest]
    i, _ = _checks.check_pairs(index([0, largest], dtype), index([0, 0], dtype), bound, CPU)
    assert i.tolist() == [0, largest]
    if dtype != torch.uint8:
        with pytest.raises(ValueError, match="label -1 of sample 0 is outside"):
            _checks.check_labels(index([-1, 0], dtype), 2, bound, CPU)


def test_what_is_only_rounding_is_no_mistake():
    _checks.check_cosines(torch.tensor([[1.0000002, -1.005]]))
    _checks.check_cosines(torch.zeros(0, 3))
    _checks.check_finite("values", torch.zeros(0, 3))
    _checks.check_norms(torch.zeros(0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_unit_rows_are_of_float32_at_least(dtype):
    rows = torch.tensor([[[3.0, 4.0]], [[-600.0, 800.0]]], dtype=dtype)
    unit = _checks.unit_rows(rows, "row")
    assert unit.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(unit.float(), torch.tensor([[[0.6, 0.8]], [[-0.6, 0.8]]]))


def test_training_embeddings_take_the_dtype_of_the_state():
    for given, state in ((torch.float16, torch.float32), (torch.float32, torch.float64)):
        found = _checks.check_training_embeddings(BATCH.to(given), 3, BATCH.to(state), "head")
        assert found.dtype == state


def test_an_accelerator_is_not_waited_for():
    """Meta tensors have no values to read back: reading one would raise."""
    meta = torch.empty(2, 3, device="meta")
    _checks.check_finite("values", meta)
    _checks.check_norms(meta[:, 0])
    _checks.check_prototypes(meta[:, 0])
    assert _checks.check_training_embeddings(meta, 3, meta, "head").device.type == "meta"
