"""Which towers take volumes and which take images, and what a recipe that mixes them is told."""

import pytest

from tests.models.towers.volume.planted import spec
from vlp.core.config import ConfigError
from vlp.modalities.image.spec import ImageSpec
from vlp.models.towers.base import build_image_tower


def test_a_tower_of_images_refuses_volumes_and_names_what_fits() -> None:
    with pytest.raises(ConfigError, match=r"model\.image\.kind: 'timm' is a tower of images.*use one of .*patch_conv"):
        build_image_tower({"kind": "timm", "name": "resnet18"}, spec(16, 16, 16))


def test_a_tower_of_volumes_refuses_images_and_names_what_fits() -> None:
    with pytest.raises(
        ConfigError, match=r"'patch_conv' is a tower of volumes.*section 'image': use one of conv, hf, open_clip, timm"
    ):
        build_image_tower("patch_conv", ImageSpec(size=32))
