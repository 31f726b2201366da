"""DICOM as hospitals write it: functional groups, decimal commas, odd tables, series, colours, frames, and what is no image."""

import io
import logging
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    generate_uid,
)

from vlp.modalities.image.decode import decode, decode_file
from vlp.modalities.image.dicom import Frames, check_frames, open_dicom, read_dicom, read_header
from vlp.modalities.image.errors import ImageError
from vlp.modalities.image.grey_scale import DicomOptions

STORAGE = "1.2.840.10008.5.1.4.1.1."
HU = np.tile(np.array([24, 1024, 1084, 2524], np.uint16), (4, 1))  # stored as Hounsfield units + 1024
WINDOWED = [0, 102, 141, 255]  # -1000, 0, 60 and 1500 HU in a window of 40 +- 200


def made(pixels: np.ndarray, kind: str = "1", **elements: object) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, STORAGE + kind
    meta.MediaStorageSOPInstanceUID = generate_uid()
    file = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    file.SOPClassUID, file.SOPInstanceUID = STORAGE + kind, meta.MediaStorageSOPInstanceUID
    if pixels.ndim == 3:
        file.NumberOfFrames = len(pixels)
    bits = pixels.itemsize * 8
    file.BitsAllocated, file.BitsStored, file.HighBit = bits, bits, bits - 1
    file.Rows, file.Columns = pixels.shape[-2:]
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.PixelRepresentation = int(pixels.dtype.kind == "i")
    file.PixelData = pixels.tobytes()
    for name, value in elements.items():
        setattr(file, name, value)
    return file


def saved(file: FileDataset, *swaps: tuple[bytes, bytes]) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file.save_as(buffer, enforce_file_format=True)
    data = buffer.getvalue()
    for old, new in swaps:
        assert old in data and len(old) == len(new)
        data = data.replace(old, new)
    return data


def item(**elements: object) -> Dataset:
    dataset = Dataset()
    for name, value in elements.items():
        setattr(dataset, name, value)
    return dataset


def group(intercept: float | None, slope: float = 1, window: tuple[float, float] | None = None) -> Dataset:
    found = Dataset()
    if intercept is not None:
        found.PixelValueTransformationSequence = [item(RescaleIntercept=intercept, RescaleSlope=slope)]
    if window:
        found.FrameVOILUTSequence = [item(WindowCenter=window[0], WindowWidth=window[1])]
    return found


def row(data: bytes, window: str = "file") -> list[int]:
    return [int(value) for value in decode_file(data, window=window).pixels[0]]


TWO = np.stack([HU, HU])


@pytest.mark.parametrize(
    "groups",
    [
        {"SharedFunctionalGroupsSequence": [group(-1024, 1, (40, 400))]},
        {"PerFrameFunctionalGroupsSequence": [group(-1024, 1, (40, 400)), group(-1024, 1, (0, 9))]},
        {
            "SharedFunctionalGroupsSequence": [group(-1024, 1, (0, 9))],
            "PerFrameFunctionalGroupsSequence": [group(None, 1, (40, 400)), group(None, 1, (0, 9))],
        },
        {
            "SharedFunctionalGroupsSequence": [group(None, 1, (40, 400))],
            "PerFrameFunctionalGroupsSequence": [group(-1024), group(-1000)],
        },
        {"RescaleIntercept": "-1024", "RescaleSlope": "1", "WindowCenter": "40", "WindowWidth": "400"},
    ],
)
def test_functional_groups_say_what_a_classic_header_says(groups: dict[str, object]) -> None:
    data = saved(made(TWO, "2.1", **groups))
    assert row(data) == WINDOWED
    assert row(data, "40,400") == WINDOWED


def test_each_frame_has_its_own_slope() -> None:
    each = [group(-1024, 1), group(-2048, 2)]
    frames = Frames(
        open_dicom(saved(made(TWO, "2.1", PerFrameFunctionalGroupsSequence=each))), DicomOptions(window="40,400")
    )
    assert frames.read(0)[0][0].tolist() == WINDOWED
    assert frames.read(1)[0][0].tolist() == [0, 102, 179, 255]  # 60 becomes 120


