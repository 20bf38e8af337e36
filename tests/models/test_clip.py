"""CLIP's wrapper and the networks that judge pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch.nn import functional as F

from models.clip import CLIP_MEAN, CLIP_STD, ClipModel
from models.clip_tokenizer import ShortTokenizer
from models.perception import AttributeNet, IdentityNet, LandmarkNet, trunk
from portraits import LANDMARK_NAMES
from training.kinds.clip import MODEL

TEXTS = ("a smiling face", "a bronze statue of a face with wrinkles", "Zürich, 1999!", "")


def clip() -> ClipModel:
    torch.manual_seed(0)
    return ClipModel(model=MODEL, merges=300, templates=("{}", "a picture of {}")).eval()


@pytest.mark.parametrize("text", TEXTS)
def test_short_tokenizer_splits_as_clip_does_and_reads_back(text: str) -> None:
    short, full = ShortTokenizer(merges=300, context_length=32), SimpleTokenizer()
    tokens = short.encode(text)
    assert max(tokens, default=0) < short.vocab_size - 2
    assert short.decode(tokens).strip() == full.decode(full.encode(text)).strip()


def test_short_tokenizer_with_all_merges_is_clips() -> None:
    full = SimpleTokenizer()
    short = ShortTokenizer(merges=len(full.bpe_ranks), context_length=77)
    for text in TEXTS:
        assert short.encode(text) == full.encode(text)


def test_text_embedding_is_the_raw_mean_over_templates() -> None:
    model = clip()
    rows = [model.embed_tokens(model.tokenize([template.format("a face")]))[0] for template in model.templates]
    assert torch.allclose(model.embed_texts(["a face"])[0], torch.stack(rows).mean(0), atol=1e-5)


def test_a_text_beyond_the_context_is_refused_with_the_fix() -> None:
    with pytest.raises(ValueError, match="use fewer words"):
        clip().tokens("very " * 40 + "old face")


def test_pictures_are_pooled_and_normalised() -> None:
    model = clip()
    picture = torch.rand(2, 3, 128, 128) * 2 - 1
    pooled = F.adaptive_avg_pool2d(picture, (64, 64)) * 0.5 + 0.5
    by_hand = (pooled - torch.tensor(CLIP_MEAN)[:, None, None]) / torch.tensor(CLIP_STD)[:, None, None]
    with torch.no_grad():
        assert torch.allclose(model.embed_images(picture), model.clip.encode_image(by_hand), atol=1e-5)


def test_identity_is_a_unit_vector_at_any_size() -> None:
    net = IdentityNet(widths=(8, 8, 8, 8)).eval()
    for size in (48, 64, 256):
        assert torch.allclose(net(torch.zeros(2, 3, size, size)).norm(dim=1), torch.ones(2), atol=1e-5)


def test_probabilities_sum_to_one_in_each_group() -> None:
    net = AttributeNet(groups={"a": ("x", "y", "z"), "b": ("u", "v")}, binary=("w",), widths=(8, 8, 8, 8)).eval()
    p = net.probabilities(torch.randn(3, 3, 64, 64))
    assert net.names == ("x", "y", "z", "u", "v", "w")
    assert torch.allclose(p[:, :3].sum(1), torch.ones(3)) and torch.allclose(p[:, 3:5].sum(1), torch.ones(3))


class Marker(LandmarkNet):
    """A landmark net that points at the brightest pixel, to test what `locate` does around the network."""

    def forward(self, image_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        flat = image_BCHW.sum(1).flatten(1).argmax(1)
        side = image_BCHW.shape[-1]
        xy = torch.stack([flat % side, flat // side], 1) + 0.5
        spread = torch.tensor([[-0.2, 0.0], [0.2, 0.0], [0.0, 0.0]]).repeat(3, 1)
        return (xy * (2 / side) - 1)[:, None] + spread, torch.full((len(flat),), 3.0)


@pytest.mark.parametrize(
    ("height", "width", "spot"), [(200, 200, (90, 110)), (300, 120, (60, 200)), (90, 400, (300, 40)), (50, 50, (3, 3))]
)
def test_locate_gives_pixels_of_the_original_picture(height: int, width: int, spot: tuple[int, int]) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    x, y = spot
    image[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4] = 255
    points, score = Marker(names=LANDMARK_NAMES, widths=(8, 8, 8, 8)).eval().locate([image])
    assert (points[0].mean(0) - torch.tensor([x + 0.5, y + 0.5])).abs().max() < 0.06 * max(height, width)
    assert score[0] > 0.9


def test_trunk_halves_per_width() -> None:
    assert trunk((8, 8, 8, 8))(torch.zeros(1, 3, 64, 64)).shape == (1, 8, 4, 4)
