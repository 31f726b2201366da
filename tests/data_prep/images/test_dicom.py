"""Phantoms with known stored values, through each step of the standard; and the real files that pydicom ships."""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, JPEGLosslessSV1, RLELossless, generate_uid

from vlp.modalities.image.dicom import Frames, frame_count, open_dicom, read_dicom
from vlp.modalities.image.errors import ImageError
from vlp.modalities.image.grey_scale import DicomOptions, apply_window
from vlp_prep.images.dicom import header, ids


def phantom(stored: np.ndarray, **elements: object) -> FileDataset:
    """A minimal computed radiograph that holds exactly the given stored values."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset("phantom", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    frames = stored if stored.ndim == 3 else stored[None]
    dataset.Rows, dataset.Columns = frames.shape[1:]
    if stored.ndim == 3:
        dataset.NumberOfFrames = len(stored)
    dataset.BitsAllocated = stored.dtype.itemsize * 8
    dataset.BitsStored, dataset.HighBit = dataset.BitsAllocated, dataset.BitsAllocated - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.PixelData = stored.tobytes()
    for name, value in elements.items():
        setattr(dataset, name, value)
    return dataset


def saved(dataset: FileDataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def eight(dataset: FileDataset, options: DicomOptions | None = None) -> tuple[list[int], tuple[str, ...]]:
    pixels, steps = read_dicom(saved(dataset), options)
    return pixels.ravel().tolist(), steps


ROW = np.array([[0, 50, 100, 200]], dtype=np.uint16)


def test_without_a_window_the_full_range_is_used() -> None:
    assert eight(phantom(ROW)) == ([0, 64, 128, 255], ("full range: 0..200",))


def test_monochrome1_is_inverted_last() -> None:
    pixels, steps = eight(phantom(ROW, PhotometricInterpretation="MONOCHROME1"))
    assert pixels == [255, 191, 128, 0]
    assert steps[-1] == "MONOCHROME1 inverted"


def test_slope_and_intercept_come_before_the_window() -> None:
    # Hounsfield -1000, -900, -800, -600; a window from -900 to -700 (exact): 0, 0, 0.5, 1
    dataset = phantom(ROW, RescaleSlope="2", RescaleIntercept="-1000", WindowCenter="-800", WindowWidth="200")
    dataset.VOILUTFunction = "LINEAR_EXACT"
    pixels, steps = eight(dataset)
    assert pixels == [0, 0, 128, 255]
    assert steps == ("rescaled: slope 2, intercept -1000", "window: center -800, width 200, linear_exact")


def test_the_standards_own_example_of_a_linear_window() -> None:
    # PS3.3 C.11.2.1.2.1: c=2048, w=4096, y in 0..255: x <= 0 -> 0; x > 4095 -> 255; else ((x - 2047.5)/4095 + .5) * 255
    values = np.array([-1.0, 0.0, 1000.0, 2047.5, 4095.0, 5000.0])
    expected = [0.0, 0.0, ((1000 - 2047.5) / 4095 + 0.5) * 255, 127.5, 255.0, 255.0]
    assert np.allclose(apply_window(values, 2048, 4096), expected)
    # c=2048, w=1: x <= 2047.5 -> 0, else 255
    assert apply_window(np.array([2047.0, 2048.0]), 2048, 1).tolist() == [0, 255]


def test_a_sigmoid_window_is_half_at_its_center() -> None:
    found = apply_window(np.array([100.0, 100.0 + 25.0]), 100, 100, "SIGMOID")
    assert np.allclose(found, [127.5, 255 / (1 + np.exp(-1))])


def test_windows_agree_with_pydicom() -> None:
    from pydicom.pixels import apply_windowing

    rng = np.random.default_rng(0)
    stored = rng.integers(0, 4096, (20, 20)).astype(np.uint16)
    for function in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        dataset = phantom(stored, BitsStored=12, HighBit=11, WindowCenter="1500", WindowWidth="900")
        dataset.VOILUTFunction = function
        reference = apply_windowing(stored, dataset) / 4095 * 255
        assert np.abs(apply_window(stored.astype(float), 1500, 900, function) - reference).max() < 1e-6


def test_a_chosen_window_wins_over_the_files() -> None:
    dataset = phantom(ROW, WindowCenter="10", WindowWidth="10")
    pixels, steps = eight(dataset, DicomOptions(window="100,101"))
    assert pixels == [0, 1, 129, 255] and steps == ("window: center 100, width 101, linear",)
    assert eight(dataset, DicomOptions(window="range"))[0] == [0, 64, 128, 255]
    with pytest.raises(ImageError, match="expected file, range or center,width"):
        eight(dataset, DicomOptions(window="lung"))


def table(values: list[int], first: int, bits: int) -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.add_new(0x00283002, "US", [len(values), first, bits])
    item.add_new(0x00283006, "US", values)
    return item


def test_a_voi_lut_table_maps_stored_values() -> None:
    stored = np.array([[0, 1, 2, 3]], dtype=np.uint16)
    dataset = phantom(stored, VOILUTSequence=Sequence([table([0, 1000, 3000, 4095], 0, 12)]))
    pixels, steps = eight(dataset)
    assert pixels == [0, 62, 187, 255] and steps == ("VOI LUT table",)


def test_a_modality_lut_table_maps_stored_values() -> None:
    stored = np.array([[0, 1, 2, 3]], dtype=np.uint16)
    item = table([0, 10, 40, 100], 0, 8)
    item.ModalityLUTType = "OD"
    pixels, steps = eight(phantom(stored, ModalityLUTSequence=Sequence([item])))
    assert pixels == [0, 26, 102, 255] and steps[0] == "modality LUT table"


def test_signed_values_and_unused_high_bits() -> None:
    signed = np.array([[-1000, 0, 1000]], dtype=np.int16)
    assert eight(phantom(signed))[0] == [0, 128, 255]
    # 12 bits are used; an old overlay sits in bit 12 and must not be seen
    dirty = np.array([[0, 0x0800, 0x1FFF, 0x1000]], dtype=np.uint16)
    assert eight(phantom(dirty, BitsStored=12, HighBit=11))[0] == [0, 128, 255, 0]


def test_padding_is_black_and_outside_of_the_range() -> None:
    stored = np.array([[5000, 100, 200, 300]], dtype=np.uint16)
    dataset = phantom(stored, PixelPaddingValue=5000)
    assert eight(dataset) == ([0, 0, 128, 255], ("padding black", "full range: 100..300"))
    dataset.PhotometricInterpretation = "MONOCHROME1"
    assert eight(dataset)[0] == [0, 255, 128, 0]


def test_overlays_are_ignored() -> None:
    dataset = phantom(ROW)
    plain = eight(dataset)
    dataset.add_new(0x60000010, "US", 1)
    dataset.add_new(0x60000011, "US", 4)
    dataset.add_new(0x60000040, "CS", "G")
    dataset.add_new(0x60000050, "SS", [1, 1])
    dataset.add_new(0x60000100, "US", 1)
    dataset.add_new(0x60000102, "US", 0)
    dataset.add_new(0x60003000, "OW", b"\xff\xff")
    assert eight(dataset) == plain


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLosslessSV1], ids=["rle", "jpeg_lossless"])
def test_compressed_files_hold_the_same_values(syntax: str) -> None:
    stored = np.random.default_rng(0).integers(0, 4096, (32, 48)).astype(np.uint16)
    dataset = phantom(stored, BitsStored=12, HighBit=11)
    plain, _ = read_dicom(saved(dataset))
    if syntax == RLELossless:
        dataset.compress(syntax)
        data = saved(dataset)
    else:
        data = jpeg_lossless(saved(dataset))
        assert open_dicom(data).file_meta.TransferSyntaxUID == syntax
    packed, _ = read_dicom(data)
    assert np.array_equal(packed, plain)


def jpeg_lossless(data: bytes) -> bytes:
    """Compress a file with gdcm, as most hospitals' archives do."""
    import tempfile

    import gdcm

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "a.dcm"), Path(folder, "b.dcm")
        source.write_bytes(data)
        reader = gdcm.ImageReader()
        reader.SetFileName(str(source))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(target))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return target.read_bytes()


