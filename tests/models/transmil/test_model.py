import torch

from parfocal.bag import StoredBag
from parfocal.models import TransMIL


def test_it_has_the_parameters_of_the_authors_model():
    assert sum(weight.numel() for weight in TransMIL(1024, 3).parameters()) == 2_672_659


def test_with_a_landmark_a_token_it_is_the_published_model_with_exact_attention():
    torch.manual_seed(0)
    model = TransMIL(5, 3, dim=8, heads=2, landmarks=64, iterations=40).eval().double()
    rows = torch.randn(11, 5, dtype=torch.float64)

    def attend(layer: int, x: torch.Tensor) -> torch.Tensor:
        part = model.attends[layer]
        heads = []
        for head, (q, k, v) in enumerate(
            zip(
                *(each.chunk(2, dim=1) for each in part.split(model.norms[layer](x)).chunk(3, 1)),
                strict=True,
            )
        ):
            kernel = part.near.weight[head, 0, :, 0]  # 33
            far = torch.zeros(len(v) + 32, 4, dtype=v.dtype)
            far[16:-16] = v
            near = torch.stack([kernel @ far[i : i + 33] for i in range(len(v))])
            heads.append((q @ k.T / 2).softmax(dim=1) @ v + near)
        return x + part.join(torch.cat(heads, dim=1))

    h = model.embed(rows)
    x = attend(0, torch.cat([model.slide, h, h[:5]]))  # 16 tokens: a square of 4
    square = x[1:].view(4, 4, 8).permute(2, 0, 1)[None]
    square = square + sum(convolve(square) for convolve in model.place)
    x = attend(1, torch.cat([x[:1], square[0].permute(1, 2, 0).reshape(16, 8)]))
    expected = model.classify(model.norms[2](x[0]))
    torch.testing.assert_close(model(StoredBag([rows])).logits, expected)