@pytest.mark.parametrize(
    "swaps", [[(b"0.5", b"0,5")], [(b"40.5", b"40,5"), (b"400.5", b"400,5")], [(b"1.0 ", b"1,0 ")]]
)
def test_decimal_commas_are_read(swaps: list[tuple[bytes, bytes]]) -> None:
    numbers = {"RescaleIntercept": "-1024", "RescaleSlope": "1.0", "WindowCenter": "40.5", "WindowWidth": "400.5"}
    assert row(saved(made(HU, "2", **numbers), *swaps)) == row(saved(made(HU, "2", **numbers)))


@pytest.mark.parametrize(
    "name", ["WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept", "PixelPaddingValue"]
)
def test_what_is_no_number_is_refused_by_the_name_of_its_element(name: str) -> None:
    numbers = {"RescaleIntercept": "-1024", "RescaleSlope": "1", "WindowCenter": "40", "WindowWidth": "400"}
    file = made(HU, "2", **numbers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file.add_new(name, "DS", "7777")
    with pytest.raises(ImageError, match=name) as error:
        read_dicom(saved(file, (b"7777", b"Anna")))
    assert error.value.reason == "bad_header" and "Anna" not in str(error.value)


def table(values: list[int], bits: int, count: int | None = None, first: int = 0) -> Dataset:
    found = Dataset()
    found.add_new("LUTDescriptor", "US", [len(values) if count is None else count, first, bits])
    found.add_new("LUTData", "US", values)
    return found


@pytest.mark.parametrize(
    ("lut", "expected"),
    [
        (table(list(range(4096)), 12), [0, 64, 128, 255]),
        (table(list(range(4096)), 16), [0, 64, 128, 255]),  # narrower than it says
        (table([value // 16 for value in range(4096)], 16), [0, 64, 128, 255]),
        (table(list(range(4096)), 8), [0, 64, 128, 255]),  # wider
        (table(list(range(4096)), 12, count=0), [0, 64, 128, 255]),  # 0 is 65536, of which 4096 are there
        (table(list(range(2049)), 12, count=4096), [0, 64, 128, 128]),  # shorter: its last value from there on
    ],
)
def test_a_voi_lut_is_scaled_by_what_it_holds(lut: Dataset, expected: list[int]) -> None:
    ramp = np.tile(np.array([0, 1024, 2048, 4095], np.uint16), (4, 1))
    found = row(saved(made(ramp, BitsStored=12, HighBit=11, VOILUTSequence=[lut])))
    assert np.abs(np.subtract(found, expected)).max() <= 1


def test_the_frames_of_a_file_share_its_range() -> None:
    frames = Frames(open_dicom(saved(made(np.stack([HU // 10, HU])))), DicomOptions())
    assert frames.read(0)[0].max() < 30 and frames.read(1)[0].max() == 255


def jpeg_file(colour: tuple[int, int, int], subsampling: int, jfif: bool, interpretation: str) -> bytes:
    pixels, file = np.full((64, 64, 3), colour, np.uint8), io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=subsampling)
    data = file.getvalue()
    data = data if jfif else data[:2] + data[4 + struct.unpack(">H", data[4:6])[0] :]
    found = made(pixels[..., 0], "6.1", SamplesPerPixel=3, PlanarConfiguration=0)
    found.PhotometricInterpretation, found.PixelData = interpretation, encapsulate([data])
    found["PixelData"].is_undefined_length = True
    found.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    return saved(found)


@pytest.mark.parametrize("interpretation", ["RGB", "YBR_FULL_422"])
@pytest.mark.parametrize("subsampling", [1, 2])
@pytest.mark.parametrize("jfif", [True, False])
def test_chroma_of_less_size_is_ycbcr(subsampling: int, jfif: bool, interpretation: str) -> None:
    found = decode(jpeg_file((255, 0, 0), subsampling, jfif, interpretation), 3)
    assert np.abs(found[9, 9].astype(int) - [254, 0, 0]).max() <= 2


@pytest.mark.parametrize("count", ["-1", "2147483648", "1000000", "half", "1.5"])
def test_numbers_of_frames_that_cannot_be_are_refused_by_name(count: str) -> None:
    file = made(HU)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file.add_new("NumberOfFrames", "IS", "7" * len(count))
    data = saved(file, (b"7" * len(count), count.encode()))
    with pytest.raises(ImageError, match="NumberOfFrames"):
        read_dicom(data)
    with pytest.raises(ImageError, match="NumberOfFrames"):
        check_frames(read_header(data), len(data))


@pytest.mark.parametrize("count", ["0", ""])
def test_no_frames_are_one(count: str) -> None:
    file = made(HU)
    file.NumberOfFrames = count
    assert row(saved(file)) == row(saved(made(HU)))


@pytest.mark.parametrize(
    ("kind", "modality"),
    [
        ("66.4", "SEG"),
        ("481.2", "RTDOSE"),
        ("481.3", "RTSTRUCT"),
        ("88.11", "SR"),
        ("88.67", "SR"),
        ("88.59", "KO"),
        ("11.1", "PR"),
        ("104.1", "DOC"),
        ("9.1.1", "ECG"),
        ("67", "RWV"),
        ("30", "OT"),
        ("7", "SEG"),
    ],
)
def test_what_is_no_picture_of_a_patient_is_named_and_no_bad_data(kind: str, modality: str) -> None:
    data = saved(made(HU, kind, Modality=modality))
    with pytest.raises(ImageError, match="no image") as error:
        decode(data, 1)
    assert error.value.reason == "not_an_image" and not error.value.counted
    assert open_dicom(data, any_kind=True).Rows == 4


def test_images_of_all_kinds_are_images() -> None:
    for kind in ("1", "1.1", "2", "2.1", "4", "6.1", "6.2", "7", "12.1", "77.1.5.1", "77.1.6", "128", "481.1"):
        assert decode(saved(made(HU, kind, Modality="OT")), 1).shape == (4, 4)
    assert decode(saved(made(HU, "1", SOPClassUID="1.3.6.1.4.1.9999.1", Modality="CR")), 1).shape == (4, 4)  # private


def test_a_deflated_bomb_is_refused_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from vlp.modalities.image import dicom

    file = made(np.zeros((512, 512), np.uint16))
    file.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data = saved(file)
    assert decode(data, 1).shape == (512, 512)
    monkeypatch.setattr(dicom, "_INFLATED", 100_000)
    for read in (lambda: decode(data, 1), lambda: read_header(data)):
        with pytest.raises(ImageError, match="inflates") as error:
            read()
        assert error.value.reason == "image_too_large"


def test_a_compressed_frame_larger_than_the_header_says_is_not_unpacked() -> None:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(stream, "JPEG2000", no_jp2=True)
    data = bytearray(stream.getvalue())
    at = data.find(b"\xff\x51")
    data[at + 6 : at + 14] = struct.pack(">II", 60_000, 60_000)
    file = made(np.zeros((64, 64), np.uint8))
    file.PixelData = encapsulate([bytes(data)])
    file["PixelData"].is_undefined_length = True
    file.file_meta.TransferSyntaxUID = JPEG2000Lossless
    with pytest.raises(ImageError, match="64 x 64, the compressed frame is 60000 x 60000"):
        decode(saved(file), 1)


def test_nothing_of_a_header_is_said(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    from vlp_prep.images.dicom import header, ids

    name = "Anna^Muster"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = made(HU, "1", PatientName=name, PatientID="I-0001")
        for element in ("PatientAge", "PatientSex", "Modality", "ViewPosition", "BodyPartExamined", "ImageLaterality"):
            file.add_new(element, file.get(element, "LO") and "LO", name)
        file.add_new("StudyInstanceUID", "UI", name)
    data = saved(file)
    caplog.clear()
    with warnings.catch_warnings(record=True) as said, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")
        dataset = open_dicom(data)
        found = header(dataset)
        ids(dataset)
        read_dicom(data)
    out, err = capfd.readouterr()
    assert "Anna" not in "".join([out, err, caplog.text, *(str(one.message) for one in said), str(found)])
    assert set(found.values()) <= {"unknown", "OT"}


def test_dicom_is_read_as_a_path_and_as_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(saved(made(HU, "2", WindowCenter="1064", WindowWidth="400")))
    assert np.array_equal(read_dicom(path)[0], decode(path.read_bytes(), 1))
    assert row(path.read_bytes()) == WINDOWED
