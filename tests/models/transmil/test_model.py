import torch

from parfocal.bag import StoredBag
from parfocal.models import TransMIL


def test_it_has_the_parameters_of_the_authors_model():
    assert sum(weight.numel() for weight in TransMIL(1024, 3).parameters()) == 2_672_659


def test_with_a_landmark_per_token_it_is_the_published_model_with_exact_attention():
    torch.manual_seed(0)
    model = TransMIL(5, 3, dim=8, num_heads=2, num_landmarks=64, pinv_iterations=40).eval().double()
    rows = torch.randn(11, 5, dtype=torch.float64)

    def attend(layer: int, x: torch.Tensor) -> torch.Tensor:
        part = model.attention[layer]
        heads = []
        for head, (q, k, v) in enumerate(
            zip(
                *(each.chunk(2, dim=1) for each in part.qkv(model.norms[layer](x)).chunk(3, 1)),
                strict=True,
            )
        ):
            kernel = part.value_convolution.weight[head, 0, :, 0]  # 33
            padded = torch.zeros(len(v) + 32, 4, dtype=v.dtype)
            padded[16:-16] = v
            convolved = torch.stack([kernel @ padded[i : i + 33] for i in range(len(v))])
            heads.append((q @ k.T / 2).softmax(dim=1) @ v + convolved)
        return x + part.output_projection(torch.cat(heads, dim=1))

    h = model.embedder(rows)
    x = attend(0, torch.cat([model.class_token, h, h[:5]]))  # 16 tokens: a square of 4
    square = x[1:].view(4, 4, 8).permute(2, 0, 1)[None]
    square = square + sum(conv(square) for conv in model.position_convolutions)
    x = attend(1, torch.cat([x[:1], square[0].permute(1, 2, 0).reshape(16, 8)]))
    expected = model.classifier(model.norms[2](x[0]))
    torch.testing.assert_close(model(StoredBag([rows])).logits, expected)
