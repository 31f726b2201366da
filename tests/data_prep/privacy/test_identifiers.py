"""What identifies a person in English, Spanish and German reports, as far as patterns find it."""

import pytest

from vlp.modalities.text.identifiers import scan


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("Seen by Dr. Smith on 12/03/2019 at 3:45 pm.", ["name", "date", "time"]),
        ("MRN: 1234567, phone 555-123-4567", ["record_number", "phone"]),
        ("Patient: Anna Kowalska, accession number A1234567", ["name", "record_number"]),
        ("Informe de la Dra. García López, 12 de marzo de 2019", ["name", "date"]),
        ("Paciente: José Núñez. NHC: 987654. Fecha 03-04-2020.", ["name", "record_number", "date"]),
        ("Número de historia clínica 445566, tel. 965 123 456", ["record_number", "phone"]),
        ("Sra. de la Fuente, 95 años", ["name", "age_over_89"]),
        ("Befundet von: Dr. med. Müller-Lüdenscheidt am 12.03.2019", ["name", "date"]),
        ("Frau Schäfer, Fallnummer 00123456, 14:30 Uhr", ["name", "record_number", "time"]),
        ("Pat.-Nr. siehe Akte; Patientennummer: 4711234, 3. März 2019", ["record_number", "date"]),
        ("Herrn Prof. Dr. von Weizsäcker", ["name"]),
        ("95-jährige Patientin", ["age_over_89"]),
    ],
)
def test_identifiers_are_found(text: str, kinds: list[str]) -> None:
    assert [finding.kind for finding in scan(text)] == kinds


@pytest.mark.parametrize(
    "text",
    [
        "No pneumothorax. A 2.5 x 1.5 cm nodule at T12. Kerley B lines.",
        "Pinzamiento del seno costofrénico izquierdo, 12 mm.",
        "Kein Erguss. Rundherd 12 mm im linken Oberlappen, Höhe BWK 7.",
    ],
)
def test_findings_are_no_identifiers(text: str) -> None:
    assert scan(text) == []


def test_findings_are_in_order() -> None:
    assert [finding.kind for finding in scan("Dr. Smith saw it on 1/2/2020 again")] == ["name", "date"]
