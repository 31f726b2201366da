"""open_clip's format: `open_clip_config.json`, `open_clip_model.safetensors`, and tokenizer files beside them.

A transformers text tower is rebuilt by open_clip from a configuration that it looks up by name, and a relative path would be
relative to the user's own folder. So the name is the repository when pushed, an absolute path when local; after a move,
`set_paths.py` in the folder corrects it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlp.core.errors import UnsupportedByFormat

from . import hf_processor
from .base import Embeddings, Exporter, Images, Texts, exporters, log_scale

if TYPE_CHECKING:
    from torch import Tensor

    from vlp.hub import Pretrained
    from vlp.modalities.image.spec import ImageSpec
    from vlp.models.towers.base import OpenClipForm

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
SET_PATHS = "set_paths.py"
SCRIPT = f'''"""Run this after moving the folder: open_clip finds the text tower's configuration by an absolute path only."""

import json
import pathlib

here = pathlib.Path(__file__).resolve().parent
tree = json.loads((here / "{CONFIG}").read_text(encoding="utf-8"))
for key in {{"hf_model_name", "hf_tokenizer_name"}} & set(tree["model_cfg"]["text_cfg"]):
    tree["model_cfg"]["text_cfg"][key] = str(here)
(here / "{CONFIG}").write_text(json.dumps(tree, indent=2) + "\\n", encoding="utf-8")
'''


@exporters.register("open_clip")
class OpenClipExporter(Exporter):
    """Towers that open_clip builds, behind its own preprocessing and tokenizers."""

    summary = "loads with open_clip.create_model_and_transforms('local-dir:...' or 'hf-hub:...')"
    library = "open_clip"
    usage = """import open_clip

model, _, preprocess = open_clip.create_model_and_transforms("hf-hub:{repo}")  # or local-dir:/path/to/folder
tokenizer = open_clip.get_tokenizer("hf-hub:{repo}")"""

    def write(self, loaded: Pretrained, folder: Path, approximate: bool) -> list[str]:
        import torch
        from safetensors.torch import save_file

        model, spec = loaded.model, loaded.preprocess.spec
        self.require_plain_image(model)
        image = model.image_tower.as_open_clip(model.config.image_head, model.dim)
        text = model.text_tower.as_open_clip(model.config.text_head, model.dim)
        config = {
            "embed_dim": model.dim,
            "vision_cfg": image.config,
            "text_cfg": text_config(loaded, text),
            **shared_settings(image, text),
        }
        state: dict[str, Tensor] = {"logit_scale": torch.tensor(log_scale(model))}
        for part, form, head in (("visual", image, model.image_head), ("text", text, model.text_head)):
            state |= {f"{part}.{name}": value for name, value in form.state.items()}
            state |= {f"{part}.{form.head}{name}": value for name, value in head.state_dict().items()}
        if model.logit_bias is not None:
            config["init_logit_bias"] = 0.0
            state["logit_bias"] = model.logit_bias.detach().reshape(())
        config["custom_text"] = True
        tree = {"model_cfg": config, "preprocess_cfg": preprocess_config(spec, approximate)}
        save_file({name: value.detach().contiguous().clone() for name, value in state.items()}, str(folder / WEIGHTS))
        (folder / CONFIG).write_text(json.dumps(tree), encoding="utf-8")
        files = dict(text.files)
        if "hf_tokenizer_name" in config["text_cfg"]:
            files |= loaded.tokenizer.files()
        for name, content in (files | self.path_dependent_files(folder, None)).items():
            (folder / name).write_bytes(content)
        notes = self.without_local_heads(loaded)
        if text.files:
            (folder / SET_PATHS).write_text(SCRIPT, encoding="utf-8")
            notes.append(
                "open_clip looks up the text tower's configuration where the folder was written: run "
                f"{SET_PATHS} after moving it"
            )
        return notes + hf_processor.colours(spec, "open_clip")

    def path_dependent_files(self, folder: Path, repository: str | None) -> dict[str, bytes]:
        tree = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        text = tree["model_cfg"]["text_cfg"]
        for key in {"hf_model_name", "hf_tokenizer_name"} & set(text):
            text[key] = repository or str(folder.resolve())
        return {CONFIG: (json.dumps(tree, indent=2) + "\n").encode()}

    def load(self, source: str, images: Images, texts: Texts, trust: Texts = ()) -> Embeddings:
        import open_clip
        import torch
        from PIL import Image

        from vlp.core.trust import never_asking

        name = f"local-dir:{source}" if Path(source).is_dir() else f"hf-hub:{source}"
        with never_asking():
            model, _, preprocess = open_clip.create_model_and_transforms(name)
            tokenizer = open_clip.get_tokenizer(name)
        model.eval()
        with torch.no_grad():
            pixels = torch.stack([preprocess(Image.fromarray(image)) for image in images])
            return {
                "images": model.encode_image(pixels, normalize=True).numpy(),
                "texts": model.encode_text(tokenizer(list(texts)), normalize=True).numpy(),
            }


def text_config(loaded: Pretrained, form: OpenClipForm) -> dict[str, Any]:
    """Return the `text_cfg` with its tokenizer; raises UnsupportedByFormat for one that open_clip does not read."""
    tower, tokenizer = loaded.model.text_tower, loaded.tokenizer
    if tokenizer.kind == "open_clip" and not form.files:
        return form.config
    if tokenizer.kind != "hf":
        raise UnsupportedByFormat(
            f"open_clip reads its own byte pairs and Hugging Face tokenizers, not {tokenizer.kind!r}: export with --format vlp"
        )
    return {
        **form.config,
        **({"hf_model_name": ""} if form.files else {}),
        "hf_tokenizer_name": "",
        "context_length": tokenizer.length,
        "vocab_size": tower.vocab_size,
    }


def shared_settings(image: OpenClipForm, text: OpenClipForm) -> dict[str, Any]:
    """Return the settings of the whole model (`quick_gelu`); raises UnsupportedByFormat where its towers differ."""
    for name in image.shared.keys() & text.shared.keys():
        if image.shared[name] != text.shared[name]:
            raise UnsupportedByFormat(
                f"open_clip has one {name} for both towers, here they differ: export with --format vlp"
            )
    return {name: value for name, value in {**image.shared, **text.shared}.items() if value}


def preprocess_config(spec: ImageSpec, approximate: bool) -> dict[str, Any]:
    """Return open_clip's `preprocess_cfg`; raises UnsupportedByFormat for what it has no words for."""
    hf_processor.require_interpolation(spec, "open_clip", approximate)
    modes = {"pad": "longest", "crop": "shortest", "squash": "squash"}
    if spec.crop_share != 1.0:
        raise UnsupportedByFormat(
            "open_clip has no image.crop_share (it crops at the model's own size): export with --format vlp"
        )
    return {
        "size": spec.size,
        "mode": "RGB",
        "mean": list(spec.mean * 3 if len(spec.mean) == 1 else spec.mean),
        "std": list(spec.std * 3 if len(spec.std) == 1 else spec.std),
        "interpolation": "bilinear" if spec.interpolation == "bilinear" else "bicubic",
        "resize_mode": modes[spec.resize],
        "fill_color": spec.pad_value,
    }
