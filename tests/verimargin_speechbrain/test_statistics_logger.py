import pytest
import speechbrain as sb
import torch
import verimargin as vm
from speechbrain.utils.train_logger import FileTrainLogger, TensorboardLogger
from verimargin_speechbrain import PrototypeClassifier, PrototypeCost, QMarginLoss
from verimargin_speechbrain.statistics_logger import StatisticsLogger

NAMES = {"active classes", "zero loss", "target cosine", "margin", "scale", "prototypes without gradient"}


class Recorder:
    extra = "of the recipe's logger"

    def __init__(self):
        self.seen = []

    def log_stats(self, stats_meta, train_stats=None, valid_stats=None):
        self.seen.append(train_stats)


def brain_with(classifier, cost, logger):
    """A Brain as the scripts make it; nothing in the recipe names the statistics."""
    hparams = {"compute_cost": cost, "train_logger": logger}
    return sb.Brain({"classifier": classifier}, lambda p: torch.optim.SGD(p, lr=0.1), hparams, {"device": "cpu"})


def step(brain, x, ids):
    outputs = brain.modules.classifier(x)
    brain.hparams.compute_cost(outputs, ids, torch.ones(len(ids))).backward()


def pair(kind):
    if kind == "sparse":
        classifier = PrototypeClassifier(8, 30, vm.q_margin(1.5, 20.0, 0.2))
        return classifier, PrototypeCost(classifier)
    stock = pytest.importorskip("speechbrain.lobes.models.ECAPA_TDNN").Classifier(8, out_neurons=30)
    return stock, QMarginLoss(scale=20)


@pytest.mark.parametrize("kind", ["stock", "sparse"])
def test_an_epochs_means_are_logged_without_a_change_of_the_recipe(kind):
    torch.manual_seed(0)
    logger, (classifier, cost) = Recorder(), pair(kind)
    brain = brain_with(classifier, cost, logger)
    batches = [(torch.randn(4, 1, 8), torch.randint(30, (4, 1))) for _ in range(3)]
    expected = {"active": 0.0, "cosine": 0.0, "touched": torch.zeros(30, dtype=torch.bool)}
    for x, ids in batches:
        step(brain, x, ids)
        normalize = torch.nn.functional.normalize
        cosine = (normalize(x[:, 0]) @ normalize(classifier.weight).T).detach()
        log_q = torch.zeros_like(cosine)
        log_q[torch.arange(4), ids[:, 0]] = -4.0
        p, _ = vm.alpha_softargmax(20 * cosine, 1.5, log_q)
        expected["active"] += float((p > 0).sum(1).float().mean()) / 3
        expected["cosine"] += float(cosine.gather(1, ids).mean()) / 3
        expected["touched"] |= (p > 0).any(0)
        expected["touched"][ids[:, 0]] = True
    brain.hparams.train_logger.log_stats({"epoch": 1}, train_stats={"loss": 1.0}, valid_stats={"loss": 2.0})
    (found,) = logger.seen
    assert set(found) == {"loss"} | NAMES
    assert found["active classes"] == pytest.approx(expected["active"], rel=1e-5)
    assert found["target cosine"] == pytest.approx(expected["cosine"], rel=1e-4)
    assert found["prototypes without gradient"] == int((~expected["touched"]).sum()) > 0
    assert (found["margin"], found["scale"]) == (0.2, 20.0)
    brain.hparams.train_logger.log_stats({"epoch": 2}, valid_stats={"loss": 2.0})
    assert logger.seen[1] is None
    assert brain.hparams.train_logger.extra == Recorder.extra


def test_speechbrains_own_loggers_write_them(tmp_path):
    torch.manual_seed(0)
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for logger in (FileTrainLogger(tmp_path / "log.txt"), TensorboardLogger(str(tmp_path / "board"))):
        classifier, cost = pair("stock")
        brain = brain_with(classifier, cost, logger)
        step(brain, torch.randn(4, 1, 8), torch.randint(30, (4, 1)))
        brain.hparams.train_logger.log_stats({"epoch": 1}, {"loss": 1.0})
    logger.writer.close()
    text = (tmp_path / "log.txt").read_text()
    assert all(f"train {name}: " in text for name in NAMES)
    board = EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    assert {f"{name}/train" for name in NAMES} <= set(board.Tags()["scalars"])


def test_another_loss_keeps_its_logger():
    logger = Recorder()
    QMarginLoss()  # from here on, Brains are watched
    brain = brain_with(torch.nn.Linear(8, 3), torch.nn.CrossEntropyLoss(), logger)
    assert brain.hparams.train_logger is logger


def test_the_embedding_size_is_that_of_the_classifier():
    classifier, cost = pair("stock")
    brain = brain_with(classifier, cost, Recorder())
    assert isinstance(brain.hparams.train_logger, StatisticsLogger)
    assert cost.statistics.embedding_size == 8
