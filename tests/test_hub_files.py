"""`embed_images` and `heatmap` take any file, path, bytes or picture of Pillow's, and see what a shard of it holds."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vlp
from tests.modalities.image.test_dicom_families import HU, made, saved
from tests.test_hub import saved as saved_model
from vlp.modalities.image.decode import ImageError
from vlp_eval.data.load import read
from vlp_eval.data.spec import Columns, DataSpec
from vlp_eval.models.vlp import FolderEmbedder
from vlp_prep.images.store import ImageOptions, store_image

RAMP = np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))


def encoded(pixels: np.ndarray, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


def files() -> dict[str, bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = np.dstack([RAMP] * 3 + [np.full_like(RAMP, 255)])
    clear[:24] = (255, 255, 255, 0)
    ct = made(np.tile(HU, (12, 16)), "2", WindowCenter="1064", WindowWidth="400")
    return {
        "deep.png": encoded(RAMP.astype(np.uint16) * 5 + 300),
        "turned.jpg": encoded(RAMP, "JPEG", exif=exif, quality=95),
        "clear.png": encoded(clear),
        "float.tif": encoded(RAMP.astype(np.float32) / 7, "TIFF"),
        "ct.dcm": saved(ct),
    }


def test_a_file_is_seen_as_its_shard_is_whatever_way_it_is_given(tmp_path: Path) -> None:
    saved_model(tmp_path / "model")
    model = vlp.from_pretrained(tmp_path / "model")
    embedder = FolderEmbedder.load(tmp_path / "model", "cpu")
    table = "image\n" + "".join(f"{name}\n" for name in files())
    (tmp_path / "table.csv").write_text(table)
    for name, data in files().items():
        (tmp_path / name).write_bytes(data)
    rows = read(DataSpec(table="table.csv", columns=Columns(), split=None), tmp_path)
    for number, (name, data) in enumerate(files().items()):
        path, stored = tmp_path / name, store_image(data, ImageOptions(format="png")).data
        given: list[object] = [stored, str(path), path, data]
        if not name.endswith(".dcm"):
            given.append(Image.open(path))
        vectors = model.embed_images(given)  # type: ignore[arg-type]
        assert torch.allclose(vectors, vectors[:1].expand_as(vectors), atol=1e-5), name
        inputs, size = embedder.prepare(rows.image(number))
        expected, stored_size = embedder.prepare(stored)
        assert size == stored_size and np.array_equal(inputs, expected), name
        heat = model.heatmap(path, "nodule")
        assert heat.shape == size and np.allclose(heat, model.heatmap(stored, "nodule"), atol=1e-5, equal_nan=True)


def test_a_window_can_be_asked_for_and_bad_files_are_named(tmp_path: Path) -> None:
    saved_model(tmp_path / "model")
    model = vlp.from_pretrained(tmp_path / "model")
    data = saved(made(np.tile(HU, (12, 16)), "2"))
    narrow, wide = (model.embed_images([data], window=window) for window in ("1064,10", "range"))
    assert not torch.allclose(narrow, wide, atol=1e-3)
    with pytest.raises(ImageError, match="no such file: absent"):
        model.embed_images([tmp_path / "absent.png"])
    with pytest.raises(ImageError, match="a directory, expected a regular file"):
        model.heatmap(tmp_path, "nodule")


def test_models_of_others_see_what_ours_see() -> None:
    from vlp_eval.models.open_clip import OpenClipEmbedder
    from vlp_eval.models.transformers import TransformersEmbedder

    class Processor:
        def __call__(self, images: Image.Image, return_tensors: str, **_: bool) -> dict[str, np.ndarray]:
            return {"pixel_values": np.asarray(images)[None].transpose(0, 3, 1, 2)}

    theirs = TransformersEmbedder.__new__(TransformersEmbedder)
    theirs._processor, theirs._late = Processor(), True
    other = OpenClipEmbedder.__new__(OpenClipEmbedder)
    other._pixels, other._floats = [lambda picture: picture.convert("RGB")], [object()]
    for data in files().values():
        stored = store_image(data, ImageOptions(format="png")).data
        for embedder in (theirs, other):
            found, size = embedder.prepare(data)
            expected, stored_size = embedder.prepare(stored)
            assert size == stored_size and np.array_equal(found, expected)


def test_codes_of_patients_in_results_are_no_hashes_of_their_ids(tmp_path: Path) -> None:
    rows = ["image,patient", "a.png,MRN7", "b.png,MRN3", "c.png,MRN7"]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    data = read(DataSpec(table="t.csv", columns=Columns(patient="patient"), split=None), tmp_path)
    assert [data.patient_code(index) for index in range(3)] == ["p1", "p2", "p1"]
