"""Do the shards hold what the objectives will read? Asked before the first step of the first samples of the stream.

An objective on mentions would train on nothing, in silence, where the shards have none: an empty batch of mentions is
legitimate, a data set without any is a mistake.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from vlp.core.config import ConfigError
from vlp.needs import Need

from .pipe_stream import ADJACENT, PipeStream
from .shards.foreign.members import CAPTION_MEMBERS, TEXT_MEMBERS
from .shards.sample_io import SampleError
from .stream import Stream

log = logging.getLogger(__name__)

ASKED = 256
"""Samples that are looked at before something counts as missing; the first that has it ends the search."""


def check_texts(stream: Stream | PipeStream) -> None:
    """Raise ConfigError where no sample has a text; say in the log how many have none. Of a pipe the first are asked."""
    if isinstance(stream, PipeStream):
        if not stream.has_texts(ASKED):
            raise ConfigError(
                f"data.train: none of the first {ASKED} samples of the stream has a text, and the objectives need texts. "
                f"{ADJACENT}"
            )
        return
    if not stream.without_text:
        return
    manifests = [source.shards.manifest for source in stream.sources]
    if stream.without_text < stream.samples:
        log.warning(
            "%d of %d training samples have no text: they train as images without one, left out of every objective that "
            "needs a text (vlp-prep index says which members are there)",
            stream.without_text,
            stream.samples,
        )
        return
    members = sorted({name for manifest in manifests for name in manifest.columns(0).extensions})
    raise ConfigError(
        f"data.train: none of the {stream.samples} samples has a text, and the objectives need texts. Members that are "
        f"there: {', '.join(members)}. A text is read from a member {', '.join((*TEXT_MEMBERS, *CAPTION_MEMBERS))}, from "
        "fields of these names of a json, or from the member or field that you name: vlp-prep index FOLDER --text NAME"
    )


def check_content(stream: Stream, needs: Iterable[Need]) -> None:
    """Raise ConfigError naming the first thing that none of the stream's first samples holds, and how to get it."""
    missing = [need for need in needs if need.holds()]
    stated: set[str] = set()
    codes: set[str] = set()
    looked = 0
    for position in range(min(ASKED, stream.samples)):
        if not missing:
            return
        draw = stream.plan.draw(position)
        try:
            sample = stream.sources[draw.source].shards.record(draw.index)
        except SampleError:
            continue
        looked += 1
        stated.update(sample.labels)
        codes.update(mention.code for mention in sample.concepts)
        missing = [need for need in missing if not need.is_in(sample)]
    if missing and looked:
        first = missing[0]
        there = f"; labels there: {_some(stated)}; codes of concepts there: {_some(codes)}"
        raise ConfigError(
            f"data.train: an objective needs {first.name}, and none of the first {looked} samples holds {first.holds()}{there}"
        )


def _some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:20]) or "none"
