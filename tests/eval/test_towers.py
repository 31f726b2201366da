"""Models of others and maps: open_clip and transformers read as they read themselves, planted squares found, SAM run."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from vlp.preprocess import ImageSpec, Preprocess
from vlp.types import PatchGrid
from vlp_eval import saliency, segment
from vlp_eval.embedder_hf import TransformersEmbedder
from vlp_eval.embedder_open_clip import OpenClipEmbedder
from vlp_eval.maps import cell_similarity, to_image

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
    rows, cells = ours.images(inputs, patches=True)
    for found, expected in ((rows, output.image_embeds), (ours.texts(TEXTS), output.text_embeds)):
        unit = found / np.linalg.norm(found, axis=1, keepdims=True)
        assert np.abs(unit - expected.numpy()).max() < 1e-5
    assert cells is not None and cells.shape == (2, 64, 24)
    assert ours.card.grid == (8, 8, (8.0, 8.0), (4.0, 4.0))


def test_one_clip_through_our_loader_and_through_transformers_is_the_same(clip_folder: Path, tmp_path: Path) -> None:
    """Its towers and projections in a model of ours, saved and loaded as ours, on images that need no resizing."""
    from transformers import CLIPModel

    from vlp.config import validate
    from vlp.hub import save_pretrained
    from vlp.models.dual_encoder import ModelConfig, build_model
    from vlp.tokenize import TextSpec, build_tokenizer
    from vlp_eval import embedder

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
    save_pretrained(tmp_path / "ours", model, Preprocess(spec), tokenizer)
    ours = embedder.load(str(tmp_path / "ours"), "cpu")
    images = [png(picture(one)) for one in range(3)]
    pictures = [embed.images(np.stack([embed.prepare(one)[0] for one in images]), False)[0] for embed in (ours, theirs)]
    for mine, other in (pictures, [ours.texts(TEXTS), theirs.texts(TEXTS)]):
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
    rows, cells = ours.images(np.stack([ours.prepare(png(one))[0] for one in pixels]), patches=True)
    with torch.inference_mode():
        expected = model.encode_image(torch.stack([transform(Image.fromarray(one)) for one in pixels]))
        texts = model.encode_text(tokenizer(TEXTS))
    assert np.abs(rows - expected.numpy()).max() < 1e-5
    assert np.abs(ours.texts(TEXTS) - texts.numpy()).max() < 1e-5
    assert cells is not None and cells.shape == (3, 64, 24)
    assert ours.prepare(png(picture(0, 96)))[1] == (96, 96)
    grey = picture(5, 96)[..., 0]
    both = [ours.images(np.stack([ours.prepare(png(one))[0]]), False)[0] for one in (grey, np.dstack([grey] * 3))]
    with torch.inference_mode():
        alone = model.encode_image(transform(Image.fromarray(grey))[None]).numpy()
    assert (both[0] == both[1]).all() and np.abs(both[0] - alone).max() < 1e-5
    assert OpenClipEmbedder.load(name, "cpu").card.dim == 24


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
    from vlp.config import validate
    from vlp.models.dual_encoder import ModelConfig, build_model
    from vlp.tokenize import TextSpec, build_tokenizer

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
    preprocess = Preprocess(spec)
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
            _, cells = model.encode_image(torch.stack([preprocess.eval(one) for one in (noise, marked)]), patches=True)
        change = (cells[1] - cells[0]).square().sum(-1).reshape(model.grid.height, model.grid.width).numpy()
        field = np.nan_to_num(to_image(change, model.grid, geometry))
        field = np.where(field > 0.3 * field.max(), field, 0)
        centre = [float((field * where).sum() / field.sum()) + 0.5 for where in np.indices(field.shape)]
        misses.append([(found - asked) / size for found, asked, size in zip(centre, (row, column), cell, strict=True)])
    assert np.abs(misses).max() < 0.5, misses


class Bright(torch.nn.Module):
    """A tower whose first channel follows brightness, pooled to an embedding: text (1, 0) asks for what is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.smooth = torch.nn.Conv2d(3, 2, 8, stride=8, bias=False)
        with torch.no_grad():
            self.smooth.weight[0] = 1 / 192
            self.smooth.weight[1] = 0.2 / 192

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        cells = self.smooth(pixels)
        bright = torch.stack([cells[:, 0].relu() ** 2, 0.1 + 0 * cells[:, 1]], 1)
        return bright.mean((2, 3))


