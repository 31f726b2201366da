"""The model card: front matter that the Hub understands, what the model was made of, its scores, its limits.

Built from configurations and counts alone. Nothing of a report or a patient goes in: no texts, no keys, no local paths.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from vlp.core.config import ConfigError, read_yaml
from vlp.core.untrusted import MAX_TEXT, read_object, read_text
from vlp.core.version import __version__
from vlp.modalities.text.tokenizers.base import LEFT_OUT

from .base import Exporter

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from vlp.hub import Pretrained

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")


def render(
    loaded: Pretrained, source: Path, exporter: Exporter, notes: Iterable[str], *,
    name: str | None, licence: str, results: Iterable[Path], repository: str,
) -> str:  # fmt: skip
    """Return the card as Markdown with YAML front matter.

    `source` is the checkpoint's folder, `repository` where the model will be; without `results`, those in the run's folder.
    """
    from huggingface_hub import ModelCardData
    from jinja2 import Environment, StrictUndefined

    recipe = read_yaml(source / "recipe.yaml") if (source / "recipe.yaml").is_file() else {}
    name = name or str(recipe.get("name") or repository.rpartition("/")[2])
    scored = [_results(path) for path in results] or _near(source, loaded)
    metrics = eval_results(scored)
    front = ModelCardData(
        license=licence,
        library_name=exporter.library,
        pipeline_tag=exporter.pipeline_tag,
        tags=["medical", "radiology", "vision-language", "vlp", exporter.name],
        base_model=sorted(set(base_models(recipe))) or None,
        model_name=name if metrics else None,
        eval_results=metrics or None,
    )
    primary, others = score_rows(scored)
    is_image = loaded.model.image_tower.takes == "image"
    templates = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined)
    return templates.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        front=front.to_yaml(),
        name=name,
        version=__version__,
        usage=exporter.usage.format(repo=repository, file="image.png" if is_image else "scan.nii.gz"),
        is_image=is_image,
        decodes_files=exporter.decodes_files,
        about=describe(loaded),
        notes=list(notes),
        primary=primary,
        others=others,
        training_data=training_data(recipe),
        recipe=yaml.safe_dump(without_paths(recipe), sort_keys=False).rstrip(),
        papers=papers(recipe),
    )


def _near(source: Path, loaded: Pretrained) -> list[dict[str, Any]]:
    """Return the results in the run's own folder that scored this very step."""
    folder = source.resolve()
    run = folder.parent.parent if folder.parent.name == "checkpoints" else folder
    step = loaded.config.get("extra", {}).get("step")
    found = [_results(path) for path in (*sorted(run.glob("*/results.json")), *sorted(run.glob("results.json")))]
    return [tree for tree in found if step is not None and tree["model"].get("step") == step]


def _results(path: Path) -> dict[str, Any]:
    tree = read_object(path, MAX_TEXT)
    if "tasks" not in tree:
        raise ConfigError(f"--results: {path} is no results file of vlp-eval")
    return tree


def describe(loaded: Pretrained) -> list[str]:
    """Return the model's size and make in sentences."""
    model, tree = loaded.model, loaded.config["model"]
    image, text = (
        tower.get("name") or (tower.get("config") or {}).get("model_type") or tower["kind"]
        for tower in (tree["image"], tree["text"])
    )
    trained = loaded.tokenizer.trained  # pieces that are learnt from reports could hold patients
    origin = LEFT_OUT.format(**trained) if trained else "with no record of how it was trained"
    return [
        f"image tower {image}, text tower {text}, joint width {model.dim}",
        f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f} million parameters",
        f"{loaded.preprocess.describe()}; preprocessing {loaded.preprocess.fingerprint}",
        f"texts: up to {loaded.tokenizer.length} tokens of {loaded.tokenizer.vocab_size}; "
        f"tokenizer {loaded.tokenizer.fingerprint}, {origin}",
        f"weights sha256 {loaded.config['weights_sha256']}",
    ]


def base_models(recipe: Mapping[str, Any]) -> Iterable[str]:
    """Yield the Hub names that the recipe's weights came from; open_clip's tags by the repository behind them."""
    model = recipe.get("model") or {}
    for tree in (model, model.get("image") or {}, model.get("text") or {}):
        for key in ("pretrained", "path"):
            given = str(tree.get(key) or "")
            kind, _, name = given.partition(":")
            if kind == "open_clip":
                from open_clip.pretrained import get_pretrained_cfg

                architecture, _, tag = name.partition("/")
                kind, name = "hf", str(get_pretrained_cfg(architecture, tag).get("hf_hub", ""))
            elif key == "path" and not name and is_cached(given):
                kind, name = "hf", given
            if kind == "hf" and "/" in name:
                yield "/".join(name.split("/")[:2])


