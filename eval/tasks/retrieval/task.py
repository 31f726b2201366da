"""Retrieval, image to text and text to image: several texts of an image, several positives, duplicates, fixed pools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from vlp.core.config import config, to_tree

from ...bootstrap import Resamples
from ...data.checks import check_reports
from ...data.dataset import Data, Findings
from ...drawing import charts
from ...drawing.cards import Card, Chart, Note, Piece, Query, Section
from ...drawing.slices import thumbnail
from ...embeddings import search
from ...intervals import of_mean
from ...metrics.arithmetic import codes, unit
from ...metrics.retrieval import Ranks, Ties, chance_hit, rank_positives
from ...results import TaskResult, metric
from ..base import Context, Outcome, Plan, Task, families, require_any, scores_card, worded, words_of
from .pairs import Ints, Pool, Which, texts_of, values_of

Direction = Literal["image-to-text", "text-to-image"]
SHORT = {"image-to-text": "i2t", "text-to-image": "t2i"}
TITLES = {"i2t": "Image to text", "t2i": "Text to image"}
Floats = NDArray[np.float32]


@config
class Settings:
    """Which pairs, and which answers are right.

    `text`: the report, a section of it, or the captions: each is a text that finds its image, and an image finds any of its
    texts. `distinct`: keep the first record of each value of this group column (`groups.state`), of `patient`, `study` or
    `text`. `size`: how many images, the first ones. `positives`: what else is right besides an image's own texts and equal
    (normalised) ones: all of the same `study`, `patient` or value of a group column; `text`: nothing. `ties`: how equal
    scores count. `pools`: sizes of random galleries in which R@1 is scored too, for comparison with papers. `oracle`: a
    column that an ideal ranker would know.
    """

    text: Which = "report"
    directions: tuple[Direction, ...] = ("image-to-text", "text-to-image")
    k: tuple[PositiveInt, ...] = (1, 5, 10)
    primary_k: int = 10
    distinct: str | None = None
    size: PositiveInt | None = None
    positives: str = "text"
    ties: Ties = "expected"
    pools: tuple[PositiveInt, ...] = ()
    oracle: str | None = None


@dataclass(kw_only=True)
class Pairs(Plan):
    """The pairs that are scored."""

    pool: Pool


@families.register("retrieval")
class Retrieval(Task[Pairs]):
    Config = Settings
    needs = frozenset({"report"})
    compares_samples = True
    titles, meanings = words_of("retrieval")
    unbounded = r".*_median_rank"

    @classmethod
    def title(cls, name: str) -> str:
        direction, _, rest = name.partition("_")
        return (
            f"{TITLES[direction]}, {worded(cls.titles, rest) or rest}" if direction in TITLES else super().title(name)
        )

    @classmethod
    def section(cls, result: TaskResult) -> Section:
        """Return the scores beside a curve of the share of queries answered in the top k, and example queries."""
        ranks = {
            title: [float(row[f"rank_{short}"]) for row in result.rows if f"rank_{short}" in row]
            for short, title in TITLES.items()
        }
        ranks = {title: places for title, places in ranks.items() if places}
        cards = [scores_card(cls, result)]
        if ranks:
            curve = charts.rank_curve(ranks, result.entry["scoring"]["gallery_images"])
            legend = *zip(("k-point", "k-second"), ranks, strict=False), ("", "dashed: chance")
            cards.append(Card("R@k for every k", [Chart(curve, legend)]))
        section = [cards]
        if grid := result.figures.get("grid"):
            words = "Queries drawn at random. Green frame and ✓: right answer; red frame and ✗: wrong. Number: cosine."
            pieces: list[Piece] = [Note(words), *map(Query, grid)]
            section.append([Card("Example queries with their top 5 results", pieces)])
        return section

    def check(self, data: Data) -> Findings:
        return check_reports(data)

    def describe(self) -> dict[str, Any]:
        return {"scoring": to_tree(self.settings)}

    def pool(self, context: Context) -> Pool:
        """Return the pairs that are scored."""
        settings, data = self.settings, context.data
        found = [(index, text) for index in context.usable for text in texts_of(data.records[index], settings.text)]
        require_any([index for index, _ in found], f"a {settings.text}", data)
        repeats = 0
        if settings.distinct:
            values = values_of(data, [index for index, _ in found], [text for _, text in found], settings.distinct)
            holder: dict[str, object] = {}  # of a value: the record that keeps it, of a text the pair
            owners = [pair if settings.distinct == "text" else pair[0] for pair in found]
            kept = [holder.setdefault(value, owner) == owner for value, owner in zip(values, owners, strict=True)]
            repeats = len(set(owners)) - len(set(holder.values()))
            found = [pair for pair, keep in zip(found, kept, strict=True) if keep]
        chosen = set(list(dict.fromkeys(index for index, _ in found))[: settings.size])
        found = [pair for pair in found if pair[0] in chosen]
        indices, texts = [index for index, _ in found], [text for _, text in found]
        spelt = codes(values_of(data, indices, texts, "text"))
        own = settings.positives == "text"
        groups = codes(
            [str(index) for index in indices] if own else values_of(data, indices, texts, settings.positives)
        )
        return Pool(indices, texts, groups, spelt, repeats)

    def plan(self, context: Context) -> Pairs:
        pool = self.pool(context)
        return Pairs(images=pool.images, texts=pool.texts, pool=pool)

    def run(self, context: Context, plan: Pairs) -> Outcome:
        pool, settings = plan.pool, self.settings
        images = unit(context.cache.images(context.data, pool.images)).astype(np.float32)
        texts = unit(context.cache.texts(pool.texts)).astype(np.float32)
        unique = texts[pool.first]
        outcome = Outcome(pool.images, {}, scoring={"ties": settings.ties, "positives": settings.positives})
        outcome.scoring |= {"gallery_images": len(images), "gallery_texts": len(unique), "text": settings.text}
        if without := sum(not texts_of(context.data.records[index], settings.text) for index in context.usable):
            outcome.excluded[f"records without a {settings.text}"] = without
        if settings.distinct:
            outcome.scoring |= {"distinct": settings.distinct, "repeats_left_out": pool.repeats}
        rows = [context.row(index) for index in pool.indices]  # an image asks once, in the row of its first text
        of_groups = pool.groups[pool.starts]
        for direction in settings.directions:
            short = SHORT[direction]
            if direction == "image-to-text":
                queries, gallery, asked, (members, groups) = images, unique, of_groups, pool.held
                asking = [rows[at] for at in pool.starts]
                drawn = context.draw(pool.images)
            else:
                queries, gallery, asked, (members, groups) = texts, images, pool.spelt, pool.texts_of_images()
                asking, drawn = rows, context.draw(pool.indices)
            ranks = self._score(outcome, short, (queries, gallery, asked, groups, members), drawn)
            for row, place in zip(asking, ranks.rank(settings.ties), strict=True):
                row |= {f"rank_{short}": float(place), f"{short}_mrr": float(1 / place)}
            for k in settings.k:  # a rank among ties does not say them
                for row, hit in zip(asking, ranks.hits(k, settings.ties), strict=True):
                    row[f"{short}_r@{k}"] = float(hit)
            for size in settings.pools:
                if size < len(images):
                    pooled = self._pooled(images, texts, pool, direction, size, context.seed)
                    outcome.metrics[f"{short}_r@1_pool_{size}"] = pooled
        outcome.rows = rows
        self._oracle(context, outcome, pool)
        if context.draw_images:
            outcome.figures = self._figures(context, pool, images, texts)
        if len(unique) < len(texts):
            outcome.warnings.append(f"{len(texts) - len(unique)} texts repeat another one; equal texts count as right")
        return outcome

    def _score(
        self, outcome: Outcome, short: str, sides: tuple[Floats, Floats, Ints, Ints, Ints], drawn: Resamples
    ) -> Ranks:
        """Enter R@k, ranks, and true recall where a query has several positives; return the ranks of the queries."""
        queries, gallery, asked, groups, members = sides
        ties, ks, ranks = self.settings.ties, self.settings.k, search.rank(*sides)
        facts: dict[str, Any] = {"n_queries": len(ranks)}
        for k in ks:
            hits, chance = ranks.hits(k, ties), chance_hit(len(gallery), ranks.positives, k)
            facts_of_k = {"primary": k == self.settings.primary_k, **facts, "gallery": len(gallery)}
            entry = metric(float(hits.mean()), of_mean(hits, drawn), chance=chance, **facts_of_k)
            outcome.metrics[f"{short}_r@{k}"] = entry
        places = ranks.rank(ties)
        outcome.metrics[f"{short}_median_rank"] = metric(float(np.median(places)), higher_is_better=False)
        outcome.metrics[f"{short}_mrr"] = metric(float((1 / places).mean()), of_mean(1 / places, drawn))
        several = ranks.positives > 1
        if several.any():  # the share of a query's positives among the first k
            counts = search.found(queries[several], gallery, asked[several], groups, ks, ties, members)
            for at, k in enumerate(ks):
                shares, chance = ranks.hits(k, ties), min(1.0, k / len(gallery))
                shares[several] = counts[:, at] / ranks.positives[several]
                entry = metric(float(shares.mean()), of_mean(shares, drawn), chance=chance, **facts)
                outcome.metrics[f"{short}_recall@{k}"] = entry
        return ranks

    def _pooled(
        self, images: Floats, texts: Floats, pool: Pool, direction: Direction, size: int, seed: int, draws: int = 100
    ) -> dict[str, Any]:
        """Score R@1 in random galleries of a fixed size, a text of each image: many draws, mean and the spread over draws."""
        rng, of_texts = np.random.default_rng(seed), np.random.default_rng([seed, 1])
        values = []
        for _ in range(draws):
            chosen = rng.choice(len(images), size, replace=False)
            said = pool.starts[chosen] + of_texts.integers(pool.counts[chosen])
            queries, gallery, same = images[chosen], texts[said], pool.right(chosen, said)
            if direction == "text-to-image":
                queries, gallery, same = gallery, queries, same.T
            ranks = rank_positives(queries @ gallery.T, same)
            values.append(float(ranks.hits(1, self.settings.ties).mean()))
        return metric(float(np.mean(values)), chance=1 / size, draws=draws, std=float(np.std(values)), gallery=size)

    def _oracle(self, context: Context, outcome: Outcome, pool: Pool) -> None:
        """Add what a ranker that knows the column `oracle` would score: it ties whatever agrees in it."""
        if not self.settings.oracle:
            return
        known = codes(values_of(context.data, pool.indices, pool.texts, self.settings.oracle))
        agree = (known[pool.starts, None] == known).astype(np.float32)
        same = pool.right(np.arange(len(pool.images)), np.arange(len(pool.texts)))
        for direction in self.settings.directions:
            turned = direction == "text-to-image"
            ranks = rank_positives(*(table.T if turned else table for table in (agree, same)))
            for k in self.settings.k:
                outcome.metrics[f"{SHORT[direction]}_r@{k}"]["oracle"] = float(ranks.hits(k, self.settings.ties).mean())

    def _figures(
        self, context: Context, pool: Pool, images: Floats, texts: Floats, count: int = 3, k: int = 5
    ) -> dict[str, Any]:
        """Return a few queries of each direction with their first k answers; which ones depends on the pool alone."""
        rng = np.random.default_rng(context.seed)
        chosen = np.sort(rng.choice(len(images), min(count, len(images)), replace=False))
        figures: dict[str, Any] = {"grid": []}
        for direction in self.settings.directions:
            forward = direction == "image-to-text"
            asking = chosen if forward else pool.starts[chosen]
            queries, gallery = (images, texts) if forward else (texts, images)
            rows, scores = search.top(queries[asking], gallery, k)
            for place, query in enumerate(asking):
                sides = (query[None], rows[place]) if forward else (rows[place], query[None])
                right = pool.right(*sides).ravel()
                answers = [
                    {"score": float(scores[place, at]), "right": bool(right[at])}
                    | self._pair(context, pool, row, not forward)
                    for at, row in enumerate(rows[place])
                ]
                asked = self._pair(context, pool, query, forward)
                figures["grid"].append({"direction": direction, **asked, "answers": answers})
        return figures

    @staticmethod
    def _pair(context: Context, pool: Pool, at: int, is_image: bool) -> dict[str, Any]:
        """Return what a figure shows of an image with its first text, or of a text with its image."""
        text = int(pool.starts[at]) if is_image else at
        shown = pool.texts[text] if context.show_text else None
        return {"image": thumbnail(context.data.image(pool.indices[text])), "text": shown}
