import pytest
import torch
import verimargin as vm
import verimargin_speechbrain
from hyperpyyaml import load_hyperpyyaml
from hypothesis import given, settings
from hypothesis import strategies as st
from speechbrain.nnet.losses import AdditiveAngularMargin, AngularMargin, LogSoftmaxWrapper
from speechbrain.utils.metric_stats import EER, minDCF
from verimargin_speechbrain import MarginCost, QMarginLoss


def predictions(samples=9, speakers=20):
    generator = torch.Generator().manual_seed(0)
    cosine = 1.98 * torch.rand(samples, 1, speakers, generator=generator) - 0.99
    return cosine, torch.randint(speakers, (samples, 1), generator=generator)


def test_takes_what_the_recipes_hand_over():
    cosine, ids = predictions()
    expected = vm.q_margin(1.5, 10.0, 0.2)(cosine[:, 0], ids[:, 0])
    cost = QMarginLoss(margin=0.2, scale=10, alpha=1.5)
    assert cost(cosine, ids, torch.ones(9)) == expected
    assert cost(cosine, ids) == expected
    assert cost(cosine[:1], ids[:1], torch.ones(1)) == vm.q_margin(1.5, 10.0, 0.2)(cosine[:1, 0], ids[:1, 0])


COSTS = {
    "adaface": lambda model: MarginCost(vm.adaface(30.0, 0.3, h=5.0), embedding_model=model),
    "q-margin": lambda model: QMarginLoss(0.2, 10, 1.5, quality=vm.Quality(0.5, h=5.0), embedding_model=model),
}


@pytest.mark.parametrize("name", COSTS)
def test_the_cost_sees_the_norms_of_the_embeddings(name):
    """Also of twice as many as the batch has, as augmentation makes them; only training changes the averages."""
    torch.manual_seed(0)
    model, (cosine, ids) = torch.nn.Linear(3, 4), predictions(12)
    cost, expected = COSTS[name](model), COSTS[name](model).loss
    for training, samples in ((True, 6), (True, 12), (False, 6), (True, 6)):
        model.train(training)
        expected.train(training)
        embeddings = model(20 * torch.rand(samples, 1, 3))
        found = cost(cosine[:samples], ids[:samples], torch.ones(samples))
        assert found == expected(cosine[:samples, 0], ids[:samples, 0], embeddings.detach()[:, 0].norm(dim=1))
        assert cost.loss.margin.quality.mean == expected.margin.quality.mean
    assert cost.loss.margin.quality.mean != 20.0


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(vm.arcface(30.0, 0.2), AdditiveAngularMargin(0.2, 30)), (vm.cosface(30.0, 0.2), AngularMargin(0.2, 30))],
)
def test_arcface_and_cosface_equal_speechbrains(ours, theirs):
    cosine, ids = predictions()
    results = []
    for cost in (MarginCost(ours), LogSoftmaxWrapper(theirs)):
        x = cosine.clone().requires_grad_()
        loss = cost(x, ids, torch.ones(9))
        results.append((loss, *torch.autograd.grad(loss, x)))
    torch.testing.assert_close(*results, atol=2e-5, rtol=1e-4)


def test_inside_log_softmax_wrapper_is_an_error():
    """That wrapper catches TypeError and continues without targets, and so without a margin."""
    cosine, ids = predictions()

    class Fails(torch.nn.Module):
        def forward(self, outputs, targets=None):
            if targets is not None:
                raise TypeError("swallowed")
            return outputs

    assert torch.isfinite(LogSoftmaxWrapper(Fails())(cosine, ids))  # what is to be prevented
    for loss in (QMarginLoss(), MarginCost(vm.arcface())):
        with pytest.raises(ValueError, match="in the place of LogSoftmaxWrapper"):
            LogSoftmaxWrapper(loss)(cosine, ids)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("margn: 0.2", "margn"),
        ("margin: -0.2", "margin is -0.2"),
        ("alpha: 0.5", "alpha is 0.5"),
        ("scale: 0", "scale is 0"),
    ],
)
def test_a_wrong_yaml_stops_when_it_is_loaded(yaml, message):
    with pytest.raises((ValueError, TypeError), match=message):
        load_hyperpyyaml(f"cost: !new:verimargin_speechbrain.QMarginLoss\n    {yaml}\n")


def test_bad_input_is_named():
    cosine, ids = predictions()
    with pytest.raises(ValueError, match=r"has 20 classes, and a speaker has the id 20: set out_n_neurons"):
        QMarginLoss()(cosine, ids * 0 + 20)
    with pytest.raises(ValueError, match=r"shape \(9, 2\)"):
        QMarginLoss()(cosine, ids.repeat(1, 2))
    with pytest.raises(ValueError, match=r"give a verimargin\.MarginLoss"):
        MarginCost(AngularMargin())
    with pytest.raises(ValueError, match=r"AdaMargin follows the norms .*`embedding_model: !ref <embedding_model>`"):
        MarginCost(vm.adaface())
    with pytest.raises(ValueError, match="QMargin follows the norms of the embeddings"):
        QMarginLoss(quality=vm.Quality())
    with pytest.raises(AttributeError, match=r"no 'QMargn': it has .*MarginCost"):
        _ = verimargin_speechbrain.QMargn
    with pytest.raises(ImportError, match=r"no such class as verimargin_speechbrain\.QMargn"):
        load_hyperpyyaml("cost: !new:verimargin_speechbrain.QMargn")


scores = st.lists(st.integers(-16, 16).map(lambda k: k / 16) | st.floats(-1, 1, width=32), min_size=1, max_size=20)


@settings(max_examples=300, deadline=None)
@given(scores, scores)
def test_metrics_equal_speechbrains(positive, negative):
    positive, negative = torch.tensor(positive), torch.tensor(negative)
    assert vm.metrics.eer(positive, negative)[0] == pytest.approx(EER(positive, negative)[0], abs=1e-6)
    for prior in (0.01, 0.05, 0.5):
        theirs = minDCF(positive, negative, p_target=prior)[0]
        assert vm.metrics.min_dcf(positive, negative, p_target=prior)[0] == pytest.approx(theirs, abs=1e-6)


def test_metrics_equal_speechbrains_on_thousands_of_trials():
    generator = torch.Generator().manual_seed(0)
    positive, negative = torch.randn(400, generator=generator) + 1.5, torch.randn(3000, generator=generator)
    assert vm.metrics.eer(positive, negative)[0] == pytest.approx(EER(positive, negative)[0], abs=1e-6)
    assert vm.metrics.min_dcf(positive, negative)[0] == pytest.approx(minDCF(positive, negative)[0], abs=1e-6)


@pytest.mark.parametrize("target", [4, 378243])
def test_an_id_that_no_class_has_is_explained(target):
    """Packed by TrainingSamples, an id was "label 378243 is outside 0..3"."""
    cost = MarginCost(vm.cosface(scale=30.0, margin=0.2))
    with pytest.raises(
        ValueError, match=rf"4 classes, and a speaker has the id {target}: set out_n_neurons .*`kappa: !ref <kappa>`"
    ):
        cost(torch.zeros(2, 1, 4), torch.tensor([[0], [target]]))


def test_an_embedding_model_that_is_ignored_is_told(caplog):
    QMarginLoss()
    QMarginLoss(quality=vm.Quality(), embedding_model=torch.nn.Linear(2, 2))
    assert not caplog.records
    QMarginLoss(embedding_model=torch.nn.Linear(2, 2))
    assert "its QMargin does not depend on the norms of embeddings: it is ignored" in caplog.text