def is_cached(name: str) -> bool:
    """Return whether a tower's `path` is a Hub name: no folder here, and in the local cache, where training found it."""
    from huggingface_hub import try_to_load_from_cache

    if name.count("/") != 1 or name.startswith(("/", ".", "~")) or Path(name).exists():
        return False
    return isinstance(try_to_load_from_cache(name, "config.json"), str)


def eval_results(results: Iterable[Mapping[str, Any]]) -> list[EvalResult]:
    """Return the primary metrics for the Hub's `model-index`, with their interval, n and the hashes of data and prompts."""
    from huggingface_hub import EvalResult

    found = []
    for task, key, metric in defined_metrics(results):
        if metric["value"] is not None and (metric.get("primary") or len(task["metrics"]) == 1):
            data = task["data"]
            args = {
                "ci": metric.get("ci"),
                "n": metric.get("n", data["n"]),
                "ids_sha256": data["ids_sha256"],
                "task_sha256": task["config_sha256"],
            }
            found.append(
                EvalResult(
                    task_type=task["family"], task_name=task["id"], dataset_type=data["name"], dataset_name=data["name"],
                    dataset_split=data["split"] or "all", metric_type=key, metric_name=key, metric_value=metric["value"],
                    metric_args=args,
                )
            )  # fmt: skip
    return found


def defined_metrics(results: Iterable[Mapping[str, Any]]) -> Iterator[tuple[dict[str, Any], str, dict[str, Any]]]:
    """Yield task, name and metric of every task that ran."""
    for tree in results:
        for task in tree["tasks"]:
            if task.get("status") == "ok":
                for key, metric in task["metrics"].items():
                    yield task, key, metric


def score_rows(results: Iterable[Mapping[str, Any]]) -> tuple[list[list[str]], list[list[str]]]:
    """Return the cells of the tables of scores, primary metrics and others; undefined ones with their reason."""
    primary: list[list[str]] = []
    others: list[list[str]] = []
    for task, key, metric in defined_metrics(results):
        value, interval = metric["value"], metric.get("ci")
        shown = f"{value:.3f}" if value is not None else f"undefined: {metric.get('reason', '')}"
        between = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
        chance = f"{metric['chance']:.3f}" if metric.get("chance") is not None else ""
        rows = primary if metric.get("primary") else others
        rows.append([task["id"], key, shown, between, chance, str(metric.get("n", task["data"]["n"]))])
    return primary, others


def papers(recipe: Mapping[str, Any]) -> list[str]:
    """Return what to cite for the recipe's objectives: the second paragraph of such a module is its source."""
    import sys

    from .. import objectives

    lines = []
    for objective in recipe.get("objectives") or []:
        kind = str(objective.get("kind") if isinstance(objective, Mapping) else objective)
        if kind in objectives.objectives:
            text = sys.modules[objectives.objectives.get(kind).__module__].__doc__ or ""
            lines += [f"- `{kind}`: {' '.join(part.split())}" for part in text.split("\n\n")[1:2]]
    return lines


def training_data(recipe: Mapping[str, Any]) -> str:
    """Return the training sets' names, licences and digests, from the cards beside their shards."""
    train = (recipe.get("data") or {}).get("train") or []
    sources = [train] if isinstance(train, str) else train
    lines = []
    for source in sources:
        folder = Path(str(source["path"] if isinstance(source, Mapping) else source))
        card = folder / "README.md"
        text = read_text(card) if card.is_file() else ""
        title = next((line[2:] for line in text.splitlines() if line.startswith("# ")), folder.name)
        licence = next((line for line in text.splitlines() if line.startswith("**Licence:**")), "")
        lines.append(f"- {title}{'. ' + licence if licence else ''}")
    return "\n".join(lines)


def without_paths(tree: Any) -> Any:
    """Return a recipe with every absolute path cut to its last part: where the files were is private."""
    if isinstance(tree, Mapping):
        return {key: without_paths(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [without_paths(value) for value in tree]
    if isinstance(tree, str) and ("\\" in tree or tree.startswith(("/", "~", ".."))):
        return Path(tree.replace("\\", "/")).name
    return tree
