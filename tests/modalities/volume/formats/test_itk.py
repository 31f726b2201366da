"""MetaImage and NRRD: SimpleITK's own files, and headers that name what they may not."""

import numpy as np
import pytest
import SimpleITK as sitk

from vlp.modalities.image.errors import ImageError
from vlp.modalities.volume.read import read_volume

from ..written import ct, read

SHAPE = (9, 10, 12)
DIRECTION = (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0)


def written(path, array: np.ndarray | None = None, packed: bool = False):
    image = sitk.GetImageFromArray((ct(SHAPE) if array is None else array).transpose(*reversed(range(3))))
    image.SetSpacing((0.8, 0.9, 2.5))
    image.SetOrigin((10, -20, 30))
    image.SetDirection(DIRECTION)
    sitk.WriteImage(image, str(path), packed)
    return path


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "a.nhdr"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_of_simpleitk_is_what_its_own_reorientation_gives(tmp_path, name: str, packed: bool) -> None:
    path = written(tmp_path / name, packed=packed)
    found = read(path)
    peer = sitk.DICOMOrient(sitk.ReadImage(str(path)), "RAS")
    np.testing.assert_array_equal(found.voxels, sitk.GetArrayFromImage(peer))
    np.testing.assert_allclose(found.spacing, peer.GetSpacing()[::-1])
    place = peer.TransformContinuousIndexToPhysicalPoint((3, 4, 5))
    np.testing.assert_allclose(found.world((5.5, 4.5, 3.5)), np.array(place) * (-1, -1, 1), atol=1e-5)
    np.testing.assert_array_equal(found.axes.to_file(found.voxels), ct(SHAPE))


def test_a_header_without_orientation_is_refused(tmp_path) -> None:
    header = "ObjectType = Image\nNDims = 3\nBinaryData = True\nDimSize = 9 10 12\nElementType = MET_SHORT\n"
    (tmp_path / "a.raw").write_bytes(ct(SHAPE).tobytes(order="F"))
    path = tmp_path / "a.mhd"
    path.write_text(header + "ElementSpacing = 1 1 2\nElementDataFile = a.raw\n")
    with pytest.raises(ImageError, match="no orientation in the header"):
        read(path)
    found = read(path, orientation="RAS")
    np.testing.assert_array_equal(found.voxels, ct(SHAPE).transpose(2, 1, 0))
    assert found.spacing == (2, 1, 1)
    path.write_text(header + "ElementDataFile = a.raw\n")
    with pytest.raises(ImageError, match=r"spacing of axis i .* is 0 mm"):
        read(path, orientation="RAS")
    nrrd = written(tmp_path / "b.nrrd")
    nrrd.write_bytes(nrrd.read_bytes().replace(b"space: left-posterior-superior\n", b""))
    with pytest.raises(ImageError):
        read(nrrd)


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../a.raw", "sub/a.raw", "LIST", "a%03d.raw 1 3 1", "http://host/a.raw", "C:a.raw", "..", ""],
)
def test_voxels_come_from_one_file_beside_the_header(tmp_path, name: str) -> None:
    path = written(tmp_path / "in" / "a.mhd") if (tmp_path / "in").mkdir() is None else None
    (tmp_path / "a.raw").write_bytes((tmp_path / "in" / "a.raw").read_bytes())
    path.write_text(path.read_text().replace("ElementDataFile = a.raw", f"ElementDataFile = {name}"))
    with pytest.raises(ImageError) as found:
        read(path)
    assert found.value.reason == "foreign_file", found.value
    header = written(tmp_path / "in" / "b.nhdr")
    text = header.read_text()
    line = next(line for line in text.splitlines() if line.startswith(("data file", "datafile")))
    header.write_text(text.replace(line, f"data file: {name}"))
    with pytest.raises(ImageError) as found:
        read(header)
    assert found.value.reason == "foreign_file", found.value


def test_a_link_out_of_the_folder_is_not_followed(tmp_path) -> None:
    (tmp_path / "in").mkdir()
    path = written(tmp_path / "in" / "a.mhd")
    (tmp_path / "in" / "a.raw").rename(tmp_path / "out.raw")
    (tmp_path / "in" / "a.raw").symlink_to(tmp_path / "out.raw")
    with pytest.raises(ImageError, match="link that leads out"):
        read(path)


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd"])
@pytest.mark.parametrize("packed", [False, True])
def test_truncated_files_are_refused(tmp_path, name: str, packed: bool) -> None:
    path = written(tmp_path / name, packed=packed)
    holder = path if path.suffix != ".mhd" else next(tmp_path.glob("a.*raw"))
    data = holder.read_bytes()
    for size in (len(data) - 20, len(data) - 500, len(data) // 2):
        holder.write_bytes(data[:size])
        with pytest.raises(ImageError) as found:
            read(path)
        assert found.value.reason == "image_truncated"
    if packed:  # the libraries tell of it on the console, and go on with what they have got
        for at in (len(data) - 900, len(data) - 300):
            holder.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
            with pytest.raises(ImageError, match="truncated or damaged"):
                read(path)


def test_what_is_too_large_or_of_other_axes(tmp_path) -> None:
    path = written(tmp_path / "a.mha")
    with pytest.raises(ImageError, match="limit is 1000"):
        read_volume(path, 1000)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"DimSize = 9 10 12", b"DimSize = 9000 9000 12"))
    with pytest.raises(ImageError):
        read_volume(path, 1 << 40)
    four = np.stack([ct(SHAPE, seed) for seed in range(2)]).transpose(0, 3, 2, 1)
    image = sitk.JoinSeries([sitk.GetImageFromArray(part) for part in four])
    sitk.WriteImage(image, str(tmp_path / "four.nrrd"))
    with pytest.raises(ImageError, match="axis 3 has 2 volumes"):
        read(tmp_path / "four.nrrd")
    found = read(tmp_path / "four.nrrd", volume=1, orientation="RAS", spacing=(1, 1, 1))
    np.testing.assert_array_equal(found.voxels, four[1])
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((5, 6), np.int16)), str(tmp_path / "flat.mha"))
    with pytest.raises(ImageError, match="6 x 5: expected three axes"):
        read(tmp_path / "flat.mha")
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((9, 9, 9, 3), np.uint8), isVector=True), str(tmp_path / "rgb.mha"))
    with pytest.raises(ImageError, match="3 numbers a voxel"):
        read(tmp_path / "rgb.mha")
    (tmp_path / "text.nrrd").write_text("nothing")
    (tmp_path / "text.mha").write_text("nothing")
    for name in ("text.nrrd", "text.mha"):
        with pytest.raises(ImageError, match="is no"):
            read(tmp_path / name)
