"""The dual encoder: what it computes and what not, against the original libraries' own numbers."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.models.tiny import ALL, BERT, CONV, NONE, REPORTS, batch, clip_tokens, make, wordpieces
from vlp.batch import Grid, Tokens
from vlp.core.config import ConfigError, config
from vlp.modalities.image.spec import ImageSpec
from vlp.models.dual_encoder import join_tokens
from vlp.models.heads import HeadConfig
from vlp.models.towers.base import (
    Features,
    ImageTower,
    TextFeatures,
    TextTower,
    TowerConfig,
    image_towers,
    text_towers,
)
from vlp.needs.masked_patches import draw_mask
from vlp.train.optimizer import bounded_parameters

VIT: dict[str, Any] = {
    "kind": "hf",
    "config": {
        "model_type": "vit",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "patch_size": 8,
        "hidden_dropout_prob": 0.0,
    },
}
CLIP_IMAGE: dict[str, Any] = {
    "kind": "open_clip",
    "config": {"embed_dim": 24, "vision_cfg": {"layers": 2, "width": 32, "head_width": 8, "patch_size": 8}},
}
CLIP_TEXT: dict[str, Any] = {
    "kind": "open_clip",
    "config": {"embed_dim": 24, "text_cfg": {"layers": 2, "width": 32, "heads": 4}},
}
TIMM: dict[str, Any] = {
    "kind": "timm",
    "name": "vit_tiny_patch16_224",
    "options": {"depth": 2, "embed_dim": 24, "patch_size": 8},
}


def test_everything_that_is_needed_is_there_in_the_right_shape() -> None:
    model, tokenizer = make()
    data = batch(tokenizer)
    output = model(data)
    words = int(data.text.words.max()) + 1
    assert output.image.shape == output.text.shape == (4, 24)
    assert output.patches.shape == (4, 16, 24) and output.grid == Grid((4, 4), (8, 8), (4, 4))
    assert output.words.shape == (4, words, 24) and output.word_mask.shape == (4, words)
    assert output.tokens.shape == (*data.text.ids.shape, 24)
    assert output.phrases.shape == (2, 24) and output.prompts.shape == (2, 24)
    assert output.word_mask.sum(1).tolist() == [int(row.max()) + 1 for row in data.text.words]
    assert output.masked_patches is None


def test_nothing_else_is_computed() -> None:
    model, tokenizer = make(needs=frozenset({"labels", "extras.category"}))
    output = model(batch(tokenizer))
    for name in ("patches", "words", "tokens", "phrases", "prompts", "logit_scale", "logit_bias", "grid", "word_mask"):
        assert getattr(output, name) is None, name
    names = {name.split(".")[0] for name, _ in model.named_parameters()}
    assert names == {"image_tower", "text_tower", "image_head", "text_head"}


def test_an_unknown_need_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown need 'telepathy'"):
        make(needs=frozenset({"telepathy"}))


def test_pixels_are_normalised_once_and_grey_is_repeated() -> None:
    from vlp.models.dual_encoder import DualEncoder

    model, _ = make(image=VIT, size=32, channels=1)
    assert isinstance(model, DualEncoder)
    pixels = torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8)
    expected = ((pixels.float() / 255 - 0.5) / 0.25).repeat(1, 3, 1, 1)
    assert torch.allclose(model.normalise(pixels), expected, atol=1e-6)
    model.eval()
    assert torch.equal(model.encode_image(pixels), model.encode_image(expected))
    assert torch.equal(model.encode_image(pixels), model.encode_image(expected[:, :1]))


def test_each_trainable_parameter_gets_a_gradient() -> None:
    for image in (CONV, VIT, TIMM, {"kind": "hf", "config": {**VIT["config"], "model_type": "dinov2"}}):
        model, tokenizer = make(image=image)
        output = model(batch(tokenizer))
        parts = [output.image, output.text, output.patches, output.words, output.logit_scale, output.logit_bias]
        torch.stack([one.square().sum() for one in parts]).sum().backward()
        lost = [name for name, one in model.named_parameters() if one.requires_grad and one.grad is None]
        assert not lost, f"{image['kind']}: {lost}"


def test_texts_mean_the_same_alone_and_in_a_padded_batch() -> None:
    siglip = {"kind": "hf", "pooling": "pooler", "config": {
        "model_type": "siglip_text_model", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 64, "projection_size": 32, "max_position_embeddings": 64}}  # fmt: skip
    t5 = {
        "kind": "hf",
        "pooling": "mean",
        "config": {"model_type": "t5", "d_model": 32, "num_layers": 2, "num_heads": 4, "d_kv": 8, "d_ff": 64},
    }
    roberta = {"kind": "hf", "config": {**BERT["config"], "model_type": "roberta"}}
    no_causal = {"kind": "open_clip", "config": {"embed_dim": 24, "text_cfg": {
        "layers": 2, "width": 32, "heads": 4, "no_causal_mask": True, "pool_type": "last"}}}  # fmt: skip
    pools = [{**BERT, "pooling": how} for how in ("cls", "mean", "max", "mean_max", "pooler")]
    for text in [*pools, siglip, t5, roberta, CLIP_TEXT, no_causal]:
        own = text["kind"] == "open_clip"
        tokenizer = clip_tokens() if own else wordpieces()
        model, _ = make(text=text, tokenizer=tokenizer, text_head=NONE if own else HeadConfig(), word_head=HeadConfig())
        model.eval()
        together = model.encode_text(tokenizer(REPORTS).tokens)
        alone = torch.cat([model.encode_text(tokenizer([one]).tokens) for one in REPORTS])
        assert torch.allclose(together, alone, atol=1e-5), text
        assert together.std(0).max() > 1e-4, f"every text is the same to {text}"


def test_phrases_and_prompts_are_embedded_as_texts() -> None:
    model, tokenizer = make()
    model.eval()
    data = batch(tokenizer)
    output = model(data)
    assert data.phrases is not None and data.prompts is not None
    assert torch.allclose(output.phrases, model.encode_text(data.phrases.tokens), atol=1e-5)
    assert torch.allclose(output.prompts, model.encode_text(data.prompts.tokens), atol=1e-5)
    twice = dataclasses.replace(data.prompts, rows=torch.tensor([1, 1, 0, 1]))
    again = model(dataclasses.replace(data, prompts=twice)).prompts
    assert torch.allclose(again, output.prompts[[1, 1, 0, 1]], atol=1e-5)
    none = tokenizer([]).tokens
    data.phrases.tokens = Tokens(none.ids.view(0, 0), none.mask.view(0, 0), none.words.view(0, 0))
    assert model(data).phrases.shape == (0, 24)


def test_batches_of_texts_are_joined_with_the_right_padding() -> None:
    tokenizer = wordpieces()
    first, second = tokenizer(["No."]).tokens, tokenizer(REPORTS[:2]).tokens
    joined, direct = join_tokens([first, second], tokenizer.pad_id), tokenizer(["No.", *REPORTS[:2]]).tokens
    assert torch.equal(joined.ids, direct.ids) and torch.equal(joined.mask, direct.mask)
    assert torch.equal(joined.words, direct.words)


def test_words_are_sums_of_their_pieces() -> None:
    model, tokenizer = make()
    model.eval()
    data = batch(tokenizer)
    states = model.text_tower(data.text).states
    output = model(data)
    assert model.word_head is not None
    row, word = 1, 2
    pieces = data.text.words[row] == word
    expected = model.word_head(states[row][pieces].sum(0))
    assert torch.allclose(output.words[row, word], expected, atol=1e-5)
    assert torch.allclose(output.tokens, model.word_head(states), atol=1e-6)


def last_weights(module: nn.Module, run: Any) -> torch.Tensor:
    module.config._attn_implementation = "eager"  # type: ignore[union-attr]
    for one in module.modules():
        if hasattr(one, "config"):
            one.config._attn_implementation = "eager"
    found: torch.Tensor = run(module).attentions[-1]
    return found[:, :, 0].mean(1)


def test_attention_is_the_class_tokens_in_the_last_layer_transformers() -> None:
    model, tokenizer = make(image=VIT)
    model.eval()
    data = batch(tokenizer)
    output = model(data)
    tower: Any = model.text_tower
    ours = tower(data.text).attention
    eager = last_weights(
        tower.model,
        lambda one: one(input_ids=data.text.ids, attention_mask=data.text.mask.long(), output_attentions=True),
    )
    assert torch.allclose(ours, eager, atol=1e-6)
    assert torch.allclose(output.word_attention.sum(1), (eager * (data.text.words >= 0)).sum(1), atol=1e-5)
    assert not output.word_attention.requires_grad
    tower = model.image_tower
    images = model.normalise(data.image)
    eager = last_weights(tower.model, lambda one: one(pixel_values=images, output_attentions=True))
    assert torch.allclose(output.patch_attention, eager[:, 1:], atol=1e-6)


@pytest.mark.parametrize("image", [VIT, TIMM])
def test_attention_that_nobody_asks_for_is_not_computed(image: dict[str, Any]) -> None:
    model, tokenizer = make(image=image, needs=ALL - {"attention"})
    output = model(batch(tokenizer))
    assert output.patches is not None and output.patch_attention is None
    assert output.words is not None and output.word_attention is None


def test_attention_is_the_class_tokens_in_the_last_layer_timm() -> None:
    model, tokenizer = make(image=TIMM)
    model.eval()
    data = batch(tokenizer)
    ours = model(data).patch_attention
    attention: Any = model.image_tower.model.blocks[-1].attn
    attention.fused_attn = False
    seen: list[torch.Tensor] = []
    attention.attn_drop.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    model.encode_image(data.image)
    assert torch.allclose(ours, seen[0][:, :, 0, 1:].mean(1), atol=1e-6)


def test_attention_is_the_class_tokens_in_the_last_layer_open_clip() -> None:
    model, tokenizer = make(image=CLIP_IMAGE, image_head=NONE, patch_head=HeadConfig())
    model.eval()
    data = batch(tokenizer)
    ours = model(data).patch_attention
    block: Any = model.image_tower.model.transformer.resblocks[-1]
    seen: list[torch.Tensor] = []
    block.ln_1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model.encode_image(data.image)
    _, weights = block.attn(seen[0], seen[0], seen[0], need_weights=True)
    assert torch.allclose(ours, weights[:, 0, 1:], atol=1e-6)


def test_scale_and_bias_leave_through_the_forward() -> None:
    model, tokenizer = make(scale_init=(math.log(10), -10.0))
    data = batch(tokenizer)
    output = model(data)
    assert output.logit_scale.shape == output.logit_bias.shape == (1,)
    assert output.logit_scale.item() == pytest.approx(10) and output.logit_bias.item() == -10
    assert model.logit_scale is not None
    model.logit_scale.data.fill_(math.log(117.2))
    output = model(data)
    assert output.logit_scale.item() == pytest.approx(117.2, rel=1e-6), "what was learnt is used, here as in scoring"
    output.logit_scale.backward()
    assert model.logit_scale.grad is not None and model.logit_scale.grad.item() > 0
    ((parameter, low, high),) = bounded_parameters(model)
    assert parameter is model.logit_scale and (low, high) == (0.0, math.log(100)), "brought back after the step"
    default, _ = make(scale_init=None)
    assert default.logit_scale is not None and default.logit_scale.item() == pytest.approx(math.log(1 / 0.07))


def test_the_maximum_over_patches_can_join_the_global_embedding() -> None:
    model, tokenizer = make(image_head=HeadConfig(add_patches="max"), needs=frozenset())
    model.eval()
    pixels = batch(tokenizer).image
    image, patches = model.encode_image(pixels, patches=True)
    tower = model.image_tower(model.normalise(pixels), patches=True)
    assert model.patch_head is not None
    assert torch.allclose(patches, model.patch_head(tower.patch_tokens))
    assert torch.allclose(image, model.image_head(tower.pooled) + patches.amax(1))
    assert torch.equal(image, model.encode_image(pixels))


def test_a_model_without_patches_maps_with_its_global_head() -> None:
    model, tokenizer = make(needs=frozenset())
    assert model.grid == Grid((2, 2), (16, 16), (8, 8))
    _, patches = model.encode_image(batch(tokenizer).image, patches=True)
    assert patches.shape == (4, 4, 24)
    model, _ = make(image=VIT, needs=frozenset())
    _, patches = model.encode_image(batch(tokenizer).image, patches=True)
    cells = model.image_tower(model.normalise(batch(tokenizer).image), patches=True).patch_tokens
    assert torch.allclose(patches, model.image_head(cells))


def test_masked_patches_do_not_see_what_is_blanked() -> None:
    model, tokenizer = make(needs=frozenset({"masked_patches"}), image=VIT)
    data = batch(tokenizer)
    output = model.eval()(data)
    assert output.patch_mask.sum(1).tolist() == [12] * 4 and output.masked_patches.shape == (4, 16, 24)
    assert torch.equal(draw_mask(data, model.grid, model.mask_share), output.patch_mask), (
        "drawn from the keys, not from a global generator"
    )
    data.cursor = 64
    assert not torch.equal(draw_mask(data, model.grid, model.mask_share), output.patch_mask)
    data.cursor = 0
    holes = output.patch_mask.view(4, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    data.image[holes] = 255 - data.image[holes]
    assert torch.allclose(model(data).masked_patches, output.masked_patches)


@pytest.mark.parametrize(("norm", "mode"), [("group", True), ("batch", False)])
def test_the_cnn_treats_each_image_by_itself(norm: str, mode: bool) -> None:
    """Except in training with batch normalisation, whose statistics are the batch's."""
    model, tokenizer = make(image={"kind": "conv", "width": 16, "norm": norm})
    model.train(mode)
    pixels = batch(tokenizer).image
    together = model.encode_image(pixels)
    alone = torch.cat([model.encode_image(one[None]) for one in pixels])
    assert torch.allclose(together, alone, atol=1e-5)


