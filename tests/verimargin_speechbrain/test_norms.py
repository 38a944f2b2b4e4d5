import pytest
import torch
from verimargin_speechbrain.norms import EmbeddingNorms, norms_of


def test_the_norms_are_those_of_the_last_embeddings():
    model = torch.nn.Linear(3, 4)
    state = model.state_dict()
    norms = EmbeddingNorms(model)
    model(torch.randn(2, 1, 3))
    embeddings = model(torch.randn(5, 1, 3))
    found = norms.take(5)
    torch.testing.assert_close(found, embeddings.detach().double().norm(dim=2)[:, 0].float())
    assert not found.requires_grad
    assert model.state_dict().keys() == state.keys()
    assert norms.training
    model.eval()
    assert not norms.training


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_embeddings_have_norms_in_float32(dtype):
    """The norm of these is above the largest float16."""
    embeddings = torch.full((2, 1, 400), 6e3, dtype=dtype)
    found = norms_of(embeddings)
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx([20.0 * float(embeddings[0, 0, 0])] * 2)


def test_each_forward_pass_counts_once_and_has_to_be_that_of_the_batch():
    model = torch.nn.Linear(3, 4)
    norms = EmbeddingNorms(model)
    with pytest.raises(RuntimeError, match="without a forward pass of its embedding_model"):
        norms.take(5)
    model(torch.randn(5, 1, 3))
    norms.take(5)
    with pytest.raises(RuntimeError, match="without a forward pass of its embedding_model"):
        norms.take(5)
    model(torch.randn(5, 1, 3))
    with pytest.raises(ValueError, match="given 10 samples, and the cost's embedding_model 5"):
        norms.take(10)
    with pytest.raises(ValueError, match="embedding_model is 'ecapa': give the recipe's"):
        EmbeddingNorms("ecapa")
