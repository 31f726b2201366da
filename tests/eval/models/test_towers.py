"""Models of others: open_clip and transformers read as they read themselves, planted squares found through any tower's grid."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from vlp.batch import Grid
from vlp.modalities.image.processor import ImageProcessor
from vlp.modalities.image.spec import ImageSpec
from vlp_eval.maps import saliency
from vlp_eval.maps.phrase_maps import cell_similarity, to_image
from vlp_eval.models.open_clip import OpenClipEmbedder, _reading
from vlp_eval.models.transformers import TransformersEmbedder

SIDE = 64
TEXTS = ["a small nodule in the right upper zone", "no pleural effusion"]


def png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def picture(seed: int = 0, side: int = SIDE) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a tiny random CLIP of transformers with a processor and a tokenizer trained on two sentences."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("clip")
    words = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.train_from_iterator(TEXTS, trainers.WordLevelTrainer(special_tokens=["[PAD]", "[UNK]", "[BOS]", "[EOS]"]))
    words.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 2), ("[EOS]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", eos_token="[EOS]", model_max_length=32
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            **small,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 32,
            "eos_token_id": 3,
            "bos_token_id": 2,
        },
        vision_config={**small, "image_size": SIDE, "patch_size": 8},
        projection_dim=24,
    )
    CLIPModel(config).eval().save_pretrained(folder)
    size = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    CLIPImageProcessor(**size).save_pretrained(folder)
    return folder


def test_a_clip_of_transformers_is_read_as_transformers_reads_it(clip_folder: Path) -> None:
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

    ours = TransformersEmbedder.load(str(clip_folder), "cpu")
    model, tokenizer = CLIPModel.from_pretrained(clip_folder).eval(), AutoTokenizer.from_pretrained(clip_folder)
    processor = CLIPImageProcessor.from_pretrained(clip_folder)
    pixels = [picture(0), picture(1)]
    with torch.inference_mode():
        output = model(
            **tokenizer(TEXTS, padding=True, return_tensors="pt"),
            pixel_values=processor([Image.fromarray(one) for one in pixels], return_tensors="pt")["pixel_values"],
        )
    inputs = np.stack([ours.prepare(png(one))[0] for one in pixels])
    rows, cells = ours.encode("patches", inputs).values()
    for found, expected in ((rows, output.image_embeds), (ours.encode("text", TEXTS)["text"], output.text_embeds)):
        unit = found / np.linalg.norm(found, axis=1, keepdims=True)
        assert np.abs(unit - expected.numpy()).max() < 1e-5
    assert cells is not None and cells.shape == (2, 64, 24)
    assert ours.card.grid == (8, 8, (8.0, 8.0), (4.0, 4.0))


def test_another_vocabulary_is_another_fingerprint(clip_folder: Path, tmp_path: Path) -> None:
    """Or cached embeddings of texts would be those of the old ids. Where the files lie, and what was encoded, is not."""
    import shutil

    own = TransformersEmbedder.load(str(clip_folder), "cpu")
    before = own.encode("text", TEXTS)["text"]
    again = TransformersEmbedder(own._model, own._processor, own._tokenizer, "again")
    assert again.card.fingerprint == own.card.fingerprint
    shutil.copytree(clip_folder, tmp_path / "copy")
    assert TransformersEmbedder.load(str(tmp_path / "copy"), "cpu").card.fingerprint == own.card.fingerprint
    path = tmp_path / "copy" / "tokenizer.json"
    tree = json.loads(path.read_text())
    words = tree["model"]["vocab"]
    words["small"], words["right"] = words["right"], words["small"]
    path.write_text(json.dumps(tree))
    other = TransformersEmbedder.load(str(tmp_path / "copy"), "cpu")
    assert np.abs(other.encode("text", TEXTS)["text"] - before).max() > 1e-4
    assert other.card.weights_sha256 == own.card.weights_sha256 and other.card.fingerprint != own.card.fingerprint


def test_another_vocabulary_of_open_clip_is_another_fingerprint(
    open_clip_model: tuple[str, Any], clip_folder: Path
) -> None:
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    name, (model, transform, tokenizer) = open_clip_model
    readings = [
        _reading(one)
        for one in (
            tokenizer,
            SimpleTokenizer(),
            SimpleTokenizer(context_length=40),
            SimpleTokenizer(clean="canonicalize"),
            SimpleTokenizer(additional_special_tokens=["<mask>"]),
            HFTokenizer(str(clip_folder)),
            HFTokenizer(str(clip_folder), strip_sep_token=True),
        )
    ]
    assert readings[0] == readings[1] and len(set(readings)) == 6
    cards = [OpenClipEmbedder(model, transform, one, name).card for one in (tokenizer, HFTokenizer(str(clip_folder)))]
    assert cards[0].weights_sha256 == cards[1].weights_sha256 and cards[0].fingerprint != cards[1].fingerprint


def test_one_clip_through_our_loader_and_through_transformers_is_the_same(clip_folder: Path, tmp_path: Path) -> None:
    """Its towers and projections in a model of ours, saved and loaded as ours, on images that need no resizing."""
    from transformers import CLIPModel

    from vlp.core.config import validate
    from vlp.hub import save_pretrained
    from vlp.modalities.text.spec import TextSpec
    from vlp.modalities.text.tokenizers.load import build_tokenizer
    from vlp.models.build import build_model
    from vlp.models.dual_encoder import ModelConfig
    from vlp_eval.models import load as embedder

    theirs = TransformersEmbedder.load(str(clip_folder), "cpu")
    spec = ImageSpec(
        size=SIDE,
        channels=3,
        mean=tuple(theirs.card.image_spec["mean"]),
        std=tuple(theirs.card.image_spec["std"]),
        resize="crop",
        interpolation="bicubic",
    )
    tokenizer = build_tokenizer(TextSpec(kind="hf", path=str(clip_folder), length=32), None)
    tree = {
        "dim": 24,
        "image": {"kind": "hf", "path": str(clip_folder)},
        "text": {"kind": "hf", "path": str(clip_folder), "pooling": "pooler"},
        "image_head": {"kind": "linear"},
        "text_head": {"kind": "linear"},
    }
    model = build_model(validate(ModelConfig, tree), spec, tokenizer, {"logit_scale"}, (2.0, None)).eval()
    clip = CLIPModel.from_pretrained(clip_folder)
    own = dict(model.named_parameters())
    pairs = [("image_head", clip.visual_projection.weight), ("text_head", clip.text_projection.weight)]
    with torch.no_grad():
        for head, weight in pairs:
            (name,) = [one for one in own if one.startswith(head) and own[one].shape == weight.shape]
            own[name].copy_(weight)
            for one in own:
                if one.startswith(head) and one.endswith("bias"):
                    own[one].zero_()
    save_pretrained(tmp_path / "ours", model, ImageProcessor(spec), tokenizer)
    ours = embedder.load(str(tmp_path / "ours"), "cpu")
    images = [png(picture(one)) for one in range(3)]
    pictures = [
        embed.encode("image", np.stack([embed.prepare(one)[0] for one in images]))["image"] for embed in (ours, theirs)
    ]
    for mine, other in (pictures, [ours.encode("text", TEXTS)["text"], theirs.encode("text", TEXTS)["text"]]):
        units = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in (mine, other)]
        assert np.abs(units[0] - units[1]).max() < 1e-5


@pytest.fixture(scope="module")
def open_clip_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    import open_clip

    folder = tmp_path_factory.mktemp("configs")
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    (folder / "tiny-vit.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    model, _, transform = open_clip.create_model_and_transforms("tiny-vit")
    return "tiny-vit", (model.eval(), transform, open_clip.get_tokenizer("tiny-vit"))


def test_open_clip_is_read_as_open_clip_reads_it(open_clip_model: tuple[str, Any]) -> None:
    name, (model, transform, tokenizer) = open_clip_model
    ours = OpenClipEmbedder(model, transform, tokenizer, name)
    pixels = [picture(one, 96) for one in range(3)]
    rows, cells = ours.encode("patches", np.stack([ours.prepare(png(one))[0] for one in pixels])).values()
    with torch.inference_mode():
        expected = model.encode_image(torch.stack([transform(Image.fromarray(one)) for one in pixels]))
        texts = model.encode_text(tokenizer(TEXTS))
    assert np.abs(rows - expected.numpy()).max() < 1e-5
    assert np.abs(ours.encode("text", TEXTS)["text"] - texts.numpy()).max() < 1e-5
    assert cells is not None and cells.shape == (3, 64, 24)
    assert ours.prepare(png(picture(0, 96)))[1] == (96, 96)
    grey = picture(5, 96)[..., 0]
    both = [
        ours.encode("image", np.stack([ours.prepare(png(one))[0]]))["image"] for one in (grey, np.dstack([grey] * 3))
    ]
    with torch.inference_mode():
        alone = model.encode_image(transform(Image.fromarray(grey))[None]).numpy()
    assert (both[0] == both[1]).all() and np.abs(both[0] - alone).max() < 1e-5
    assert OpenClipEmbedder.load(name, "cpu").card.dim == 24


@pytest.mark.parametrize(
    "vision",
    [
        {"image_size": 60, "layers": 1, "width": 64, "head_width": 32, "patch_size": 8},
        {"image_size": 224, "timm_model_name": "vit_tiny_r_s16_p8_224", "timm_pool": "token", "timm_proj": "linear"},
    ],
    ids=["open_clip", "timm after a ResNet's stem"],
)
def test_patches_lie_where_the_stride_puts_them_also_when_they_do_not_tile_the_input(
    vision: dict[str, Any], tmp_path: Path
) -> None:
    """As SigLIP's patches of 14 on 384 pixels: the last cell is not at 13.5 steps of 384 / 27. Our own tower is traced."""
    import open_clip

    from vlp.models.towers.open_clip import OpenClipConfig, OpenClipImageTower

    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": {"width": 32, "heads": 2, "layers": 1}}
    (tmp_path / "odd-vit.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path)
    theirs = OpenClipEmbedder.load("odd-vit", "cpu")
    ours = OpenClipImageTower(OpenClipConfig(model="odd-vit"), ImageSpec(size=vision["image_size"], channels=3))
    own = ours.grid
    assert theirs.card.grid == (*own.shape, own.stride, own.offset)
    if "patch_size" in vision:
        assert theirs.card.grid == (7, 7, (8.0, 8.0), (4.0, 4.0))
    side = vision["image_size"]
    cells = theirs.encode("patches", np.zeros((1, 3, side, side), np.uint8))["patches"]
    assert cells is not None and cells.shape[1] == own.cells


def test_patches_of_timms_and_of_transformers_towers_that_do_not_tile_the_input() -> None:
    import timm
    from transformers import SiglipVisionConfig, SiglipVisionModel

    from vlp_eval.models.patch_tokens import TokenHook

    trunk = timm.create_model("vit_tiny_patch16_224", img_size=60, depth=1, num_classes=0)
    hook = TokenHook.of(SimpleNamespace(trunk=trunk, head=torch.nn.Identity()), 60)
    assert hook is not None and hook.grid == Grid((3, 3), (16, 16), (8, 8))
    assert hook.run(lambda: trunk(torch.zeros(1, 3, 60, 60)))[1].shape == (1, 9, 192)

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    tower = SiglipVisionModel(SiglipVisionConfig(**small, image_size=60, patch_size=16)).eval()
    model = SimpleNamespace(vision_model=tower, config=SimpleNamespace(vision_config=tower.config, model_type="siglip"))
    hidden = TokenHook.of_transformers(model, 60)
    assert hidden is not None and hidden.grid == Grid((3, 3), (16, 16), (8, 8))
    assert hidden.run(lambda: tower(torch.zeros(1, 3, 60, 60)))[1].shape == (1, 9, 16)


# A planted square comes back to where it was


def settle(tower: torch.nn.Module, channels: int, side: int) -> None:
    """Make a random tower answer evenly: spatial kernels all of one value, and statistics that fit them."""
    for module in tower.modules():
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size[0] > 1:
            module.weight.data.copy_(module.weight.data.abs().mean((2, 3), keepdim=True).expand_as(module.weight))
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
            module.weight.data.fill_(1.0)
    tower.train()
    with torch.no_grad():
        tower(torch.randn(4, channels, side, side, generator=torch.Generator().manual_seed(3)))
    tower.eval()


@pytest.mark.parametrize("tower", ["resnet10t", "resnet18", "convnext_atto", "vit_tiny_patch16_224"])
@pytest.mark.parametrize(("shape", "resize"), [((192, 192), "pad"), ((144, 240), "pad"), ((240, 300), "crop")])
def test_what_a_square_changes_is_found_within_half_a_cell(tower: str, shape: tuple[int, int], resize: Any) -> None:
    """The change of the cells, through the grid and the inverse of the preprocessing, lies on the square: each of them."""
    from vlp.core.config import validate
    from vlp.modalities.text.spec import TextSpec
    from vlp.modalities.text.tokenizers.load import build_tokenizer
    from vlp.models.build import build_model
    from vlp.models.dual_encoder import ModelConfig

    torch.manual_seed(0)
    side = 192
    spec = ImageSpec(size=side, channels=3, resize=resize)
    extra = {"options": {"img_size": side}} if tower.startswith("vit") else {}
    bert = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    tree = {
        "dim": 16,
        "image": {"kind": "timm", "name": tower, **extra},
        "text": {"kind": "hf", "config": {**bert, "intermediate_size": 16}},
    }
    tokenizer = build_tokenizer(TextSpec(vocab_size=120, length=32), TEXTS * 3)
    model = build_model(validate(ModelConfig, tree), spec, tokenizer, {"patches"})
    settle(model.image_tower, 3, side)
    model.eval()
    preprocess = ImageProcessor(spec)
    height, width = shape
    noise = np.random.default_rng(0).integers(80, 100, (height, width, 3), dtype=np.uint8)
    geometry = preprocess.geometry(height, width)
    cell = [step / scale for step, scale in zip(model.grid.stride, geometry.scale, strict=True)]
    half = max(4, round(min(cell) / 4))
    misses = []
    for at in ((0.35, 0.4), (0.55, 0.6), (0.6, 0.45), (0.42, 0.57), (0.5, 0.5), (0.38, 0.62)):
        row, column = int(at[0] * height), int(at[1] * width)
        marked = noise.copy()
        marked[row - half : row + half, column - half : column + half] = 255
        with torch.inference_mode():
            _, cells = model.encode_image(preprocess.batch((noise, marked)), patches=True)
        change = (cells[1] - cells[0]).square().sum(-1).reshape(model.grid.shape).numpy()
        field = np.nan_to_num(to_image(change, model.grid, geometry))
        field = np.where(field > 0.3 * field.max(), field, 0)
        centre = [float((field * where).sum() / field.sum()) + 0.5 for where in np.indices(field.shape)]
        misses.append([(found - asked) / size for found, asked, size in zip(centre, (row, column), cell, strict=True)])
    assert np.abs(misses).max() < 0.5, misses


def test_saliency_of_a_vit_finds_a_layer_that_its_class_token_reads(open_clip_model: tuple[str, Any]) -> None:
    name, parts = open_clip_model
    tower = OpenClipEmbedder(*parts, name).tower()
    image = torch.rand(1, 3, SIDE, SIDE)
    layer = saliency.find_layer(tower, image)
    assert (layer.height, layer.width) == (8, 8) and layer.prefix == 1
    cells = saliency.cells(tower, image, np.ones(24, np.float32), "gradcam", layer)
    assert cells.shape == (8, 8) and np.isfinite(cells).all()
    with pytest.raises(ValueError, match="did you mean"):
        saliency.find_layer(tower, image, "transformer.resblock.0")


def test_patch_cosines_are_the_formula() -> None:
    rng = np.random.default_rng(0)
    patches, text, grid = rng.standard_normal((6, 5)), rng.standard_normal(5), Grid((2, 3), (4, 4), (2, 2))
    cells = cell_similarity(patches, text, grid)
    expected = patches @ text / np.linalg.norm(patches, axis=1) / np.linalg.norm(text)
    assert np.allclose(cells.ravel(), expected)
