import dataclasses

import pytest
import torch
import verimargin as vm
from verimargin._sharding import Shard
from verimargin.head.gradient_memory import GradientMemory
from verimargin.head.step import Step, differentiates, remove_radial_part_


@pytest.mark.parametrize("classes", [1, 7])
def test_the_gradient_through_the_normalisation(classes):
    """Of f(w / |w|) by autograd, from the gradient of f divided by |w|."""
    generator = torch.Generator().manual_seed(0)
    weight, towards = torch.randn(2, classes, 5, generator=generator, dtype=torch.float64)
    weight = (3 * weight).requires_grad_()
    unit = torch.nn.functional.normalize(weight)
    (expected,) = torch.autograd.grad((unit * towards).sin().sum(), weight)
    norm = weight.detach().norm(dim=1)
    grad = (unit * towards).cos().mul(towards).detach() / norm[:, None]
    found = remove_radial_part_(grad, weight.detach(), norm)
    assert found is grad
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close((found * weight.detach()).sum(1), torch.zeros(classes, dtype=torch.float64))


def test_when_a_step_is_differentiated():
    seen = []

    class Look(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            seen.append(differentiates(ctx))
            return x + y

        @staticmethod
        def backward(ctx, grad):
            return grad, grad

    x, y = torch.ones(2, requires_grad=True), torch.ones(2)
    Look.apply(x, y)
    Look.apply(y, x)
    Look.apply(y, y)
    with torch.inference_mode():
        Look.apply(x, y)
    assert seen == [True, True, False, False]


def test_a_steps_parameters_stay_as_they_are():
    index = torch.tensor([0])
    step = Step(index, index, vm.cosface(), Shard(3, None), GradientMemory())
    with pytest.raises(dataclasses.FrozenInstanceError):
        step.label = torch.tensor([1])
