"""Folders that reload equal in another process, and that say which file is torn."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vlp
from tests import ROOT
from tests.models.test_dual_encoder import CLIP_IMAGE, CLIP_TEXT, TIMM, VIT
from tests.models.tiny import ALL, BERT, NONE, REPORTS, clip_tokens, make, wordpieces
from vlp import hub
from vlp.core.config import ConfigError
from vlp.core.output import LOCK
from vlp.export import exporters
from vlp.export.cli import main
from vlp.modalities.image.processor import ImageProcessor
from vlp.modalities.image.spec import ImageSpec
from vlp.modalities.text.spec import TextSpec
from vlp.modalities.text.tokenizers.load import build_tokenizer
from vlp.models.heads import HeadConfig

MODELS: dict[str, dict[str, Any]] = {
    "conv and bert": {},
    "hf vit": {"image": VIT, "image_head": HeadConfig(kind="mlp"), "text_head": HeadConfig(kind="bn_mlp")},
    "timm": {"image": TIMM, "text": {**BERT, "pooling": "mean_max"}},
    "open_clip": {"image": CLIP_IMAGE, "text": CLIP_TEXT, "image_head": NONE, "text_head": NONE,
                  "patch_head": HeadConfig(), "word_head": HeadConfig(), "tokenizer": "open_clip"},
    "lora": {"image": {**VIT, "adapter": {"kind": "lora", "r": 2}},
             "text": {**BERT, "adapter": {"r": 2, "targets": ["query"]}}},
}  # fmt: skip


def saved(folder: Path, name: str = "conv and bert", **extra: Any) -> hub.Pretrained:
    options = dict(MODELS[name])
    tokenizer = clip_tokens() if options.pop("tokenizer", None) else wordpieces()
    model, _ = make(tokenizer=tokenizer, **options)
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    preprocess = ImageProcessor(ImageSpec(size=32, channels=1))
    hub.save_pretrained(folder, model, preprocess, tokenizer, extra)
    return hub.Pretrained(model.eval(), preprocess, tokenizer, {})


PICTURES = [np.random.default_rng(seed).integers(0, 256, (40 + 9 * seed, 32), dtype=np.uint8) for seed in range(3)]
FRESH = """
    import sys, numpy as np, vlp
    from tests.models.tiny import REPORTS
    pictures = [np.random.default_rng(seed).integers(0, 256, (40 + 9 * seed, 32), dtype=np.uint8) for seed in range(3)]
    for folder in sys.argv[1:]:
        loaded = vlp.from_pretrained(folder)
        heat = loaded.heatmap(pictures[1], "nodule")
        images, texts = loaded.embed_images(pictures), loaded.embed_texts(REPORTS)
        np.savez(folder + ".npz", images=images, texts=texts, heat=heat)