def test_frozen_towers_stay_as_they_are() -> None:
    resnet = {"kind": "timm", "name": "resnet10t", "frozen": True}
    model, tokenizer = make(image=resnet, text={**BERT, "frozen": True}, channels=3)
    model.train()
    assert model.training and not any(one.training for one in model.image_tower.modules())
    before = {name: value.clone() for name, value in model.image_tower.state_dict().items()}
    output = model(batch(tokenizer, channels=3))
    (output.image.sum() + output.text.sum()).backward()
    assert all(torch.equal(value, before[name]) for name, value in model.image_tower.state_dict().items())
    trained = {name.split(".")[0] for name, one in model.named_parameters() if one.grad is not None}
    assert trained == {"image_head", "text_head"}


@pytest.mark.parametrize("image", [CONV, VIT, TIMM, CLIP_IMAGE, {"kind": "timm", "name": "resnet10t"}])
def test_the_first_layers_can_be_frozen(image: dict[str, Any]) -> None:
    head = {"image_head": NONE, "patch_head": HeadConfig()} if image["kind"] == "open_clip" else {}
    model, _ = make(image={**image, "freeze_layers": 1}, text={**BERT, "freeze_layers": 1}, **head)
    for tower in (model.image_tower, model.text_tower):
        flags = [one.requires_grad for one in tower.parameters()]
        assert True in flags and False in flags, image
        assert flags.index(False) == 0, "embeddings first"
    text: Any = model.text_tower.model
    assert not any(one.requires_grad for one in text.embeddings.parameters())
    assert not any(one.requires_grad for one in text.encoder.layer[0].parameters())
    assert all(one.requires_grad for one in text.encoder.layer[1].parameters())
    model.train()
    assert not text.encoder.layer[0].training and text.encoder.layer[1].training
    with pytest.raises(ConfigError, match=r"model\.text\.freeze_layers is 9, the tower has 2 layers"):
        make(text={**BERT, "freeze_layers": 9})


