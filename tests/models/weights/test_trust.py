"""A model of others builds registered towers with listed options, and runs nothing; a deep or odd config.json is named."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vlp
from tests.models.tiny import BERT, make
from vlp import hub
from vlp.core.config import ConfigError
from vlp.core.trust import LOADERS
from vlp.modalities.image.processor import ImageProcessor
from vlp.modalities.image.spec import ImageSpec
from vlp.models.towers.base import build_image_tower

TIMM = {"kind": "timm", "name": "vit_tiny_patch16_224", "options": {"depth": 2, "embed_dim": 32, "num_heads": 4}}
Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    model, tokenizer = make(image=TIMM, size=32, channels=3, needs=frozenset({"logit_scale"}))
    hub.save_pretrained(folder, model, ImageProcessor(ImageSpec(size=32, channels=3)), tokenizer)
    return folder


@pytest.fixture
def edit(saved: Path, tmp_path: Path) -> Callable[[Edit], Path]:
    """Return what copies the model and changes its config.json."""
    import shutil

    def changed(change: Edit) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(saved, folder, dirs_exist_ok=True)
        tree = json.loads((folder / "config.json").read_text())
        change(tree)
        (folder / "config.json").write_text(json.dumps(tree))
        return folder

    return changed


def refused(folder: Path, match: str, **options: Any) -> None:
    with pytest.raises(ConfigError, match=match) as caught:
        vlp.from_pretrained(folder, **options)
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize("part", ["image", "text"])
def test_a_dotted_class_is_imported_only_where_its_module_is_trusted(
    part: str, edit: Callable[[Edit], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "strange" / "strange_towers.py"
    module.parent.mkdir()
    ran = tmp_path / "ran"
    base = "from vlp.models.towers.hf import HfTextTower as Base" if part == "text" else (
        "from vlp.models.towers.timm import TimmTower as Base"
    )  # fmt: skip
    module.write_text(f"open({str(ran)!r}, 'a').write('x')\n{base}\nclass Mine(Base):\n    pass\n")
    monkeypatch.syspath_prepend(str(module.parent))
    folder = edit(lambda tree: tree["model"][part].update(kind="strange_towers:Mine"))
    refused(folder, rf"model\.{part}\.kind.*'strange_towers'.*--trust strange_towers")
    refused(folder, "strange_towers", trust=["strange"])
    assert not ran.exists() and "strange_towers" not in sys.modules
    assert vlp.from_pretrained(folder, trust=["strange_towers"]).trust == ("strange_towers",)
    assert ran.exists()
    sys.modules.pop("strange_towers")


@pytest.mark.parametrize(
    "name", ["checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"]
)
def test_options_by_which_timm_loads_are_refused_even_where_timm_is_trusted(
    name: str, edit: Callable[[Edit], Path], tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    pickle = tmp_path / "evil.pth"
    pickle.write_bytes(f"cposix\nsystem\n(S'touch {ran}'\ntR.".encode())
    value: Any = {"checkpoint_path": str(pickle), "pretrained": True}.get(
        name, {"file": str(pickle), "url": "http://x/y"}
    )
    folder = edit(lambda tree: tree["model"]["image"]["options"].update({name: value}))
    for trust in ([], ["timm"]):
        refused(folder, rf"model\.image.*{name}", trust=trust)
    with pytest.raises(ConfigError, match=rf"options\.{name} would"):
        build_image_tower({**TIMM, "options": {name: value}}, ImageSpec(size=32))
    assert not ran.exists()


def test_unlisted_options_and_other_models_of_timm(edit: Callable[[Edit], Path]) -> None:
    folder = edit(lambda tree: tree["model"]["image"]["options"].update(proj_bias=True))
    refused(folder, r"options\.proj_bias is not among the options.*trust=\['timm'\]")
    assert vlp.from_pretrained(folder, trust=["timm"])
    for name in ("hf-hub:lab/model", "local-dir:/x", "lab/model"):
        folder = edit(lambda tree, name=name: tree["model"]["image"].update(name=name, options={}))  # type: ignore[misc]
        refused(folder, r"model\.image\.name")


@pytest.mark.parametrize(
    "change",
    [
        {"auto_map": {"AutoModel": "code.Mine"}},
        {"trust_remote_code": True},
        {"use_pretrained_backbone": True},
        {"backbone": "lab/model"},
        {"quantization_config": {"quant_method": "x"}},
        {"hidden_act": "../x"},
        {"inner": {"deeper": [{"checkpoint_path": "x.pth"}]}},
        {"attn_implementation": "lab/kernel"},
        {"weights": "x.bin"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_options_of_transformers(change: dict[str, Any], edit: Callable[[Edit], Path]) -> None:
    folder = edit(lambda tree: tree["model"]["text"]["config"].update(change))
    refused(folder, rf"model\.text\.config\.{next(iter(change))}")


def test_a_timm_model_inside_of_transformers(edit: Callable[[Edit], Path]) -> None:
    config = {"model_type": "timm_wrapper", "architecture": "resnet18", "model_args": {"checkpoint_path": "/x.pth"}}
    folder = edit(lambda tree: tree["model"].update(image={"kind": "hf", "config": config}))
    refused(folder, r"model_args\.checkpoint_path", trust=["transformers"])


def test_an_architecture_is_not_looked_up(edit: Callable[[Edit], Path]) -> None:
    folder = edit(lambda tree: tree["model"].update(text={"kind": "hf", "path": "lab/model"}))
    refused(folder, r"model\.text\.path: a model that comes from elsewhere holds its architecture itself")
    vision = {"timm_model_name": "hf-hub:lab/model", "image_size": 32}
    tower = {"kind": "open_clip", "config": {"embed_dim": 24, "vision_cfg": vision}}
    refused(edit(lambda tree: tree["model"].update(image=tower)), r"vision_cfg\.timm_model_name")


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("model",), []),
        (("model",), 3),
        (("model", "dim"), "wide"),
        (("model", "dim"), -4),
        (("model", "image"), "nothing"),
        (("model", "image"), {"kind": ["timm"]}),
        (("model", "image", "name"), 3),
        (("model", "image", "options"), "x"),
        (("model", "image", "options"), {"depth": "two"}),
        (("model", "image", "channels"), 1 << 40),
        (("model", "text", "config", "hidden_size"), "wide"),
        (("model", "text", "config", "hidden_size"), 1 << 50),
        (("model", "text", "config", "num_attention_heads"), 0),
        (("model", "text", "config"), None),
        (("model", "text_head"), 7),
        (("needs",), "logit_scale"),
        (("needs",), ["telepathy"]),
        (("needs",), 5),
        (("scale_init",), "x"),
        (("scale_init",), [1.0]),
        (("scale_init",), [float("inf"), None]),
        (("preprocess_fingerprint",), None),
        (("weights_sha256",), 5),
        (("extra",), 5),
    ],
    ids=str,
)
def test_odd_values_are_named(keys: tuple[str, ...], value: Any, edit: Callable[[Edit], Path]) -> None:
    def change(tree: dict[str, Any]) -> None:
        for key in keys[:-1]:
            tree = tree[key]
        tree[keys[-1]] = value

    refused(edit(change), r"config\.json")


@pytest.mark.parametrize("key", ["model", "needs", "scale_init", "preprocess_fingerprint", "weights_sha256"])
def test_missing_keys_are_named(key: str, edit: Callable[[Edit], Path]) -> None:
    refused(edit(lambda tree: tree.pop(key)), f"missing key .*{key}")


@pytest.mark.parametrize(
    "content",
    [
        "[" * 200_000,
        '{"format": "vlp-1"' + ', "a": {' * 5000,
        "[]",
        "null",
        "\x00",
        '"vlp-1"',
        '{"format": "vlp-1", "x": NaN}',
    ],
)
def test_a_file_that_is_no_configuration(content: str, saved: Path, edit: Callable[[Edit], Path]) -> None:
    folder = edit(lambda tree: None)
    (folder / "config.json").write_text(content)
    refused(folder, "config.json")


def test_ones_own_model_needs_no_trust(saved: Path, tmp_path: Path) -> None:
    assert vlp.from_pretrained(saved).trust == ()
    size = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "patch_size": 16,
    }
    vision = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    towers: list[dict[str, Any]] = [
        {"kind": "hf", "config": {"model_type": "siglip_vision_model", **size}, "pooling": "mean"},
        {"kind": "hf", "config": {"model_type": "vit_mae", **size}},
        {"kind": "open_clip", "config": {"embed_dim": 24, "vision_cfg": vision}},
    ]
    for number, image in enumerate(towers):
        model, tokenizer = make(image=image, text=BERT, size=32, channels=3, needs=frozenset())
        hub.save_pretrained(tmp_path / str(number), model, ImageProcessor(ImageSpec(size=32, channels=3)), tokenizer)
        assert vlp.from_pretrained(tmp_path / str(number))
    assert "checkpoint_path" in LOADERS
