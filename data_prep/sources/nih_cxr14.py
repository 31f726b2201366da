"""NIH ChestX-ray14: 112,120 frontal radiographs with 14 labels mined from reports, boxes for 880 of them.

Layout: `Data_Entry_2017_v2020.csv` (or `Data_Entry_2017.csv`), `train_val_list.txt`, `test_list.txt`, `BBox_List_2017.csv`
(its header is broken: `Bbox [x,y,w,h]` spreads over four columns) and images in `images/` or `images_001/images/` ...
"""

from __future__ import annotations

from collections.abc import Iterator

from vlp.core.untrusted import read_text
from vlp.data.tables.labels import names_in
from vlp.data.tables.read import rows
from vlp.sample import Box, Sample

from .base import LEARN, Radiographs, Record, Reject, grouped, sources

LABELS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
)
BOX_NAMES = {"Infiltrate": "Infiltration"}


@sources.register("nih_cxr14")
class NihCxr14(Radiographs):
    name = "nih_cxr14"
    version = "2020"
    licence = "no restrictions; credit the NIH Clinical Center"
    homepage = "https://nihcc.app.box.com/v/ChestXray-NIHCC"

    def records(self) -> Iterator[Record]:
        table = self.require("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
        test = self._list("test_list.txt")
        listed = test | self._list("train_val_list.txt")
        place = ("Bbox [x", "y", "w", "h]")
        boxes = grouped(self.rows("BBox_List_2017.csv", ("Image Index", "Finding Label", *place)), "Image Index")
        for row in rows(table, ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "View Position")):
            name = row["Image Index"]
            found = [(box["Finding Label"], [box[edge] for edge in place]) for box in boxes.get(name, ())]
            yield Record(
                key=name.removesuffix(".png"),
                patient=row["Patient ID"],
                split=self._side(name, test, listed),
                data={"row": row, "boxes": found},
            )

    def _side(self, name: str, test: set[str], listed: set[str]) -> str | None:
        """Return the publisher's side: unknown without lists, "none" for an image on neither of them."""
        if not listed:
            return None
        return "test" if name in test else LEARN if name in listed else "none"

    def _list(self, name: str) -> set[str]:
        path = self.raw / name
        return set(read_text(path).split()) if path.is_file() else set()

    def sample(self, record: Record) -> Sample:
        row = record.data["row"]
        stated = names_in(row["Finding Labels"], "|")
        unknown = set(stated) - {*LABELS, "No Finding"}
        if unknown or not stated:
            raise Reject("bad_label", f"unknown labels: {row['Finding Labels']!r}")
        folders = ["images", *(f"images_{number:03d}/images" for number in range(1, 13))]
        return self.sample_of(
            record,
            self.image(*(f"{folder}/{row['Image Index']}" for folder in folders)),
            view=row["View Position"] or None,
            labels={name: int(name in stated) for name in ("No Finding", *LABELS)},
            boxes=tuple(_box(name, place) for name, place in record.data["boxes"]),
            groups={"sex": row.get("Patient Gender") or row.get("Patient Sex"), "age": row["Patient Age"]},
        )


def _box(name: str, place: list[str]) -> Box:
    x, y, width, height = (float(value) for value in place)
    label = BOX_NAMES.get(name, name)
    return Box(label.replace("_", " ").lower(), (x, y, x + width, y + height), label=label)