class Mean(ImageTower):
    """A tower of somebody else's: mean intensities of four quarters."""

    @config
    class Config(TowerConfig):
        gain: float = 1.0

    def __init__(self, config: Any, spec: ImageSpec) -> None:
        super().__init__()
        self.channels, self.width, self.patch_width = 1, 4, 1
        half = spec.size / 2
        self.grid = Grid((2, 2), (half, half), (half / 2, half / 2))
        self.gain = nn.Parameter(torch.tensor([config.gain]))

    def forward(self, image: torch.Tensor, patches: bool = False) -> Features:
        cells = nn.functional.adaptive_avg_pool2d(image, 2).flatten(1) * self.gain
        return Features(cells, cells.unsqueeze(-1))


class Bag(TextTower):
    """A tower of somebody else's: a bag of tokens."""

    Config = TowerConfig

    def __init__(self, config: Any, shape: Any) -> None:
        super().__init__()
        self.width = self.state_width = 8
        self.vocab_size, self.max_length = shape.vocab_size, 1 << 20
        self.table = nn.Embedding(shape.vocab_size, 8)

    def forward(self, tokens: Tokens) -> TextFeatures:
        states = self.table(tokens.ids) * tokens.mask.unsqueeze(-1)
        return TextFeatures(states.sum(1), states)


