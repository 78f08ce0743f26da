import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from parfocal.models.transmil.nystrom import NystromAttention, pseudo_inverse, segment_means


def make(**settings: object) -> NystromAttention:
    torch.manual_seed(0)
    return NystromAttention(8, **{"num_heads": 2, "head_dim": 4, **settings}).eval().double()


def exact(model: NystromAttention, x: torch.Tensor) -> torch.Tensor:
    q, k, v = model.qkv(x).view(len(x), 3, 2, 4).permute(1, 2, 0, 3)
    attended = F.scaled_dot_product_attention(q, k, v) + model.value_convolution(v[None])[0]
    return model.output_projection(attended.transpose(0, 1).flatten(1))


@pytest.mark.parametrize("tokens", [1, 7, 32])
def test_with_a_landmark_per_token_it_is_exact_attention(tokens):
    model, x = (
        make(num_landmarks=32, pinv_iterations=40),
        torch.randn(tokens, 8, dtype=torch.float64),
    )
    torch.testing.assert_close(model(x)[0], exact(model, x))


def test_with_fewer_landmarks_it_is_the_published_product_of_three_matrices():
    model, x = make(num_landmarks=5, pinv_iterations=60), torch.randn(43, 8, dtype=torch.float64)
    heads = []
    for q, k, v in zip(*model.qkv(x).view(43, 3, 2, 4).permute(1, 2, 0, 3), strict=True):
        landmarks_q, landmarks_k = (segment_means(part[None], 5)[0] for part in (q, k))
        factors = [
            (a @ b.T / 2).softmax(dim=1)
            for a, b in ((q, landmarks_k), (landmarks_q, landmarks_k), (landmarks_q, k))
        ]
        heads.append(factors[0] @ torch.linalg.pinv(factors[1]) @ factors[2] @ v)
    convolved = model.value_convolution(
        model.qkv(x).view(43, 3, 2, 4).permute(1, 2, 0, 3)[2][None]
    )[0]
    expected = model.output_projection(torch.cat([*(torch.stack(heads) + convolved)], dim=1))
    torch.testing.assert_close(model(x)[0], expected)


def test_equal_tokens_have_the_result_of_one_token():
    """Padding with zeros would change the result."""
    model, x = make(num_landmarks=16, pinv_iterations=40), torch.randn(1, 8, dtype=torch.float64)
    torch.nn.init.zeros_(model.value_convolution.weight)
    equal = x.expand(101, 8)
    torch.testing.assert_close(model(equal)[0], model(x)[0].expand(101, 8))


@pytest.mark.parametrize(("tokens", "lengths"), [(4, [1] * 4), (8, [2] * 4), (7, [1, 2, 2, 2])])
def test_segments_have_equal_length_but_the_first(tokens, lengths):
    x = torch.randn(2, tokens, 3)
    expected = torch.stack([part.mean(dim=1) for part in x.split(lengths, dim=1)], dim=1)
    torch.testing.assert_close(segment_means(x, 4), expected)


def test_a_pseudo_inverse_does_not_depend_on_the_rest_of_the_batch():
    matrices = torch.rand(2, 6, 6).softmax(dim=-1)
    other = torch.stack([matrices[0], 100 * matrices[1]])
    assert pseudo_inverse(matrices, 6)[0].equal(pseudo_inverse(other, 6)[0])


def test_the_pseudo_inverse_equals_that_of_torch():
    matrix = torch.randn(1, 9, 9, dtype=torch.float64).softmax(dim=-1)
    torch.testing.assert_close(pseudo_inverse(matrix, 60), torch.linalg.pinv(matrix))


def test_the_attention_of_the_first_token_is_exact():
    model, x = make(num_landmarks=4), torch.randn(50, 8, dtype=torch.float64)
    q, k, _ = model.qkv(x).view(50, 3, 2, 4).permute(1, 2, 0, 3)
    expected = torch.stack([(q[head, 0] @ k[head].T / 2).softmax(dim=0) for head in range(2)])
    torch.testing.assert_close(model(x)[1], expected.mean(dim=0))
