import torch
import verimargin as vm
from distributed import on_ranks

RANKS = 3  # ten classes are split into 4, 3, 3, where a DTensor has 4, 4, 2
COUNTS, SIZE = [3, 1, 4, 1, 5, 2, 2, 3, 1, 4], 4
STATES = {"momentum": ("sums", "counts"), "memory": ("memory", "memory_class")}


def model(estimator, group):
    torch.manual_seed(3)
    samples = {"num_samples": sum(COUNTS), "memory_dtype": torch.float16} if estimator == "memory" else {}
    tracker = vm.KappaTracker(COUNTS, SIZE, estimator=estimator, process_group=group, **samples)
    loss = vm.MarginLoss(vm.QMargin(0.2, psi=tracker.psi), alpha=1.5, scale=8.0)
    return torch.nn.ModuleDict({"head": vm.PrototypeHead(SIZE, 10, loss, process_group=group), "tracker": tracker})


def filled(estimator, group, ranks, rank):
    """A model after the same samples, whatever the number of ranks."""
    labels = torch.repeat_interleave(torch.arange(10), torch.tensor(COUNTS))
    embeddings = torch.randn(len(labels), SIZE, generator=torch.Generator().manual_seed(1))
    mine = slice(rank, None, ranks)
    modules, ids = model(estimator, group), torch.arange(len(labels))[mine]
    for _ in range(2):
        modules["tracker"].update(embeddings[mine], labels[mine], ids if estimator == "memory" else None)
        modules["tracker"].end_epoch()
    modules["tracker"].update(embeddings[mine], labels[mine], ids if estimator == "memory" else None)
    return modules


def gathered_and_split(rank, folder):
    found, group = {}, torch.distributed.group.WORLD
    for estimator in STATES:
        state = vm.gather_state_dict(filled(estimator, group, RANKS, rank))
        assert bool(state) == (rank == 0)
        before = torch.load(folder / f"{estimator}.pt", mmap=True)
        other = model(estimator, group)
        other.load_state_dict(vm.split_state_dict(other, before))
        found[estimator] = {"gathered": state, "again": vm.gather_state_dict(other)}
        try:
            vm.split_state_dict(other, {**before, "head.weight": torch.zeros(9, SIZE)})
        except ValueError as error:
            found["refused"] = str(error)
    return found


def test_one_file_opens_on_another_number_of_ranks(tmp_path):
    alone = {estimator: filled(estimator, None, 1, 0) for estimator in STATES}
    for estimator, modules in alone.items():
        torch.save(vm.gather_state_dict(modules), tmp_path / f"{estimator}.pt")
    first = on_ranks(RANKS, gathered_and_split, tmp_path)[0]
    for estimator, modules in alone.items():
        expected, found = modules.state_dict(), first[estimator]
        assert found["gathered"].keys() == found["again"].keys() == expected.keys()
        for key, value in expected.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(found["again"][key], value), key
                torch.testing.assert_close(found["gathered"][key], value, msg=key)
        assert torch.equal(found["gathered"]["head.weight"], expected["head.weight"])
        model(estimator, None).load_state_dict(found["gathered"])
        assert all(len(found["again"][f"tracker.estimator.{name}"]) >= 10 for name in STATES[estimator])
    assert first["refused"].startswith("head.weight has 9 rows, the module has 10 classes or samples: give a state")
