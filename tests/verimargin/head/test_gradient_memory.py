import contextlib
import copy
import gc
import pickle
import threading

import pytest
import torch
from small_head import LOSSES, batch, head_with, step
from verimargin.head.gradient_memory import GradientMemory


def test_a_step_twice_and_gradients_that_somebody_holds():
    embeddings, weight, labels = batch(dtype=torch.float32)
    head = head_with(weight, LOSSES["q-margin"]())
    e = embeddings.clone().requires_grad_()
    loss = head(e, labels)
    (first,) = torch.autograd.grad(loss, head.weight, retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(loss, head.weight)
    assert torch.equal(first, second)
    _, _, third = step(head, -embeddings, labels)  # must not write where `first` still lives
    assert torch.equal(first, kept)
    assert not torch.equal(third, kept)


def test_the_gradient_memory_is_used_again_and_accumulation_is_right():
    embeddings, weight, labels = batch(dtype=torch.float32)
    head = head_with(weight, LOSSES["q-margin"]())
    step(head, embeddings, labels)
    place = head.weight.grad.data_ptr()
    _, _, alone = step(head, embeddings, labels)
    assert head.weight.grad.data_ptr() == place
    alone = alone.clone()
    head(embeddings, labels).backward()  # accumulates: no zero_grad in between
    torch.testing.assert_close(head.weight.grad, 2 * alone)
    head.weight.grad += 1.0
    view = head.weight.grad.view(-1)
    head.weight.grad = None
    head(embeddings, labels).backward()
    torch.testing.assert_close(head.weight.grad, alone)
    torch.testing.assert_close(view.view_as(alone), 2 * alone + 1.0)


def test_is_lent_again_only_when_nobody_holds_it():
    memory, weight = GradientMemory(), torch.ones(5, 3)
    first = memory.zeros_like(weight)
    place = first.data_ptr()
    first += 1
    second = memory.zeros_like(weight)
    assert second.data_ptr() != place
    assert bool((first == 1).all())
    place = second.data_ptr()
    del second
    gc.collect()
    assert memory.zeros_like(weight).data_ptr() == place


def test_is_zero_and_like_the_weight_each_time():
    memory = GradientMemory()
    for shape, dtype in (
        ((5, 3), torch.float32),
        ((5, 3), torch.float64),
        ((3, 5), torch.float64),
        ((0, 4), torch.float32),
    ):
        for _ in range(2):
            grad = memory.zeros_like(torch.ones(shape, dtype=dtype))
            assert grad.shape == shape
            assert grad.dtype == dtype
            assert not grad.any()
            grad += 1
            del grad
    assert memory.zeros_like(torch.ones(2, 2, device="meta")).device.type == "meta"


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda memory: pickle.loads(pickle.dumps(memory))])
def test_a_copy_shares_nothing(copied):
    memory = GradientMemory()
    memory.zeros_like(torch.ones(4, 2))  # nobody holds it: the memory would lend it again
    place = memory.zeros_like(torch.ones(4, 2)).data_ptr()
    other = copied(memory)
    held = other.zeros_like(torch.ones(4, 2))
    assert held.data_ptr() != place


def test_two_threads_are_never_lent_the_same_memory():
    """The look whether it is free and the lending were two steps."""
    memory, weight = GradientMemory(), torch.zeros(3, 2)
    memory.zeros_like(weight)  # free again
    entered, free = threading.Barrier(2, timeout=0.2), memory._lent

    def slowly():
        with contextlib.suppress(threading.BrokenBarrierError):
            entered.wait()  # both threads find it free, unless only one may look at a time
        return free()

    memory._lent = slowly
    lent = []
    threads = [threading.Thread(target=lambda: lent.append(memory.zeros_like(weight))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lent[0].data_ptr() != lent[1].data_ptr()
