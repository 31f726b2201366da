"""Row 8: the zero-shot harness beside open_clip's own functions: class prompts, retrieval metrics, and images.

Prompts: 14 findings in 2 wordings through the towers of row 6 (texts of at most 256 tokens), the same weights on both
sides. Retrieval: both directions of R@k on embeddings that are there. Images: the harness from JPEG bytes to stored rows,
beside the bare image tower on a batch that is there.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import numpy as np
import torch

from ..evaluation import rates
from ..options import Options
from ..result import Result, compare, cpu_ms, interleave
from .training import EMBED, TEXT, build_step, open_clip_tokenizer, towers

FINDINGS = (
    *("atelectasis", "cardiomegaly", "consolidation", "edema", "enlarged cardiomediastinum", "fracture", "lung lesion"),
    *(
        "lung opacity",
        "no finding",
        "pleural effusion",
        "pleural thickening",
        "pneumonia",
        "pneumothorax",
        "support devices",
    ),
)
TEMPLATES = ("a chest radiograph with {}.", "findings consistent with {}.")


def run(options: Options) -> Iterator[Result]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield prompts(options)
    yield retrieval(500 if options.quick else 4000, options)
    torch.set_num_threads(threads)
    for name in ("ViT-B-16", "ViT-B-32"):  # BiomedCLIP's tower, and a lighter one
        bare, whole = rates(f"open_clip:{name}", 32 if options.quick else 64, 320, options.repeats)
        yield compare("8", f"images/s, JPEG of 320 px to stored embeddings, {name}", "the bare tower on a resident batch",
                      "/s", whole, bare, 0.95, more_is_better=True)  # fmt: skip


def prompts(options: Options) -> Result:
    from open_clip import build_zero_shot_classifier, get_tokenizer
    from open_clip.model import CustomTextCLIP

    from vlp.hub import save_pretrained
    from vlp.modalities.image.processor import ImageProcessor
    from vlp.modalities.image.spec import ImageSpec
    from vlp_eval.models.load import load

    model = build_step().model.eval()
    folder = options.work / "model"
    folder.mkdir()
    save_pretrained(folder, model, ImageProcessor(ImageSpec(size=224)), open_clip_tokenizer(), {})
    embedder = load(str(folder), "cpu")
    tree = towers()
    peer = CustomTextCLIP(EMBED, tree["vision_cfg"], tree["text_cfg"]).eval()
    peer.text.load_state_dict(model.text_tower.model.state_dict())
    tokenize = get_tokenizer("ViT-B-32", context_length=TEXT["context_length"])
    found: dict[str, np.ndarray] = {}

    def ours() -> None:
        rows = embedder.encode("text", [template.format(name) for name in FINDINGS for template in TEMPLATES])["text"]
        rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).reshape(len(FINDINGS), len(TEMPLATES), -1).mean(1)
        found["ours"] = rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def theirs() -> None:
        found["peer"] = build_zero_shot_classifier(peer, tokenize, FINDINGS, TEMPLATES).T.numpy()

    times = interleave({"ours": lambda: cpu_ms(ours) / 1000, "peer": lambda: cpu_ms(theirs) / 1000}, options.repeats)
    error = float(np.abs(found["ours"] - found["peer"]).max())
    if error > 1e-4:
        raise AssertionError(f"the class embeddings differ by {error:g}")
    return compare("8", f"embeddings of {len(FINDINGS)} classes in {len(TEMPLATES)} wordings, CPU",
                   "open_clip's build_zero_shot_classifier", "s", times["ours"], times["peer"], 5.0,
                   note=f"they differ by {error:.0e}")  # fmt: skip


def retrieval(pairs: int, options: Options) -> Result:
    from open_clip_train.train import get_clip_metrics

    from vlp_eval.embeddings.search import rank

    rng = np.random.default_rng(0)
    text = rng.standard_normal((pairs, 256)).astype(np.float32)
    image = text + 3 * rng.standard_normal((pairs, 256)).astype(np.float32)
    text, image = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (text, image))
    group = np.arange(pairs)
    recalls: dict[str, list[float]] = {}

    def ours() -> None:
        both = [rank(one, other, group, group) for one, other in ((image, text), (text, image))]
        recalls["ours"] = [float(one.hits(10, "index").mean()) for one in both]

    def theirs() -> None:
        metrics = get_clip_metrics(torch.from_numpy(image), torch.from_numpy(text), torch.tensor(1.0))
        recalls["peer"] = [float(metrics[f"{name}_R@10"]) for name in ("image_to_text", "text_to_image")]

    times = interleave({"ours": lambda: cpu_ms(ours) / 1000, "peer": lambda: cpu_ms(theirs) / 1000}, options.repeats)
    if not np.allclose(recalls["ours"], recalls["peer"], atol=1.5 / pairs):
        raise AssertionError(f"the recalls differ: {recalls}")
    note = f"R@10 {statistics.mean(recalls['ours']):.4f} on both"
    return compare("8", f"retrieval metrics of {pairs:,} pairs, both directions, CPU", "open_clip_train's get_clip_metrics",
                   "s", times["ours"], times["peer"], 5.0, note=note)  # fmt: skip