"""


def test_folders_reload_equal_in_a_fresh_process(tmp_path: Path) -> None:
    models = {name: saved(tmp_path / name, name, step=7) for name in MODELS}
    command = [sys.executable, "-c", textwrap.dedent(FRESH), *(str(tmp_path / name) for name in MODELS)]
    environment = {"PATH": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    for name, loaded in models.items():
        with np.load(tmp_path / f"{name}.npz") as found:
            assert np.allclose(found["images"], loaded.embed_images(PICTURES), atol=1e-6), name
            assert np.allclose(found["texts"], loaded.embed_texts(REPORTS), atol=1e-6), name
            assert np.allclose(found["heat"], loaded.heatmap(PICTURES[1], "nodule"), atol=1e-6), name
            assert found["heat"].shape == (49, 32) and np.allclose(np.linalg.norm(found["images"], axis=1), 1)
        assert hub.from_pretrained(tmp_path / name).config["extra"] == {"step": 7}


def test_images_are_taken_in_every_form(tmp_path: Path) -> None:
    loaded = saved(tmp_path / "model")
    Image.fromarray(PICTURES[0]).save(tmp_path / "picture.png")
    path = tmp_path / "picture.png"
    forms = [path, str(path), path.read_bytes(), PICTURES[0], Image.open(path), np.repeat(PICTURES[0][..., None], 3, 2)]
    found = loaded.embed_images(forms)
    assert torch.allclose(found, found[:1].expand_as(found), atol=1e-6)
    assert loaded.embed_images([]).shape == (0, 24) and loaded.embed_texts([]).shape == (0, 24)


def test_a_heat_map_lies_on_the_images_own_pixels(tmp_path: Path) -> None:
    loaded = saved(tmp_path / "model")
    heat = loaded.heatmap(np.zeros((64, 128), np.uint8), "nodule")
    assert heat.shape == (64, 128) and np.isfinite(heat).all() and np.abs(heat).max() <= 1
    phrase = loaded.embed_texts(["nodule"])[0]
    square = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    with torch.no_grad():
        _, patches = loaded.model.encode_image(loaded.preprocess.batch([square]), patches=True)
    cosines = torch.nn.functional.normalize(patches[0], dim=1) @ phrase
    heat = loaded.heatmap(square, "nodule")
    # pixels 3 and 4 are half a pixel beside the centre of the first cell, at 4.0 on edges
    assert heat[3:5, 3:5].mean() == pytest.approx(float(cosines[0]), abs=0.1)
    assert heat[0, 0] == pytest.approx(float(cosines[0]), abs=1e-6)
    assert heat[-1, -1] == pytest.approx(float(cosines[-1]), abs=1e-6)


def test_a_run_folder_leads_to_its_newest_checkpoint(tmp_path: Path) -> None:
    saved(tmp_path / "run" / "checkpoints" / "step-00000010")
    (tmp_path / "run" / "last").symlink_to("checkpoints/step-00000010")
    for where in (tmp_path / "run", tmp_path / "run" / "last"):
        assert vlp.from_pretrained(where).model.dim == 24


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "config.json", "preprocess.json", "tokenizer/vlp_tokenizer.json", "tokenizer/tokenizer.json"],
)
def test_a_missing_or_torn_file_is_named(name: str, tmp_path: Path) -> None:
    saved(tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=Path(name).name.replace(".", r"\.")):
        hub.from_pretrained(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ConfigError, match=Path(name).name.replace(".", r"\.")):
        hub.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece", "open_clip", "hf"])
def test_an_export_with_one_file_missing_says_which(kind: str, tmp_path: Path) -> None:
    if kind == "hf":
        wordpieces().save(tmp_path / "given")
    paths = {"hf": str(tmp_path / "given")}
    tokenizer = build_tokenizer(TextSpec(kind=kind, path=paths.get(kind), vocab_size=150, length=64), REPORTS * 3)  # type: ignore[arg-type]
    model, _ = make(tokenizer=tokenizer)
    objectives = {"terms.mgca.prototypes": torch.randn(5, 24)}
    hub.save_pretrained(
        tmp_path / "run", model, ImageProcessor(ImageSpec(size=32, channels=1)), tokenizer, objectives=objectives
    )
    exporters.get("vlp")("vlp").write(vlp.from_pretrained(tmp_path / "run"), tmp_path / "out", False)
    assert torch.equal(vlp.from_pretrained(tmp_path / "out").objectives["terms.mgca.prototypes"], *objectives.values())
    files = [one for one in (tmp_path / "out").rglob("*") if one.is_file()]
    assert len(files) >= 5 + (kind != "open_clip")
    for file in files:
        file.rename(tmp_path / "away")
        with pytest.raises(ConfigError, match=file.name.replace(".", r"\.")):
            vlp.from_pretrained(tmp_path / "out")
        (tmp_path / "away").rename(file)
    assert vlp.from_pretrained(tmp_path / "out")


def test_a_flipped_bit_and_files_of_another_model_are_found(tmp_path: Path) -> None:
    saved(tmp_path / "a")
    other, _ = make(seed=5)
    hub.save_pretrained(
        tmp_path / "b", other, ImageProcessor(ImageSpec(size=32, channels=1, mean=(0.3,))), wordpieces(48)
    )
    weights = tmp_path / "a" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ConfigError, match=r"model\.safetensors is damaged or another model's"):
        hub.from_pretrained(tmp_path / "a")
    saved(tmp_path / "a")
    for name, message in (("preprocess.json", "the preprocess in"), ("tokenizer/vlp_tokenizer.json", "tokenizer in")):
        before = (tmp_path / "a" / name).read_bytes()
        (tmp_path / "a" / name).write_bytes((tmp_path / "b" / name).read_bytes())
        with pytest.raises(ConfigError, match=message):
            hub.from_pretrained(tmp_path / "a")
        (tmp_path / "a" / name).write_bytes(before)
    assert hub.from_pretrained(tmp_path / "a")


def test_what_is_no_model_of_ours_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        hub.from_pretrained(tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"config\.json is missing"):
        hub.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(ConfigError, match="not a model of vlp's"):
        hub.from_pretrained(tmp_path)


def test_weights_that_are_not_the_models_are_not_saved(tmp_path: Path) -> None:
    model, tokenizer = make()
    weights = model.state_dict()
    weights["more"] = torch.zeros(1)
    with pytest.raises(ValueError, match="'more' is extra"):
        hub.save_pretrained(tmp_path, model, ImageProcessor(ImageSpec(size=32, channels=1)), tokenizer, weights=weights)


@pytest.mark.usefixtures("warm_checks")
@pytest.mark.parametrize("name", ["conv and bert", "lora"])
def test_exporting_writes_checks_and_merges(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = saved(tmp_path / "run", name, step=3)
    assert main([str(tmp_path / "run"), "--to", str(tmp_path / "out")]) == 0
    assert "images: equal to the native model's within" in capsys.readouterr().out
    again = vlp.from_pretrained(tmp_path / "out")
    assert torch.allclose(again.embed_images(PICTURES), loaded.embed_images(PICTURES), atol=1e-6)
    assert torch.allclose(again.embed_texts(REPORTS), loaded.embed_texts(REPORTS), atol=1e-6)
    assert not [key for key in again.model.state_dict() if "lora" in key]
    card = (tmp_path / "out" / "README.md").read_text()
    front = card.split("---\n")[1]
    assert "license: apache-2.0\n" in front and "library_name: vlp\n" in front and str(tmp_path) not in card
    assert {one.name for one in (tmp_path / "out").iterdir()} == {
        LOCK, "README.md", "config.json", "model.safetensors", "preprocess.json", "tokenizer"
    }  # fmt: skip


def test_exporting_complains_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nothing"), "--to", str(tmp_path / "out")]) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("vlp-export: no such folder") and complaint.count("\n") == 1
    saved(tmp_path / "run")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x")
    assert main([str(tmp_path / "run"), "--to", str(tmp_path / "out")]) == 2
    assert "exists: choose another --to" in capsys.readouterr().err
    (tmp_path / "run" / "model.safetensors").unlink()
    assert main([str(tmp_path / "run"), "--to", str(tmp_path / "new")]) == 2
    assert "model.safetensors" in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    script = (
        "import sys; from vlp.export.cli import parser; parser(); "
        "print(*(name in sys.modules for name in ('torch', 'transformers')))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.split() == ["False", "False"]
    assert ALL
