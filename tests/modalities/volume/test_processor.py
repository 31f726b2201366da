"""The way from a volume to the model's input: the box, windows, the whole chain, and back to millimetres."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from vlp.core.config import ConfigError
from vlp.modalities.image.errors import ImageError
from vlp.modalities.volume.processor import VolumeProcessor
from vlp.modalities.volume.spec import VolumeSpec
from vlp.modalities.volume.volume import Volume, to_ras
from vlp.modalities.volume.windows import Windows

from .written import ct, nifti

HU = [-2000, -1024, -1000, -950, -600, -150, -100, 0, 40, 100, 240, 400, 1300, 3071]
UNIT = {
    "lung": [0, 0.217333, 0.233333, 0.266667, 0.5, 0.8, 0.833333, 0.9, 0.926667, 0.966667, 1, 1, 1, 1],
    "mediastinum": [0, 0, 0, 0, 0, 0.025, 0.15, 0.4, 0.5, 0.65, 1, 1, 1, 1],
    "bone": [0, 0, 0, 0, 0, 0.194444, 0.222222, 0.277778, 0.3, 0.333333, 0.411111, 0.5, 1, 1],
    "brain": [0, 0, 0, 0, 0, 0, 0, 0, 0.5, 1, 1, 1, 1, 1],
    "liver": [0, 0, 0, 0, 0, 0, 0, 0.125, 0.375, 0.75, 1, 1, 1, 1],
    "whole": [0, 0, 0, 0.025, 0.2, 0.425, 0.45, 0.5, 0.52, 0.55, 0.62, 0.7, 1, 1],
    "-400/1500": [0, 0.084, 0.1, 0.133333, 0.366667, 0.666667, 0.7, 0.766667, 0.793333, 0.833333, 0.926667, 1, 1, 1],
}


def test_windows_are_channels_in_their_order() -> None:
    values = torch.tensor(HU, dtype=torch.float32).view(1, 1, 1, 1, -1)
    found = Windows(VolumeSpec(windows=tuple(UNIT), mean=(0.0,), std=(1.0,)))(values)
    assert found.shape == (1, 7, 1, 1, 14)
    np.testing.assert_allclose(found[0, :, 0, 0].numpy(), list(UNIT.values()), atol=1e-6)
    normalised = Windows(VolumeSpec(windows=tuple(UNIT), mean=(0.449,), std=(0.226,)))(values)
    np.testing.assert_allclose(normalised[0, :, 0, 0], (np.array(list(UNIT.values())) - 0.449) / 0.226, atol=1e-5)


@pytest.mark.parametrize(
    ("count", "size", "start"),
    [
        (5, 2, 1),
        (4, 3, 0),
        (5, 4, 0),
        (6, 3, 1),
        (7, 7, 0),
        (3, 6, -2),
        (4, 7, -2),
        (3, 5, -1),
        (251, 240, 5),
        (250, 241, 4),
    ],
)
def test_crop_and_pad_by_one_rule(count: int, size: int, start: int) -> None:
    voxels = np.arange(1, count + 1, dtype=np.int16)[:, None, None] * np.ones((1, 2, 2), np.int16)
    processor = VolumeProcessor(VolumeSpec(spacing=(1, 1, 1), size=(size, 2, 2)))
    tensor, geometry = processor.eval(Volume(voxels, np.eye(4)))
    expected = [index + 1 if 0 <= index < count else -1024 for index in range(start, start + size)]
    assert tensor[0, :, 0, 0].tolist() == expected and geometry.offset[0] == -start


CHAIN = {  # voxel of the file: its place, the exact index on the output, the brightest output voxel and its value
    (15, 14, 6): ((-1.212307, -6.684137, -0.920953), (11.625, 5.7, 10.166667), (12, 6, 10), -562.5),
    (10, 16, 3): ((7.99858, -7.17992, -11.917486), (15.375, 4.5, 6.166667), (15, 4, 6), -737.5),
    (20, 12, 9): ((-10.423194, -6.188354, 10.075581), (7.875, 6.9, 14.166667), (8, 7, 14), -212.5),
    (14, 18, 8): ((0.288305, -11.272407, 7.202221), (12.375, 3.3, 12.833333), (12, 3, 13), -562.5),
}


def test_the_whole_chain_and_back() -> None:
    turn = Rotation.from_euler("z", 12, degrees=True) * Rotation.from_euler("y", -7, degrees=True)
    affine = np.eye(4)
    affine[:3, :3] = turn.as_matrix() @ np.diag([-1.5, -1.2, 4])
    affine[:3, 3] = 20, 15, -22
    processor = VolumeProcessor(VolumeSpec(spacing=(3, 2, 2), size=(20, 12, 24)))
    for voxel, (place, exact, brightest, value) in CHAIN.items():
        array = np.full((30, 28, 12), -1000, np.int16)
        array[voxel] = 1000
        turned, ras, axes = to_ras(array, affine)
        volume = Volume(turned, ras, axes=axes)
        tensor, geometry = processor.eval(volume)
        output = tensor[0].numpy().transpose(2, 1, 0)
        assert (output == -1024).sum() == 1344
        np.testing.assert_allclose(output.max(), value, atol=0.05)
        assert output[brightest] == output.max()
        to_world = processor.affine(volume, geometry)
        np.testing.assert_allclose(
            to_world,
            [
                [1.941713, -0.415823, -0.357619, -17.778741],
                [0.412724, 1.956295, -0.076014, -21.860124],
                [0.243739, 0, 2.977638, -34.027072],
                [0, 0, 0, 1],
            ],
            atol=1e-5,
        )
        np.testing.assert_allclose(to_world @ [*exact, 1], [*place, 1], atol=1e-5)
        source = geometry.to_source(np.array([np.array(exact)[::-1] + 0.5]))[0]
        np.testing.assert_allclose(volume.world(source), place, atol=1e-5)


def test_a_file_as_users_give_it_with_options_by_name(tmp_path) -> None:
    processor = VolumeProcessor(VolumeSpec(size=(8, 8, 8)))
    path = nifti(tmp_path / "a.nii.gz", ct((12, 10, 9)))
    found = processor.native(path)
    assert found.shape == (9, 10, 12)
    assert processor.native(str(path), orientation="LPS", spacing=(3, 1, 1)).spacing == (3, 1, 1)
    with pytest.raises(ConfigError, match="orientaton"):
        processor.native(path, orientaton="LPS")
    assert processor.native(found) is found
    with pytest.raises(ImageError, match="MR"):
        VolumeProcessor(VolumeSpec(modality="MR", windows=())).native(found)
    with pytest.raises(ImageError, match="spacing is unknown") as error:
        processor.native(Volume(found.voxels, np.diag([0.0, 0, 0, 1])))
    assert error.value.reason == "volume_without_spacing"
    mr = VolumeProcessor(VolumeSpec(modality="MR", windows=(), size=(8, 8, 8)))
    values, _ = mr.eval(mr.native(nifti(tmp_path / "m.nii", np.abs(ct((12, 10, 9))))))
    assert values.min() == 0 and 0.9 < values.max() <= 1
