import pytest
import torch
from torch.nn import functional as F

from upstream.pretrain.objective import UnitHead, unit_loss

B, T, D, K = 3, 20, 16, 7


@pytest.fixture
def batch():
    torch.manual_seed(0)
    frames = torch.randn(B, T, D, requires_grad=True)
    labels = torch.randint(K, (B, T))
    mask = torch.rand(B, T) < 0.5
    valid = torch.arange(T) < torch.tensor([20, 13, 7])[:, None]
    return frames, labels, mask, valid


def head(logits="cosine"):
    torch.manual_seed(1)
    return UnitHead(D, K, logits=logits, projection=8, temperature=0.1)


def test_cosine_logits_are_cosines_over_the_temperature():
    h, x = head(), torch.randn(5, D)
    expected = F.cosine_similarity(h.projection(x)[:, None], h.units[None], dim=-1) / 0.1
    torch.testing.assert_close(h(x), expected)


@pytest.mark.parametrize("logits", ["cosine", "linear"])
def test_loss_is_the_weighted_sum_of_both_means(batch, logits):
    frames, labels, mask, valid = batch
    h = head(logits)
    result = unit_loss(h, frames, labels, mask, valid, masked_weight=1.0, unmasked_weight=0.3)
    all_logits = h(frames.reshape(-1, D)).reshape(B, T, K)
    ce = F.cross_entropy(all_logits.transpose(1, 2), labels, reduction="none")
    expected = ce[mask & valid].mean() + 0.3 * ce[~mask & valid].mean()
    torch.testing.assert_close(result.loss, expected)
    right = all_logits.argmax(-1) == labels
    assert result.masked_correct == int(right[mask & valid].sum())
    assert result.masked_frames + result.unmasked_frames == int(valid.sum())


def test_padding_has_no_gradient_and_no_unmasked_weight_means_no_unmasked_gradient(batch):
    frames, labels, mask, valid = batch
    unit_loss(head(), frames, labels, mask, valid, masked_weight=1.0, unmasked_weight=0.0).loss.backward()
    moved = frames.grad.abs().sum(-1) > 0
    assert torch.equal(moved, mask & valid)


def test_large_norms_stay_finite_in_bf16():
    h = head()
    frames = (1e4 * torch.randn(1, T, D)).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = unit_loss(
            h, frames, torch.zeros(1, T, dtype=torch.long), torch.ones(1, T, dtype=torch.bool),
            torch.ones(1, T, dtype=torch.bool), masked_weight=1.0, unmasked_weight=0.1,
        )  # fmt: skip
    result.loss.backward()
    assert torch.isfinite(result.loss) and torch.isfinite(frames.grad).all()


def test_a_batch_without_masked_frames_still_trains(batch):
    frames, labels, mask, valid = batch
    result = unit_loss(head(), frames, labels, mask & False, valid, masked_weight=1.0, unmasked_weight=0.5)
    assert result.masked_frames == 0 and float(result.loss.detach()) > 0
