import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from parfocal.models.transmil.nystrom import NystromAttention, landmarks, pseudo_inverse


def make(**settings: object) -> NystromAttention:
    torch.manual_seed(0)
    return NystromAttention(8, **{"heads": 2, "head_dim": 4, **settings}).eval().double()


def exact(model: NystromAttention, x: torch.Tensor) -> torch.Tensor:
    q, k, v = model.split(x).view(len(x), 3, 2, 4).permute(1, 2, 0, 3)
    attended = F.scaled_dot_product_attention(q, k, v) + model.near(v[None])[0]
    return model.join(attended.transpose(0, 1).flatten(1))


@pytest.mark.parametrize("tokens", [1, 7, 32])
def test_with_a_landmark_a_token_it_is_exact_attention(tokens):
    model, x = make(landmarks=32, iterations=40), torch.randn(tokens, 8, dtype=torch.float64)
    torch.testing.assert_close(model(x)[0], exact(model, x))


def test_with_fewer_landmarks_it_is_the_published_product_of_three_matrices():
    model, x = make(landmarks=5, iterations=60), torch.randn(43, 8, dtype=torch.float64)
    heads = []
    for q, k, v in zip(*model.split(x).view(43, 3, 2, 4).permute(1, 2, 0, 3), strict=True):
        far_q, far_k = (landmarks(part[None], 5)[0] for part in (q, k))
        through = [
            (a @ b.T / 2).softmax(dim=1) for a, b in ((q, far_k), (far_q, far_k), (far_q, k))
        ]
        heads.append(through[0] @ torch.linalg.pinv(through[1]) @ through[2] @ v)
    near = model.near(model.split(x).view(43, 3, 2, 4).permute(1, 2, 0, 3)[2][None])[0]
    expected = model.join(torch.cat([*(torch.stack(heads) + near)], dim=1))
    torch.testing.assert_close(model(x)[0], expected)


def test_tokens_that_agree_give_what_they_agree_on():
    """Zeros from padding, attended to, would thin it out."""
    model, x = make(landmarks=16, iterations=40), torch.randn(1, 8, dtype=torch.float64)
    torch.nn.init.zeros_(model.near.weight)
    alike = x.expand(101, 8)
    torch.testing.assert_close(model(alike)[0], model(x)[0].expand(101, 8))


@pytest.mark.parametrize(("tokens", "lengths"), [(4, [1] * 4), (8, [2] * 4), (7, [1, 2, 2, 2])])
def test_landmarks_are_means_of_segments(tokens, lengths):
    x = torch.randn(2, tokens, 3)
    expected = torch.stack([part.mean(dim=1) for part in x.split(lengths, dim=1)], dim=1)
    torch.testing.assert_close(landmarks(x, 4), expected)


def test_a_pseudo_inverse_does_not_depend_on_what_shares_its_batch():
    matrices = torch.rand(2, 6, 6).softmax(dim=-1)
    other = torch.stack([matrices[0], 100 * matrices[1]])
    assert pseudo_inverse(matrices, 6)[0].equal(pseudo_inverse(other, 6)[0])


def test_the_pseudo_inverse_is_torchs():
    matrix = torch.randn(1, 9, 9, dtype=torch.float64).softmax(dim=-1)
    torch.testing.assert_close(pseudo_inverse(matrix, 60), torch.linalg.pinv(matrix))


def test_what_the_first_token_attends_to_is_told_exactly():
    model, x = make(landmarks=4), torch.randn(50, 8, dtype=torch.float64)
    q, k, _ = model.split(x).view(50, 3, 2, 4).permute(1, 2, 0, 3)
    expected = torch.stack([(q[head, 0] @ k[head].T / 2).softmax(dim=0) for head in range(2)])
    torch.testing.assert_close(model(x)[1], expected.mean(dim=0))