@pytest.mark.parametrize("method", ["gradcam", "gscorecam", "m2ib"])
def test_saliency_rises_on_the_bright_square(method: saliency.Method) -> None:
    torch.manual_seed(0)
    module = Bright().eval()
    tower = saliency.Tower(module, module, lambda pixels: pixels)
    image = torch.zeros(1, 3, 64, 64)
    image[:, :, 40:48, 16:24] = 1
    layer = saliency.find_layer(tower, image)
    assert (layer.height, layer.width, layer.name) == (8, 8, "smooth")
    cells = saliency.cells(tower, image, np.array([1.0, 0.0], np.float32), method, layer)
    assert np.unravel_index(int(cells.argmax()), cells.shape) == (5, 2)


class Mixed(torch.nn.Module):
    """A tower of two layers whose maps can be written down: a strided convolution and a linear mix of channel means."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.cells = torch.nn.Conv2d(3, 5, 4, stride=4)
        self.mix = torch.nn.Linear(5, 4)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        mixed: torch.Tensor = self.mix(self.cells(pixels).tanh().mean((2, 3)))
        return mixed


@pytest.fixture
def mixed() -> tuple[saliency.Tower, torch.Tensor, torch.Tensor, saliency.Layer]:
    module = Mixed().eval()
    tower = saliency.Tower(module, module, lambda pixels: pixels)
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    target = torch.nn.functional.normalize(torch.tensor([1.0, -0.5, 0.3, 0.8]), dim=0)
    layer = saliency.find_layer(tower, image)
    assert layer.name == "cells"
    return tower, image, target, layer


def cosine(module: Mixed, activations: torch.Tensor, target: torch.Tensor) -> float:
    with torch.no_grad():
        embedding = module.mix(activations.tanh().mean((2, 3)))[0]
    return float(embedding @ target / embedding.norm())


def test_grad_cam_is_its_formula(mixed: tuple[Any, ...]) -> None:
    """ReLU(sum over channels of mean gradient x activation), the gradient by differences of the score."""
    tower, image, target, layer = mixed
    module = tower.module.double()
    activations = module.cells(image.double()).detach()
    gradient = np.zeros(activations.shape[1:])
    for at in np.ndindex(*gradient.shape):
        step = torch.zeros_like(activations)
        step[(0, *at)] = 1e-5
        up, down = (cosine(module, activations + sign * step, target.double()) for sign in (1, -1))
        gradient[at] = (up - down) / 2e-5
    expected = np.maximum(0, (gradient.mean((1, 2), keepdims=True) * activations[0].numpy()).sum(0))
    found = saliency.grad_cam(tower, image.double(), target, layer)
    assert expected.max() > 0 and np.abs(found - expected).max() < 1e-5 * max(1, expected.max())


def test_g_score_cam_is_its_formula(mixed: tuple[Any, ...]) -> None:
    """Each of the best channels masks the image; softmax of 100 x the cosines; ReLU of the weighted activations."""
    tower, image, target, layer = mixed
    activations = tower.module.cells(image).detach().requires_grad_(True)
    embedding = tower.module.mix(activations.tanh().mean((2, 3)))[0]
    (gradient,) = torch.autograd.grad(embedding @ target / embedding.norm(), activations)
    best = gradient[0].mean((1, 2)).argsort(descending=True)[:3]
    scores = []
    for channel in best:
        one = activations[0, channel].detach()
        mask = ((one - one.min()) / (one.max() - one.min()))[None, None]
        spread = torch.nn.Upsample(size=(16, 16), mode="bilinear", align_corners=False)(mask)
        embedding = tower.encode(image * spread)[0].detach()
        scores.append(float(embedding @ target / embedding.norm()))
    weights = np.exp(100 * (np.array(scores) - max(scores)))
    weights /= weights.sum()
    kept = activations[0, best].detach().numpy()
    expected = np.maximum(0, (weights[:, None, None] * kept).sum(0))
    found = saliency.g_score_cam(tower, image, target, layer, top=3)
    assert np.abs(found - expected).max() < 1e-4 * max(1, expected.max())


def test_m2ib_is_its_formula(mixed: tuple[Any, ...]) -> None:
    """t = l z + (1 - l) e, l = sigmoid(a), a from 5; beta mean KL(N(l z, (1 - l)^2) | N(0, 1)) - cosine; Adam, rate 1."""
    from torch.distributions import Normal, kl_divergence

    tower, image, target, layer = mixed
    z = tower.module.cells(image).detach()
    noise = torch.Generator().manual_seed(0)
    a = torch.full_like(z, 5.0, requires_grad=True)
    adam = torch.optim.Adam([a], lr=1.0)

    def cost() -> torch.Tensor:
        gate = torch.sigmoid(a)
        return kl_divergence(Normal(gate * z, 1 - gate), Normal(torch.zeros_like(z), torch.ones_like(z)))

    for _ in range(4):
        adam.zero_grad()
        gate = torch.sigmoid(a)
        bottled = gate * z + (1 - gate) * torch.randn((10, *z.shape[1:]), generator=noise)
        embedding = tower.module.mix(bottled.tanh().mean((2, 3)))
        score = torch.nn.functional.cosine_similarity(embedding, target[None]).mean()
        (0.1 * cost().mean() - score).backward()
        adam.step()
    field = cost().detach()[0].sum(0).numpy()
    expected = (field - field.min()) / (field.max() - field.min())
    found = saliency.m2ib(tower, image, target, layer, steps=4)
    assert np.abs(found - expected).max() < 1e-3


def test_a_layer_of_any_tower_lies_where_its_strides_put_it() -> None:
    """A ResNet's cells are not centred on equal tiles: a map made of one of its layers has the tower's own offset."""
    import timm

    from vlp_eval.tasks.grounding import grid_of_layer

    module = timm.create_model("resnet18", num_classes=0).eval()
    tower = saliency.Tower(module, module, lambda pixels: pixels)
    image = torch.rand(1, 3, 128, 128)
    grid = grid_of_layer(tower, image, saliency.find_layer(tower, image, "layer2"))
    # 7x7 stride 2 pad 3, 3x3 stride 2 pad 1, 3x3 stride 2 pad 1: each puts its first window's centre on the first input's
    assert (grid.height, grid.stride, grid.offset) == (16, (8.0, 8.0), (0.5, 0.5))


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


# Maps to masks


def disc(side: int = 96) -> tuple[NDArray[np.float64], NDArray[np.uint8], NDArray[np.bool_]]:
    rows, columns = np.mgrid[:side, :side]
    distance = np.hypot(rows - 60, columns - 40)
    truth = distance < 16
    image = np.where(truth, 200, 60).astype(np.uint8)
    return np.exp(-((distance / 18) ** 2)), np.repeat(image[..., None], 3, axis=2), truth


def overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def test_masks_of_a_map() -> None:
    heat, image, truth = disc()
    assert overlap(segment.by_threshold(heat, 0.5), truth) > 0.9
    assert overlap(segment.by_kmeans(heat), truth) > 0.75
    noisy = heat + 0.25 * np.random.default_rng(0).standard_normal(heat.shape)
    assert overlap(segment.by_crf(noisy, image), truth) > overlap(segment.by_kmeans(noisy), truth)
    first, second = segment.largest_parts(np.pad(truth, ((0, 0), (0, 40))) | (np.indices((96, 136)).sum(0) > 225), 2)
    assert first.sum() > second.sum() > 0
    assert segment.box_of(truth) == [25, 45, 56, 76]
    x, y = segment.point_of(truth)
    assert abs(x - 40.5) < 2 and abs(y - 60.5) < 2
    assert not segment.by_threshold(np.full((4, 4), np.nan), 0.5).any()


def test_the_field_is_that_of_a_dense_crf() -> None:
    """Two labels and their beliefs, pair by pair, as the paper writes it: q(l) ~ exp(-unary(l) - sum of w k q(other l))."""
    rng = np.random.default_rng(0)
    shape, weights, spreads = (5, 6), (0.7, 1.3), (1.5, 3.0, 40.0)
    unary, colours = rng.normal(size=shape), rng.integers(0, 255, (*shape, 3)).astype(np.float32)
    found = segment.mean_field(unary, colours, 4, weights, spreads)
    pixels = [(row, column) for row in range(shape[0]) for column in range(shape[1])]
    kernels = np.zeros((2, len(pixels), len(pixels)))
    for i, one in enumerate(pixels):
        for j, other in enumerate(pixels):
            far = (one[0] - other[0]) ** 2 + (one[1] - other[1]) ** 2
            unlike = float(((colours[one].astype(float) - colours[other]) ** 2).sum())
            if i != j:
                kernels[0, i, j] = np.exp(-far / (2 * spreads[0] ** 2))
                kernels[1, i, j] = np.exp(-far / (2 * spreads[1] ** 2) - unlike / (2 * spreads[2] ** 2))
    kernels /= np.sqrt(kernels.sum(2, keepdims=True) * kernels.sum(1, keepdims=True))
    energy = np.stack([unary.ravel() / 2, -unary.ravel() / 2])  # of labels 0 and 1
    belief = np.exp(-energy) / np.exp(-energy).sum(0)
    for _ in range(4):
        against = sum(weight * kernel @ belief[::-1].T for weight, kernel in zip(weights, kernels, strict=True)).T
        belief = np.exp(-energy - against) / np.exp(-energy - against).sum(0)
    assert np.allclose(found.ravel(), np.log(belief[1] / belief[0]), atol=1e-9)


@pytest.fixture(scope="module")
def sam_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

    torch.manual_seed(0)
    config = SamConfig(
        vision_config={
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 8,
            "output_channels": 16,
            "window_size": 0,
            "global_attn_indexes": [0],
            "mlp_dim": 16,
            "num_pos_feats": 8,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 16,
            "mlp_dim": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )
    folder = tmp_path_factory.mktemp("sam")
    SamModel(config).eval().save_pretrained(folder)
    sizes = {"size": {"longest_edge": 64}, "pad_size": {"height": 64, "width": 64}, "mask_size": {"longest_edge": 32}}
    SamProcessor(SamImageProcessor(**sizes, mask_pad_size={"height": 32, "width": 32})).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("prompt", ["box", "points"])
def test_a_tiny_random_sam_answers_boxes_and_points(sam_folder: Path, prompt: Any) -> None:
    """The answer is the one that transformers gives to the same prompt, on the image's own pixels."""
    from transformers import SamModel, SamProcessor

    _, image, truth = disc()
    image = image[:, :80]
    truth = truth[:, :80]
    answer = segment.Sam.load(str(sam_folder))(image, [truth], prompt)
    assert answer.shape == truth.shape and answer.dtype == bool
    model, processor = SamModel.from_pretrained(sam_folder).eval(), SamProcessor.from_pretrained(sam_folder)
    rows, columns = np.nonzero(truth)
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    asked = {"input_boxes": [[[float(one) for one in box]]]}
    if prompt == "points":
        asked = {"input_points": [[[[40.5, 60.5]]]]}  # the middle of the disc
    inputs = processor(images=image, return_tensors="pt", **asked)
    with torch.no_grad():
        output = model(**inputs)
    masks = processor.post_process_masks(output.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"])
    assert (answer == masks[0][0, int(output.iou_scores[0, 0].argmax())].numpy()).all()


@pytest.mark.parametrize("prompt", ["box", "points"])
@pytest.mark.parametrize("kind", ["sam2", "sam_hq"])
def test_other_sams_of_transformers_answer_too(kind: str, prompt: Any, tmp_path: Path) -> None:
    """Named by a folder; tiny and random, so only the shape of the answer can be known, and that prompts change it."""
    import transformers as hf

    torch.manual_seed(0)
    if kind == "sam2":
        backbone = hf.Sam2HieraDetConfig(
            hidden_size=12,
            num_attention_heads=1,
            image_size=[64, 64],
            blocks_per_stage=[1, 1, 1, 1],
            embed_dim_per_stage=[12, 24, 48, 96],
            num_attention_heads_per_stage=[1, 2, 4, 8],
            window_size_per_stage=[4, 2, 4, 2],
            global_attention_blocks=[],
            window_positional_embedding_background_size=[4, 4],
        )
        vision = hf.Sam2VisionConfig(
            backbone_config=backbone,
            backbone_channel_list=[96, 48, 24, 12],
            backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
            fpn_hidden_size=32,
        )
        prompts = hf.Sam2PromptEncoderConfig(hidden_size=32, image_size=64, mask_input_channels=4)
        decoder = hf.Sam2MaskDecoderConfig(
            hidden_size=32, mlp_dim=32, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=32
        )
        config = hf.Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
        hf.Sam2Model(config).eval().save_pretrained(tmp_path)
        images = hf.Sam2ImageProcessor(size={"height": 64, "width": 64}, mask_size={"height": 16, "width": 16})
        hf.Sam2Processor(images).save_pretrained(tmp_path)
    else:
        vision = hf.SamHQVisionConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=64,
            patch_size=8,
            output_channels=16,
            window_size=0,
            global_attn_indexes=[0, 1],
            mlp_dim=16,
            num_pos_feats=8,
        )
        decoder = hf.SamHQMaskDecoderConfig(
            hidden_size=16, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16, vit_dim=16
        )
        prompts = hf.SamHQPromptEncoderConfig(hidden_size=16, image_size=64, patch_size=8, mask_input_channels=4)
        config = hf.SamHQConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
        hf.SamHQModel(config).eval().save_pretrained(tmp_path)
        sizes = {"size": {"longest_edge": 64}, "pad_size": {"height": 64, "width": 64}}
        images = hf.SamImageProcessor(
            **sizes, mask_size={"longest_edge": 32}, mask_pad_size={"height": 32, "width": 32}
        )
        hf.SamHQProcessor(images).save_pretrained(tmp_path)
    _, image, truth = disc()
    sam = segment.Sam.load(str(tmp_path))
    answer = sam(image, [truth], prompt)
    assert answer.shape == truth.shape and answer.dtype == bool