def test_towers_of_other_packages_by_dotted_name() -> None:
    model, tokenizer = make(image={"kind": f"{__name__}:Mean", "gain": 2.0}, text={"kind": f"{__name__}:Bag"})
    output = model(batch(tokenizer))
    assert output.patches.shape == (4, 4, 24) and output.words.shape[2] == 24
    tree = model.resolved_config()["model"]["image"]
    assert tree["kind"].endswith(":Mean") and tree["gain"] == 2.0


def test_errors_name_the_path_and_the_remedy(tmp_path: Any) -> None:
    from transformers import AutoConfig

    with pytest.raises(ConfigError, match=r"model\.image\.kind: unknown image tower 'tim': did you mean 'timm'"):
        make(image={"kind": "tim"})
    with pytest.raises(ConfigError, match=r"unknown key 'model\.image\.widht': did you mean 'width'"):
        make(image={"kind": "conv", "widht": 3})
    with pytest.raises(ConfigError, match=r"timm has no model 'resnet81': did you mean 'resnet"):
        make(image={"kind": "timm", "name": "resnet81"})
    with pytest.raises(ConfigError, match=r"16 divides, found 40"):
        make(size=40)
    with pytest.raises(
        ConfigError, match=r"image_head\.kind is none, but the tower's width is 64 and model\.dim is 24"
    ):
        make(image_head=NONE)
    small = {"kind": "hf", "config": {**BERT["config"], "vocab_size": 50}}
    with pytest.raises(ConfigError, match=r"the tokenizer has \d+ tokens, the tower's embedding table 50"):
        make(text=small)
    short = {"kind": "hf", "config": {**BERT["config"], "max_position_embeddings": 32}}
    with pytest.raises(
        ConfigError, match=r"tokenizer\.length is 64, the tower has 32 positions; set tokenizer\.length=32"
    ):
        make(text=short)
    with pytest.raises(ConfigError, match="open_clip's own tokenizer"):
        make(text=CLIP_TEXT, text_head=NONE)
    with pytest.raises(ConfigError, match="model_type"):
        make(text={"kind": "hf", "config": {"hidden_size": 3}})
    with pytest.raises(ConfigError, match="no transformers configuration"):
        make(text={"kind": "hf", "path": str(tmp_path)})
    AutoConfig.for_model(
        "bert", **{key: value for key, value in BERT["config"].items() if key != "model_type"}
    ).save_pretrained(tmp_path)
    large, tokenizer = make(text={"kind": "hf", "path": str(tmp_path), "weights": False})
    assert large.text_tower.vocab_size == 30522, "the table of a pretrained configuration is kept"
    assert set(image_towers) >= {"conv", "timm", "open_clip", "hf"} and set(text_towers) == {"hf", "open_clip"}
    assert np.isfinite(large.encode_text(tokenizer(["a"]).tokens).detach().numpy()).all()
    assert ALL
