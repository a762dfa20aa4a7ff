"""Our EfficientNet-Lite0 against timm's, on the same weights."""

from __future__ import annotations

import pytest
import torch

from scanseg.efficientnet import EfficientNetLite0, SameConv
from scanseg.encoders.embedded import EmbeddedEncoder


@pytest.mark.parametrize("size", [(64, 96), (65, 33)])
def test_it_equals_timms_bit_for_bit(size: tuple[int, int]) -> None:
    import timm

    ours = EmbeddedEncoder().tower
    theirs = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    theirs.load_state_dict(ours.state_dict())
    torch.manual_seed(0)
    x = torch.randn(2, 3, *size)
    with torch.inference_mode():
        features = ours.bn2(ours.conv_head(ours.blocks(ours.bn1(ours.conv_stem(x)))))
        assert torch.equal(features, theirs.forward_features(x))


def test_names_and_shapes_of_parameters_are_timms() -> None:
    import timm

    theirs = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    ours = EfficientNetLite0().state_dict()
    assert list(ours) == list(theirs)
    assert [v.shape for v in ours.values()] == [v.shape for v in theirs.values()]


def test_same_padding_by_hand() -> None:
    conv = SameConv(1, 1, 3, stride=2)
    torch.nn.init.ones_(conv.weight)
    row = torch.tensor([1.0, 2.0, 4.0, 8.0]).expand(1, 1, 1, 4)
    # one row in, one out: padded by one above and below. Four columns in, two out: the window must
    # reach 2 + 3 = 5 columns, so one is added to the right: 1 + 2 + 4 and 4 + 8 + 0
    assert conv(row).tolist() == [[[[7.0, 12.0]]]]