def test_a_sam_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no SAM in 'nobody/no-sam'"):
        segment.Sam.load("nobody/no-sam")


def test_segmentation_task_with_and_without_a_sam(shards: Path, sam_folder: Path, tmp_path: Path, run: Any) -> None:
    """Masks of the planted world's nodules, asked for by the planted embedder, which knows where they are."""
    import cv2
    from planted import Planted

    from vlp.data.manifest import Manifest, ShardSet
    from vlp_eval import results
    from vlp_prep.writer import ShardWriter

    source = ShardSet(Manifest.read(shards).select("test"))
    with ShardWriter(tmp_path / "masks", source="synthetic", version="1") as writer:
        for index in range(len(source)):
            sample = source.sample(index)
            boxes = [one for one in sample.boxes if one.label == "cardiomegaly"]
            if not boxes:
                continue
            mask = np.zeros((128, 128), np.uint8)
            x1, y1, x2, y2 = (int(one) for one in boxes[0].xyxy)
            mask[y1:y2, x1:x2] = 255
            encoded = cv2.imencode(".png", mask)[1].tobytes()
            writer.write(replace(sample, masks={"heart": encoded}, split="test"))
    import factories

    factories.here = lambda: Planted(tmp_path / "masks")  # type: ignore[attr-defined]
    tasks = [
        {"id": "alone", "family": "segmentation", "masks": {"heart": "cardiomegaly"}},
        {"id": "asked", "family": "segmentation", "masks": {"heart": "cardiomegaly"}, "sam": str(sam_folder)},
    ]
    (tmp_path / "suite.yaml").write_text(json.dumps({"version": "1", "about": "x", "tasks": tasks}))
    words = [
        "--model",
        "factories:here",
        "--suite",
        tmp_path / "suite.yaml",
        "--data",
        tmp_path / "masks",
        "--out",
        tmp_path / "out",
    ]
    assert run("run", *words, "--resamples", 50) == 0
    alone, asked = results.read(tmp_path / "out")["tasks"]
    assert alone["metrics"]["dice"]["value"] > 0.8 and alone["metrics"]["pixel_auroc"]["value"] > 0.95
    assert 0 <= asked["metrics"]["dice"]["value"] <= 1


def test_patch_cosines_are_the_formula() -> None:
    rng = np.random.default_rng(0)
    patches, text, grid = rng.standard_normal((6, 5)), rng.standard_normal(5), PatchGrid(2, 3, (4, 4), (2, 2))
    cells = cell_similarity(patches, text, grid)
    expected = patches @ text / np.linalg.norm(patches, axis=1) / np.linalg.norm(text)
    assert np.allclose(cells.ravel(), expected)
