"""Both towers with their heads as ONNX: `image.onnx` and `text.onnx`, dynamic batch and text length, unit-length embeddings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vlp.batch import Tokens
from vlp.core.config import ConfigError
from vlp.core.untrusted import read_json

from .base import Embeddings, Exporter, Images, Texts, exporters

if TYPE_CHECKING:
    from vlp.hub import Pretrained


@exporters.register("onnx")
class OnnxExporter(Exporter):
    """Two graphs, which PyTorch traces: any tower that it can follow."""

    summary = "both towers with their heads, dynamic batch and text length"
    library = "onnx"
    tolerance = 1e-4
    volumes = True
    usage = """import onnxruntime

image = onnxruntime.InferenceSession("image.onnx")  # pixels: float32 [B, C, S, S], normalised as preprocess.json says
# (of a model of volumes: HU [B, 1, D, H, W], of the spacing and size that it says)
text = onnxruntime.InferenceSession("text.onnx")  # ids, mask: int64 [B, L], from tokenizer/
# config.json holds logit_scale (a logarithm) and logit_bias: logits are exp(logit_scale) * cosine + logit_bias"""

    def write(self, loaded: Pretrained, folder: Path, approximate: bool) -> list[str]:
        """Write the graphs, the preprocessing and the tokenizer; raises ConfigError when PyTorch cannot follow a tower."""
        import copy
        import warnings

        import torch
        from torch import Tensor, nn

        try:
            import onnx  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError:
            raise ConfigError("--format onnx needs onnx and onnxscript: install vlp with the extra `onnx`") from None
        model = copy.deepcopy(loaded.model).eval()
        for tower in (model.image_tower, model.text_tower):
            tower.disable_attention_capture()

        class Image(nn.Module):
            def forward(self, pixels: Tensor) -> Tensor:
                return nn.functional.normalize(model.encode_image(pixels), dim=1)

        class Text(nn.Module):
            def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
                return nn.functional.normalize(model.encode_text(Tokens(ids=ids, mask=mask.bool(), words=ids)), dim=1)

        batch, length = torch.export.Dim("batch"), torch.export.Dim("length", min=2, max=loaded.tokenizer.length)
        channels, example = model.image_tower.channels, loaded.preprocess.example()
        if model.image_tower.takes == "image":
            example = torch.zeros(1, channels, *example.shape[2:])
        ids = loaded.tokenizer(["a nodule in the left lung", "no effusion"]).tokens.ids
        axes = {0: batch, 1: length}
        graphs = {
            "image": (Image(), {"pixels": torch.cat([example, example])}, ({0: batch},)),
            "text": (Text(), {"ids": ids, "mask": torch.ones_like(ids)}, (axes, axes)),
        }
        for name, (module, inputs, dynamic) in graphs.items():
            module.model = model
            try:
                with warnings.catch_warnings(), torch.no_grad():
                    warnings.simplefilter("ignore")
                    program = torch.onnx.export(
                        module.eval(), tuple(inputs.values()), dynamo=True, input_names=list(inputs),
                        output_names=["embeddings"], dynamic_shapes=dynamic, verbose=False,
                    )  # fmt: skip
            except Exception as error:
                reason = str(error).strip().splitlines()[0]
                raise ConfigError(f"the ONNX exporter cannot follow the {name} tower: {reason[:200]}") from None
            assert program is not None
            program.save(str(folder / f"{name}.onnx"), external_data=False)
        loaded.preprocess.save(folder)
        loaded.tokenizer.save(folder / "tokenizer")
        learnt = {"logit_scale": model.logit_scale, "logit_bias": model.logit_bias}
        record = {
            "format": "vlp-onnx-1",
            "channels": channels,
            "dim": model.dim,
            **{name: None if value is None else float(value.detach()) for name, value in learnt.items()},
        }
        (folder / "config.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        return ["embeddings have unit length; patches and words are left out"]

    def load(self, source: str, images: Images, texts: Texts, trust: Texts = ()) -> Embeddings:
        """Embed with onnxruntime alone; one text at a time and all together, to try both dynamic axes."""
        import onnxruntime

        from vlp.hub import locate
        from vlp.modalities.kinds import load_processor
        from vlp.modalities.text.tokenizers.load import load_tokenizer

        folder = locate(source)
        preprocess, tokenizer = load_processor(folder), load_tokenizer(folder / "tokenizer", trust)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        image, text = (
            onnxruntime.InferenceSession(str(folder / f"{name}.onnx"), options) for name in ("image", "text")
        )

        def embed(group: Texts) -> np.ndarray:
            tokens = tokenizer(list(group)).tokens
            inputs = {"ids": tokens.ids.numpy(), "mask": tokens.mask.numpy().astype(np.int64)}
            return np.asarray(text.run(None, inputs)[0])

        together = embed(texts)
        if not np.allclose(np.concatenate([embed([sentence]) for sentence in texts]), together, atol=1e-4):
            raise ValueError("texts mean something else alone than in a padded batch")
        pixels = preprocess.batch([preprocess.native(image) for image in images]).numpy().astype(np.float32)
        if pixels.ndim == 5:  # a volume's windows are in the graph
            return {"images": image.run(None, {"pixels": pixels})[0], "texts": together}
        channels, spec = read_json(folder / "config.json")["channels"], preprocess.spec
        mean, std = (np.array(values, np.float32).reshape(1, -1, 1, 1) for values in (spec.mean, spec.std))
        normal = ((np.repeat(pixels / 255, channels // pixels.shape[1], 1) - mean) / std).astype(np.float32)
        return {"images": image.run(None, {"pixels": normal})[0], "texts": together}