def test_frames_come_one_by_one() -> None:
    stored = np.stack([np.full((2, 3), value, np.uint8) for value in (10, 20, 30)])
    stored[:, 0, 0], stored[:, 0, 1] = 0, 255
    dataset = open_dicom(saved(phantom(stored)))
    assert frame_count(dataset) == 3
    found = Frames(dataset, DicomOptions())
    frames = [found.read(index) for index in range(len(found))]
    assert [int(pixels[1, 1]) for pixels, _ in frames] == [10, 20, 30]
    assert frames[2][1][0] == "frame 2 of 3"


def test_the_header_gives_away_nothing_but_the_listed_fields() -> None:
    dataset = phantom(
        ROW,
        PatientName="Doe^Jane",
        PatientID="MRN12345",
        PatientBirthDate="19300101",
        PatientAge="093Y",
        PatientSex="F",
        Modality="CR",
        ViewPosition="PA",
        InstitutionName="St. Elsewhere",
        StudyDate="20200101",
        StudyDescription="CHEST Jane Doe",
        AccessionNumber="A1",
    )
    found = header(open_dicom(saved(dataset)))
    assert found == {"modality": "CR", "view": "PA", "sex": "F", "age": "90+"}
    assert ids(dataset)["patient"] == "MRN12345"
    ages = {text: header(phantom(ROW, PatientAge=text)).get("age") for text in ("034Y", "006M", "089Y", "weird")}
    assert ages == {"034Y": "34", "006M": "0", "089Y": "89", "weird": "unknown"}


