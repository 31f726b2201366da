"""The words for how an image was made, and of whom: one vocabulary for all sources, and nothing copied as it was typed.

Modalities are DICOM's codes (PS3.3 C.7.3.1.1.1), views its View Position terms and those of the public sets, in capitals.
What is not known becomes `OTHER` for a modality and `UNKNOWN` for the rest, and is counted in the data card: a header's
free text may name a patient.
"""

from __future__ import annotations

import re

RADIOGRAPH, OTHER, UNKNOWN = "CR", "OT", "unknown"
"""`CR` stands for a radiograph whose device is not known; "OT" is DICOM's own word for another modality."""


def _terms(text: str) -> frozenset[str]:
    return frozenset(text.split("|"))


MODALITIES = _terms(
    "BDUS|BI|BMD|CR|CT|DG|DMS|DX|ES|FS|GM|IO|IVOCT|IVUS|LS|MG|MR|NM|OCT|OP|OPM|OPT|OPTBSV|OPTENF|OT|PA|PT|PX|RF|RG|"
    "RTIMAGE|SC|SM|TG|US|XA|XC"
)
_MODALITY_WORDS = {
    RADIOGRAPH: "x ray|xray|x rays|cxr|chest x ray|chest xray|radiograph|radiography|chest radiograph|plain film|xr|rx|"
    "computed radiography|conventional radiography",
    "DX": "digital radiography|dr",
    "CT": "computed tomography|ct scan|cta|cect|hrct|ldct|cat|tac|chest ct|ct chest",
    "MR": "mri|magnetic resonance|magnetic resonance imaging|mra|fmri|nmr|mri scan",
    "US": "ultrasound|ultrasonography|sonography|echo|echocardiography|usg|doppler",
    "MG": "mammography|mammogram|mammo|tomosynthesis|dbt",
    "PT": "pet|pet ct|positron emission tomography|pet scan",
    "NM": "nuclear medicine|spect|scintigraphy|bone scan",
    "XA": "angiography|angiogram|dsa|x ray angiography",
    "RF": "fluoroscopy|radiofluoroscopy|barium",
    "SM": "histopathology|histology|pathology|slide|slide microscopy|whole slide|whole slide image|wsi|cytology|h e|he",
    "GM": "microscopy|general microscopy|light microscopy|electron microscopy",
    "OP": "fundus|fundus photography|fundus photograph|ophthalmic photography|retinal photography|cfp|retina",
    "OPT": "ophthalmic tomography|retinal oct",
    "OCT": "optical coherence tomography",
    "XC": "photograph|photography|external camera|clinical photograph|dermoscopy|dermatoscopy|dermatology|skin|photo",
    "ES": "endoscopy|colonoscopy|gastroscopy|bronchoscopy|laparoscopy|capsule endoscopy|endoscope",
    "PX": "panoramic|opg|orthopantomogram|panoramic x ray",
    "IO": "intraoral|intra oral radiography|periapical|bitewing",
    OTHER: "other",
}
_MODALITY = {word: code for code, words in _MODALITY_WORDS.items() for word in words.split("|")}

_VIEWS = _terms(
    "AP|PA|LL|RL|RLD|LLD|RLO|LLO|LATERAL|FRONTAL|AP SUPINE|AP ERECT|PA ERECT|AP SEMI ERECT|"
    "AP HORIZONTAL|AP AXIAL|AP LLD|AP RLD|PA LLD|PA RLD|AP LATERAL|PA LATERAL|XTABLE LATERAL|"
    "LEFT LATERAL|RIGHT LATERAL|LAO|RAO|LPO|RPO|SWIMMERS|LORDOTIC|AP LORDOTIC|OBLIQUE|DECUBITUS|COSTAL|"
    "EXCLUDE|AXIAL|CORONAL|SAGITTAL|TRANSVERSE|SUPINE|PRONE|ERECT|STANDING|WEIGHT BEARING|CC|MLO|ML|LM|"
    "LMO|XCC|XCCL|XCCM|CV|AT|FB|SIO|ISO|SPECIMEN|ODONTOID|SUNRISE|SKYLINE|MORTISE|TANGENTIAL|AXILLARY|"
    "SCAPULAR Y|OUTLET|INLET|WATERS|TOWNE|CALDWELL|PANORAMIC|BITEWING|PERIAPICAL|FLEXION|EXTENSION|"
    "NEUTRAL|FROG LEG|MACULA|DISC|A2C|A3C|A4C|A5C|PLAX|PSAX|2CH|3CH|4CH|SHORT AXIS|LONG AXIS"
)
_VIEW_WORDS = {"L": "LATERAL", "LAT": "LATERAL", "ANTEROPOSTERIOR": "AP", "POSTEROANTERIOR": "PA", "FRONT": "FRONTAL"}

