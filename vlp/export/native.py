"""Our own format: everything, for `vlp.from_pretrained`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .base import Embeddings, Exporter, Images, Texts, exporters

if TYPE_CHECKING:
    from vlp.hub import Pretrained


@exporters.register("vlp")
class NativeExporter(Exporter):
    """The model as `save_pretrained` writes it."""

    summary = (
        "everything, also the heads for patches and words and what objectives learnt; loads with vlp.from_pretrained"
    )
    library = "vlp"
    decodes_files = True
    volumes = True
    usage = """import vlp

model = vlp.from_pretrained("{repo}")
labels = ["there is a nodule", "there is no nodule"]
scores = model.embed_images(["{file}"]) @ model.embed_texts(labels).T
print(labels[int(scores[0].argmax())])
heat = model.heatmap("{file}", "nodule")  # on the file's own pixels or voxels"""

    def write(self, loaded: Pretrained, folder: Path, approximate: bool) -> list[str]:
        from vlp.hub import save_pretrained

        save_pretrained(
            folder, loaded.model, loaded.preprocess, loaded.tokenizer, loaded.config.get("extra"),
            objectives=loaded.objectives, others=loaded.others,
        )  # fmt: skip
        return []

    def load(self, source: str, images: Images, texts: Texts, trust: Texts = ()) -> Embeddings:
        from vlp.hub import from_pretrained

        return self.expected(from_pretrained(source, trust), images, texts)