def test_what_cannot_be_read_says_why() -> None:
    with pytest.raises(ImageError) as error:
        read_dicom(b"no DICOM at all" * 20)
    assert error.value.reason == "image_unreadable"
    whole = saved(phantom(np.zeros((64, 64), np.uint16)))
    with pytest.raises(ImageError) as error:
        read_dicom(whole[:-1000])
    assert error.value.reason == "image_truncated"
    with pytest.raises(ImageError) as error:
        read_dicom(whole, max_pixels=1000)
    assert error.value.reason == "image_too_large"
    bare = phantom(ROW)
    del bare.PixelData
    with pytest.raises(ImageError) as error:
        read_dicom(saved(bare))
    assert error.value.reason == "image_no_pixels"


SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"
EXPECTED = {
    "CT_small.dcm": (128, 128),
    "MR_small.dcm": (64, 64),
    "MR_small_RLE.dcm": (64, 64),
    "MR_small_jp2klossless.dcm": (64, 64),
    "MR_small_jpeg_ls_lossless.dcm": (64, 64),
    "MR_small_bigendian.dcm": (64, 64),
    "SC_rgb_rle_16bit.dcm": (100, 100, 3),
    "SC_ybr_full_422_uncompressed.dcm": (100, 100, 3),
    "MR_truncated.dcm": "image_truncated",
    "rtplan.dcm": "not_an_image",
    "reportsi.dcm": "not_an_image",
    "JPEG-lossy.dcm": "image_compressed",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_real_files(name: str) -> None:
    if not (SHIPPED / name).is_file():
        pytest.skip(f"this pydicom does not ship {name}")
    expected = EXPECTED[name]
    if isinstance(expected, str):
        with pytest.raises(ImageError) as error:
            read_dicom(SHIPPED / name)
        assert error.value.reason == expected
    else:
        pixels, steps = read_dicom(SHIPPED / name)
        assert pixels.shape == expected and pixels.dtype == np.uint8 and steps


def test_compressions_of_one_image_agree() -> None:
    names = ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"]
    images = [read_dicom(SHIPPED / name)[0] for name in names if (SHIPPED / name).is_file()]
    assert images and all(np.array_equal(images[0], other) for other in images)