_SEXES = {"m": "M", "male": "M", "man": "M", "boy": "M", "f": "F", "female": "F", "woman": "F", "girl": "F"}
_SEXES |= {"o": "O", "other": "O"}
_SIDES = {"l": "left", "left": "left", "r": "right", "right": "right", "b": "bilateral", "both": "bilateral"}
_SIDES |= {"bilateral": "bilateral"}

_BODY_PARTS = _terms(
    "ABDOMEN|ABDOMENPELVIS|ADRENAL|ANKLE|AORTA|ARM|AXILLA|BACK|BLADDER|BRAIN|BREAST|CALCANEUS|CAROTID|"
    "CHEST|CHESTABDOMEN|CHESTABDPELVIS|CLAVICLE|COCCYX|COLON|CSPINE|CTSPINE|DUODENUM|EAR|ELBOW|"
    "ESOPHAGUS|EXTREMITY|EYE|FACE|FEMUR|FINGER|FOOT|FOREARM|GALLBLADDER|HAND|HEAD|HEADNECK|HEART|HIP|"
    "HUMERUS|JAW|KIDNEY|KNEE|LARYNX|LEG|LIVER|LSPINE|LSSPINE|LUNG|MANDIBLE|MAXILLA|MEDIASTINUM|NECK|"
    "NECKCHEST|NOSE|ORBIT|OVARY|PANCREAS|PARANASALSINUS|PELVIS|PENIS|PROSTATE|RADIUS|RADIUSULNA|RECTUM|"
    "RIB|SACRUM|SCAPULA|SCROTUM|SHOULDER|SKIN|SKULL|SPINE|SPLEEN|SSPINE|STERNUM|STOMACH|TESTIS|THIGH|"
    "THORAX|THUMB|THYROID|TIBIA|TIBIAFIBULA|TLSPINE|TMJ|TOE|TONGUE|TRACHEA|TSPINE|ULNA|UTERUS|"
    "WHOLEBODY|WRIST"
)


def modality_of(text: str | None) -> str | None:
    """Return the DICOM code of a modality, `OTHER` for one that is not known, None for none."""
    words = _words(text)
    if not words:
        return None
    code = words.upper().replace(" ", "")
    return code if code in MODALITIES else _MODALITY.get(words, OTHER)


def view_of(text: str | None) -> str | None:
    """Return a view in capitals (`AP`, `PA`, `LATERAL`, `AP SUPINE`, `CC`), `UNKNOWN` for others, None for none."""
    words = _words(text).upper()
    if not words:
        return None
    view = _VIEW_WORDS.get(words, words)
    return view if view in _VIEWS else UNKNOWN


def sex_of(text: str | None) -> str | None:
    """Return M, F or O, `UNKNOWN` for what is none of them, None for none."""
    words = _words(text)
    return _SEXES.get(words, UNKNOWN) if words else None


def side_of(text: str | None) -> str | None:
    """Return left, right or bilateral, None for none and for what has no side."""
    words = _words(text)
    return _SIDES.get(words, UNKNOWN) if words not in ("", "u", "unpaired") else None


def body_part_of(text: str | None) -> str | None:
    """Return DICOM's term for a part of the body (PS3.16 annex L), `UNKNOWN` for others, None for none."""
    words = _words(text).upper().replace(" ", "")
    return (words if words in _BODY_PARTS else UNKNOWN) if words else None


def age_of(text: str | None) -> str | None:
    """Return whole years ("34", "034Y", "006M", "34.5"), "90+" from 90 on, or a band ("18-40", "65+", "<40", "under 40").

    `UNKNOWN` for what is no age, None for none.
    """
    typed = " ".join((text or "").split())
    if not typed:
        return None
    if typed == UNKNOWN or _AGE_BAND.fullmatch(typed):
        return typed
    match = re.fullmatch(r"(\d{1,3})(?:\.\d+)?\s*([DWMY]?)", typed.upper())
    if not match:
        return UNKNOWN
    years = int(match[1]) // {"D": 365, "W": 52, "M": 12}.get(match[2], 1)
    return "90+" if 90 <= years < 130 else UNKNOWN if years >= 130 else str(years)


_AGE_BAND = re.compile(r"(?i)[<>]=?\s?\d{1,2}|\d{1,2}\+|\d{1,2}\s?(?:-|–|to)\s?\d{1,2}\+?|(?:under|over) \d{1,2}")
"""An age that is given as a band: two digits at most, so that no age above 90 is told apart."""


def _words(text: str | None) -> str:
    """Return a text in lower case with single blanks for whatever is no letter or digit."""
    return " ".join(re.findall(r"[a-z0-9]+", (text or "").lower()))
