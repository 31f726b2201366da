"""A format of one's own in one file: a table of text embeddings in numpy's own format."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vlp.export import Exporter, exporters
from vlp.hub import Pretrained


@exporters.register("toy")
class ToyExporter(Exporter):
    """The text tower's embeddings of known sentences, looked up; nothing else."""

    summary = "embeddings of the probes, as a table"
    library = "numpy"
    usage = 'import numpy\n\ntable = numpy.load("{repo}/texts.npy")'

    def write(self, loaded: Pretrained, folder: Path, approximate: bool) -> list[str]:
        from vlp.export.verify import probe_texts

        np.save(folder / "texts.npy", loaded.embed_texts(probe_texts(loaded)).numpy())
        return ["a table of known texts"]

    def load(
        self, source: str, images: Sequence[np.ndarray], texts: Sequence[str], trust: Sequence[str] = ()
    ) -> dict[str, np.ndarray]:
        return {"texts": np.load(Path(source) / "texts.npy")[: len(texts)]}
