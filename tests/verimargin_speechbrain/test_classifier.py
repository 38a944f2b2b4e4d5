import os

import pytest
import torch
import verimargin as vm
from distributed import on_ranks
from speechbrain.core import Brain, Stage
from speechbrain.lobes.models.ECAPA_TDNN import Classifier
from verimargin_speechbrain import MarginCost, PrototypeClassifier, PrototypeCost, QMarginLoss


def sparse_pair(weight):
    classifier = PrototypeClassifier(weight.shape[1], weight.shape[0], vm.q_margin(1.5, 10.0, 0.2))
    classifier.weight.data.copy_(weight)
    return classifier, PrototypeCost(classifier)


def stock_pair(weight):
    classifier = Classifier(weight.shape[1], out_neurons=weight.shape[0])
    classifier.weight.data.copy_(weight)
    return classifier, QMarginLoss(0.2, 10, 1.5)


def quality_loss():
    return vm.q_margin(1.5, 10.0, 0.2, quality=vm.Quality(0.6, h=5.0))


def sparse_quality_pair(weight):
    classifier = PrototypeClassifier(weight.shape[1], weight.shape[0], quality_loss())
    classifier.weight.data.copy_(weight)
    return classifier, PrototypeCost(classifier)


def stock_quality_pair(weight, model):
    classifier = Classifier(weight.shape[1], out_neurons=weight.shape[0])
    classifier.weight.data.copy_(weight)
    return classifier, MarginCost(quality_loss(), embedding_model=model)


def batch(samples=12, speakers=40, size=8):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(speakers, size, generator=generator)
    ids = torch.randint(speakers, (samples, 1), generator=generator)
    return weight, 3 * torch.randn(samples, 1, size, generator=generator), ids


def test_trains_on_embeddings_and_validates_on_cosines_as_the_stock_pair():
    weight, embeddings, ids = batch()
    results = {}
    for pair in (sparse_pair, stock_pair):
        classifier, cost = pair(weight)
        x = embeddings.clone().requires_grad_()
        outputs = classifier.train()(x)
        loss = cost(outputs, ids, torch.ones(len(ids)))
        gradients = torch.autograd.grad(loss, (x, classifier.weight))
        valid = classifier.eval()(embeddings)
        results[pair] = loss, *gradients, valid, cost(valid, ids, torch.ones(len(ids)))
        if pair is sparse_pair:
            assert outputs is x
    torch.testing.assert_close(results[sparse_pair], results[stock_pair], atol=1e-5, rtol=1e-4)


def test_subcenters_give_the_cosine_of_the_nearest():
    weight, embeddings, ids = batch(speakers=120)
    weight = weight.view(40, 3, -1)
    classifier = PrototypeClassifier(8, 40, vm.q_margin(1.5, 10.0, 0.2), subcenters=3)
    classifier.weight.data.copy_(weight)
    cost = PrototypeCost(classifier)
    trained = cost(classifier.train()(embeddings), ids % 40)
    cosine = classifier.eval()(embeddings)
    expected = torch.einsum("nid,ckd->nick", *(torch.nn.functional.normalize(x, dim=-1) for x in (embeddings, weight)))
    torch.testing.assert_close(cosine, expected.amax(3))
    torch.testing.assert_close(cost(cosine, ids % 40), trained)


def test_the_margin_follows_the_norms_in_both_modes():
    weight, embeddings, ids = batch()
    (classifier, cost), expected = sparse_quality_pair(weight), quality_loss()
    for training in (True, False, True):
        classifier.train(training)
        expected.train(training)
        found = cost(classifier(embeddings), ids)
        cosine = torch.nn.functional.normalize(embeddings[:, 0]) @ torch.nn.functional.normalize(weight).T
        torch.testing.assert_close(found.detach(), expected(cosine, ids[:, 0], embeddings[:, 0].norm(dim=1)))
        torch.testing.assert_close(classifier.loss.margin.quality.mean, expected.margin.quality.mean)
    assert expected.margin.quality.mean != 20.0


def test_the_recipe_names_the_screening():
    loss = vm.q_margin(1.5, 10.0, 0.2)
    assert PrototypeClassifier(8, 40, loss).screening == "auto"
    assert PrototypeClassifier(8, 40, loss, screening="off").screening == "off"


def test_the_cost_holds_no_second_copy():
    classifier, cost = sparse_pair(batch()[0])
    assert list(cost.parameters()) == []
    assert {name for name, _ in classifier.named_parameters()} == {"weight"}
    classifier.double()
    _, embeddings, ids = batch()
    assert cost(classifier(embeddings.double()), ids).dtype == torch.float64


def test_other_classifiers_are_refused():
    with pytest.raises(ValueError, match="needs a PrototypeClassifier"):
        PrototypeCost(Classifier(8, out_neurons=4))


class Speakers(Brain):
    """Embedding, classifier and cost as in the recipes' script."""

    def compute_forward(self, batch, stage):
        return self.modules.classifier(self.modules.embedding_model(batch[0]))

    def compute_objectives(self, predictions, batch, stage):
        return self.hparams.compute_cost(predictions, batch[1], None)


def _trained(rank, ranks):
    """For each pair, the parameters, the running averages and the validation loss after three steps, each rank on its
    part of the batch.
    """
    if ranks > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))
    weight, embeddings, ids = batch()
    results = []
    for pair in (sparse_pair, stock_pair, sparse_quality_pair, stock_quality_pair):
        torch.manual_seed(0)
        model = torch.nn.Linear(8, 8)
        classifier, cost = pair(weight) if pair is not stock_quality_pair else pair(weight, model)
        brain = Speakers(
            {"embedding_model": model, "classifier": classifier, "compute_cost": cost},
            lambda parameters: torch.optim.SGD(parameters, lr=0.05),
            {"compute_cost": cost},
            {"device": "cpu", "distributed_launch": ranks > 1, "distributed_backend": "gloo", "noprogressbar": True},
        )
        brain.on_fit_start()
        part = torch.arange(len(ids)).chunk(ranks)[rank]
        brain.modules.train()
        for _ in range(3):
            brain.fit_batch((embeddings[part], ids[part]))
        brain.modules.eval()
        loss = brain.evaluate_batch((embeddings, ids), Stage.VALID)
        state = [*brain.modules.parameters(), *brain.modules.buffers()]
        results.append([*(x.detach().clone() for x in state), loss])
    return results


def test_two_processes_train_as_one():
    (expected,) = on_ranks(1, _trained, 1)
    torch.testing.assert_close(expected[0], expected[1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(expected[2], expected[3], atol=1e-5, rtol=1e-4)
    for results in on_ranks(2, _trained, 2):
        torch.testing.assert_close(results, expected, atol=1e-5, rtol=1e-4)
    assert not torch.equal(expected[0][-2], batch()[0])
