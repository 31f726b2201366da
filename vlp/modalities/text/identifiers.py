"""What identifies a person in a text, by pattern: names with a title or a label, numbers, dates, addresses.

Identifiers in the sense of HIPAA's safe harbour that regular expressions can find in English, Spanish and German reports.
Names without a title or a label before them need a language model of the language: see `scan`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in a text that may identify a person: its kind and characters `[start, end)`."""

    kind: str
    start: int
    end: int


_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|sept|oct|nov|dec|ene|abr|ago|set|dic|mär|maer|mai|okt|dez)[a-zäéí]{0,10}\.?"
_TITLE = (
    r"(?:dr|mr|mrs|ms|miss|prof|professor|doctor|nurse|sr|sra|srta|dra|don|doña|señor|señora|doctora|herr|herrn|frau|fr|hr|"
    r"dres)"
)
_LETTERS = r"[A-ZÀ-ÖØ-ÞŁŚŻČŠŽ][a-zß-öø-ÿąćęłńóśźżčďěňřšťůž]{1,40}"
_NAME = rf"{_LETTERS}(?:[-'’]{_LETTERS})?"
_PARTICLES = r"(?:(?:von|van|de|del|la|der|den|zu|y|dos|da) ){0,3}"
_CAPITALS = r"[A-ZÀ-ÖØ-Þ]{2,40}(?:[-'’][A-ZÀ-ÖØ-Þ]{2,40})?"
_LABEL = (
    r"patient(?:en|in)?(?:[ -]?name)?|name|surname|first name|last name|signed(?: by)?|dictated by|read by|discussed with|"
    r"reported to|referring physician|attending|radiologist|paciente|nombre(?: del paciente)?|apellidos?|firmado(?: por)?|"
    r"médico|medico|radiólogo|nachname|vorname|arzt|ärztin|radiologe|radiologin|unterschrift|gez\.?|befundet von|diktiert von"
)
_NUMBER = (
    r"mrn|medical record(?: (?:number|no))?|acc(?:ession)?(?: (?:number|no))?|patient(?:en)?[ -]?(?:id|no|nr|number|nummer)|"
    r"record (?:number|no)|nhc|n[úu]mero de historia(?: cl[íi]nica)?|historia(?: cl[íi]nica)?(?: n)?|n\.? ?historia|"
    r"nhs(?: (?:number|no))?|fallnummer|fall-?nr|aufnahmenummer|auftragsnummer|versichertennummer|kv-?nr|"
    r"hospital (?:number|no)|case (?:number|no)|exam (?:id|number)|study id|dni|nie|nuhsa|cip"
)
PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("email", r"\b[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64}){1,6}\b"),
        ("url", r"(?i)\b(?:https?://|www\.)\S{1,500}"),
        ("social_security", r"\b\d{3}-\d{2}-\d{4}\b"),
        (
            "record_number",
            rf"(?i)\b(?:{_NUMBER})(?![^\W\d_])[ :#.noºª°-]{{0,12}}[A-Z]{{0,4}}[-/]?\d[\d./-]{{2,20}}[A-Z]?\b",
        ),
        ("phone", r"(?<![\d.])(?:\+\d{1,3}[ .-]?)?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{3,4}(?!\d)"),
        (
            "phone",
            r"(?i)\b(?:phone|tel|telefon|tel[ée]fono|t[ée]l|pager|beeper|fax|ext)\b[ .:#]{0,5}\+?\d[\d .()/-]{2,24}\d",
        ),
        ("date", r"\b(?:\d{1,2}[/.-]\d{1,2}[/.-](?:19|20)?\d{2}|(?:19|20)\d{2}[/-]\d{1,2}[/-]\d{1,2})\b"),
        (
            "date",
            rf"(?i)\b(?:{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?,? (?:19|20)\d{{2}}|"
            rf"\d{{1,2}}\.? (?:de )?{_MONTH},? (?:del? )?(?:19|20)\d{{2}})\b",
        ),
        ("time", r"(?i)\b(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d)?(?: ?[ap]\.?m\b\.?| ?uhr\b| ?h\b)?"),
        (
            "name",
            rf"\b(?i:{_TITLE})\b\.?(?: (?i:{_TITLE}|med)\b\.?){{0,3}} {_PARTICLES}(?:{_NAME}|{_CAPITALS})"
            rf"(?: (?:[A-Z]\. )?{_PARTICLES}(?:{_NAME}|{_CAPITALS})){{0,2}}",
        ),
        (
            "name",
            rf"(?i:\b(?:{_LABEL})):[ \t]{{0,5}}(?:{_NAME}|{_CAPITALS})"
            rf"(?:,? {_PARTICLES}(?:{_NAME}|{_CAPITALS}|[A-Z]\.)){{0,5}}",
        ),
        ("age_over_89", r"(?i)\b(?:9\d|1[01]\d)[ -]?(?:(?:years?|yrs?|y)[ -]?(?:old|o)\b|años|jahre\b|-?jährig)"),
    )
)


def scan(text: str) -> list[Finding]:
    """Return what may identify a person in a text, in order, without overlaps (the first pattern of the list wins).

    Regular expressions: fast, offline, explainable. They miss a bare name in running text; a recogniser such as Presidio
    finds some of those at 100 times the cost and with many false alarms on eponyms (Kerley, Swan-Ganz).
    """
    taken = bytearray(len(text))
    found: list[Finding] = []
    for kind, pattern in PATTERNS:
        for match in pattern.finditer(text):
            start, end = match.span()
            if taken.find(1, start, end) < 0:
                taken[start:end] = b"\1" * (end - start)
                found.append(Finding(kind, start, end))
    return sorted(found, key=lambda finding: finding.start)
