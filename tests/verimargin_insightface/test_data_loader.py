from torch.utils.data import DataLoader
from verimargin_insightface.data_loader import follow


class Loader(DataLoader):
    def __iter__(self):
        self.batches = super().__iter__()
        return self

    def __next__(self):
        return next(self.batches)


def test_two_followers_see_the_batches_and_the_end_in_order():
    events = []

    def seen(batch):
        events.append(batch.tolist())
        return batch + 10

    loader = Loader(range(3), batch_size=2)
    assert follow(loader, lambda: events.append("inner"), seen) is loader
    follow(loader, lambda: events.append("outer"))
    assert isinstance(loader, Loader)
    for _ in range(2):
        assert [batch.tolist() for batch in loader] == [[10, 11], [12]]
    assert events == [[0, 1], [2], "inner", "outer"] * 2
