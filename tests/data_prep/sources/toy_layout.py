"""A toy layout: pictures named `<patient>-<finding>.png`. All that a source has to say, in one file."""

from collections.abc import Iterator

from vlp.sample import Sample
from vlp_prep.sources.base import Record, Reject, Source, sources


@sources.register("toy_layout")
class ToyLayout(Source):
    name = "toy_layout"
    licence = "CC0-1.0"
    modality = "CR"

    def records(self) -> Iterator[Record]:
        for path in sorted(self.raw.glob("*.png")):
            yield Record(key=path.stem, patient=path.stem.partition("-")[0], data={"file": path.name})

    def sample(self, record: Record) -> Sample:
        finding = record.key.partition("-")[2]
        if not finding:
            raise Reject("bad_label", "the name says no finding")
        image = self.image(record.data["file"])
        return self.sample_of(record, image, report=f"There is {finding}.", labels={finding: 1})
