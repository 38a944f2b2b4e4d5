import copy
import re

import pytest
import torch
import verimargin as vm
from distributed import on_ranks
from verimargin._sharding import Shard, part_of, rows_of

SIZES = [3, 0, 2]  # samples of each rank


def test_without_a_group_one_process_holds_all():
    shard = Shard(7, None)
    assert (shard.start, shard.size, shard.total, shard.rank, shard.ranks) == (0, 7, 7, 0, 1)
    x, labels = torch.ones(3, 2, requires_grad=True), torch.arange(3)
    assert shard.gather_batch(x, labels) == (x, labels)
    assert torch.equal(shard.sum(torch.arange(3)), torch.arange(3))
    assert torch.equal(shard.max(torch.arange(3)), torch.arange(3))
    assert shard.gather_lists(x, labels) == (x, labels, slice(None))
    assert shard.unanimous("?", lambda: True, torch.device("cpu"))
    assert not shard.unanimous("?", lambda: False, torch.device("cpu"))
    assert copy.deepcopy(shard) is shard


def test_nothing_to_hold_is_refused():
    with pytest.raises(ValueError, match="there are 0 classes or samples on 1 ranks: give each rank at least one"):
        Shard(0, None)


def _parts(rank, totals):
    group = torch.distributed.group.WORLD
    parts = [(shard.start, shard.size) for shard in (Shard(total, group) for total in totals)]
    try:
        Shard(torch.distributed.get_world_size() - 1, group)
    except ValueError as error:
        return parts, str(error)


@pytest.mark.parametrize("ranks", [2, 3])
def test_parts_lie_side_by_side_and_the_first_are_larger_by_one(ranks):
    totals = [3, 4, 5, 301]
    results = on_ranks(ranks, _parts, totals)
    for n, total in enumerate(totals):
        parts = [parts[n] for parts, _ in results]
        entries = [entry for start, size in parts for entry in range(start, start + size)]
        assert entries == list(range(total))
        sizes = [size for _, size in parts]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] - sizes[-1] == (total % ranks > 0)
    assert all(f"there are {ranks - 1} classes or samples on {ranks} ranks" in message for _, message in results)


@pytest.mark.parametrize("total", [8, 10, 301])
@pytest.mark.parametrize("before", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("after", [1, 2, 3, 4, 8])
def test_rows_move_from_any_number_of_ranks_to_any_other(total, before, after):
    rows = torch.randn(total, 3)
    parts = [rows[start : start + size] for start, size in (part_of(total, before, rank) for rank in range(before))]
    moved = [rows_of(parts, after, rank) for rank in range(after)]
    assert torch.equal(torch.cat(moved), rows)
    assert [len(part) for part in moved] == [total // after + (rank < total % after) for rank in range(after)]
    assert all(part.untyped_storage().nbytes() == part.nbytes for part in moved), "a view would be saved as a whole"


def _outsider(rank):
    group = torch.distributed.new_group([0])
    try:
        return Shard(4, group).size
    except ValueError as error:
        return str(error)


def test_a_process_outside_of_the_group_is_refused():
    member, outsider = on_ranks(2, _outsider)
    assert member == 4
    assert "not a member of process_group" in outsider


def batch(rank):
    generator = torch.Generator().manual_seed(rank)
    x = torch.randn(SIZES[rank], 4, generator=generator, dtype=torch.float64)
    return x, 10 * rank + torch.arange(SIZES[rank])


def _gathered(rank, ranks):
    """A loss that each rank weights otherwise, as those of its own classes."""
    x, labels = batch(rank)
    x.requires_grad_()
    shard = Shard(ranks, torch.distributed.group.WORLD)
    rows, all_labels = shard.gather_batch(x, labels)
    weight = torch.arange(1.0, 1 + len(rows), dtype=torch.float64)[:, None] * (rank + 1)
    (rows.square() * weight).sum().backward()
    exchanged = shard.sum(torch.tensor([rank, 1])), shard.max(torch.tensor([-rank, rank]))
    return rows.detach(), all_labels, x.grad, exchanged


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_batch_is_gathered_in_rank_order_with_its_gradient(ranks):
    results = on_ranks(ranks, _gathered, ranks)
    rows, labels = map(torch.cat, zip(*map(batch, range(ranks))))
    share = torch.arange(1.0, 1 + len(rows), dtype=torch.float64)[:, None] * sum(range(1, ranks + 1))
    grad = (ranks * 2 * rows * share).split(SIZES[:ranks])  # times the ranks, over which it will be averaged
    for rank, (found, found_labels, found_grad, exchanged) in enumerate(results):
        assert torch.equal(found, rows)
        assert torch.equal(found_labels, labels)
        torch.testing.assert_close(found_grad, grad[rank])
        assert [part.tolist() for part in exchanged] == [[sum(range(ranks)), ranks], [0, ranks - 1]]


LISTS = [[[1], [], [2, 3]], [[], [], []], [[4, 5], [], [6]], [[], [7], []]]  # of each rank and row


def _joined(rank):
    own = [torch.tensor(row, dtype=torch.float32) for row in LISTS[rank]]
    pointer = torch.tensor([0, *(len(row) for row in own)]).cumsum(0)
    shard = Shard(4, torch.distributed.group.WORLD)
    nothing = shard.gather_lists(torch.empty(0), torch.zeros(4, dtype=torch.long))
    return *shard.gather_lists(torch.cat(own), pointer), [x.tolist() for x in nothing]


def test_lists_of_all_ranks_are_joined_row_by_row():
    for rank, (values, pointer, place, nothing) in enumerate(on_ranks(4, _joined)):
        assert nothing == [[], [0, 0, 0, 0], []]
        assert values.tolist() == [1, 4, 5, 7, 2, 3, 6]
        assert pointer.tolist() == [0, 3, 4, 7]
        assert values[place].tolist() == [value for row in LISTS[rank] for value in row]


def _disagreeing(rank, ranks, different):
    settings = {"num_classes": 10, "alpha": 1.5, "margin": 0.2} | ({different[0]: different[1]} if rank == 1 else {})
    try:
        loss = vm.q_margin(settings["alpha"], 10.0, settings["margin"])
        vm.PrototypeHead(4, settings["num_classes"], loss, process_group=torch.distributed.group.WORLD)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("different", [("num_classes", 12), ("alpha", 1.25), ("margin", 0.3)])
def test_ranks_that_disagree_are_told_so_at_once(different):
    """They waited for each other in the first step, or each trained on its own loss."""
    name, value = different
    for message in on_ranks(2, _disagreeing, 2, different):
        assert re.search(rf"{name} is \S+ on rank 0 and {value} on rank 1: give all ranks the same", message)


def test_ranks_that_agree_go_on():
    assert on_ranks(2, _disagreeing, 2, ("alpha", 1.5)) == [None, None]
