"""German: what denies, doubts and places a finding, with umlauts or their two-letter spellings."""

from __future__ import annotations

import re
from functools import lru_cache

from vlp.core.words import words

from .base import CueTable, Grammar, Language, PlaceWords, any_of, pattern, place_pattern, table

_SEEN = (
    r"(?:nachweisbar|nachzuweisen|nachgewiesen|abgrenzbar|abzugrenzen|abgebildet|erkennbar|zu\s+erkennen|sichtbar|zu\s+sehen|gesehen|"
    r"darstellbar|dargestellt|vorhanden|vorliegend|ersichtlich|auszumachen|fassbar|nachweisen|erkennen|abgrenzen|erfasst)"
)
_DEGREE = (
    r"(?:(?:wesentlich|signifikant|relevant|sicher|eindeutig|namhaft|gro[eß]+|neu|weiter|deutlich|nennenswert)\w*\s+)*"
)
_CHANGE = (
    r"(?:[äa]e?nderung|ver[äa]e?nderung|befund[äa]e?nderung|befundwandel|zunahme|abnahme|gr[öo]e?(?:ss|ß)en\w*|progredienz|progress|"
    r"regredienz|dynamik|besserung|verschlechterung|unterschied)(?:en)?"
)
_PREVIOUS = (
    r"(?:(?:in|im|auf|bei)\s+(?:der|den|dem|einer)?\s*(?:vor(?:aufnahme|untersuchung|befund|bild)\w*|letzten\s+\w+|fr[üu]e?heren\s+\w+|"
    r"vorangegangenen\s+\w+)|zuvor|vorher|voraufnahmlich)"
)
PSEUDO = (
    rf"\b(?:kein(?:e|en|er)?|ohne)\s+{_DEGREE}{_CHANGE}\b(?:\s+(?:der|des|von|vom|im|in|zu|zur|gegen[üu]e?ber))?",
    r"\bnicht\s+(?:\w+\s+)?(?:ver[äa]e?ndert|zugenommen|abgenommen|gr[öo]e?(?:ss|ß)er|kleiner|progredient|regredient)",
    r"\bnicht\s+(?:vollst[äa]e?ndig|komplett|ganz|g[äa]e?nzlich)\s+(?:r[üu]e?ckgebildet|zur[üu]e?ckgebildet|aufgel[öo]e?st|regredient)",
    r"\b(?:nahezu|fast|weitgehend|teilweise)\s+(?:vollst[äa]e?ndig\s+|komplett\s+)?(?:zur[üu]e?ckgebildet|r[üu]e?ckgebildet|"
    r"aufgel[öo]e?st|regredient)",
    r"\bnicht\s+nur\b",
    r"\b(?:kein|ohne)\s+zweifel\b",
    r"\bkein(?:e|en)?\s+(?:vor(?:aufnahme|untersuchung|bild|befund)\w*|vergleich\w*)",
    rf"\b{_PREVIOUS}\s+(?:noch\s+)?(?:nicht|kein\w*)\s+(?:sicher\s+|eindeutig\s+)?(?:{_SEEN})?",
    rf"\b(?:noch\s+)?nicht\s+(?:sicher\s+|eindeutig\s+)?{_SEEN}\s+{_PREVIOUS}",
)
NEGATIVE_FIRST = (
    r"^\s*(?:nein|kein\w*|negativ|nicht\s+vorhanden)\s*:",
    rf"^\s*(?:aktuell\s+)?nicht\s+(?:mehr\s+)?(?:sicher\s+)?{_SEEN}\s+(?:ist|sind)\b",
    r"\bnicht\s+(?:\w+\s+)?(?:vereinbar|verd[äa]e?chtig|typisch|charakteristisch|suspekt|passend|hinweisend|suggestiv)\s+(?:mit|auf|f[üu]e?r|zu)\b",
    r"\b(?:spricht|sprechen|sprechend)\s+(?:\w+\s+)?(?:gegen|nicht\s+f[üu]e?r)\b",
    r"\bnicht\s+(?:im\s+sinne|einer?m?|als)\b",
    r"\bunvereinbar\s+mit\b",
)
UNCERTAIN_AFTER = (
    r"\bnicht\s+(?:\w+\s+){0,2}(?:auszuschlie(?:ss|ß)en|ausgeschlossen|ausschlie(?:ss|ß)bar|auszuschliessen)(?:\s+werden)?",
    r"\b(?:ist|sind|w[äa]e?re|erscheint|scheint|bleibt)\s+(?:\w+\s+)?(?:m[öo]e?glich|denkbar|wahrscheinlich|fraglich|unwahrscheinlich|"
    r"unklar|zu\s+diskutieren|zu\s+erw[äa]e?gen|nicht\s+(?:sicher\s+)?beurteilbar)",
    r"\b(?:fraglich|m[öo]e?glich|wahrscheinlich|unwahrscheinlich|vermutet|denkbar)(?=\s*(?:[.,;]|$))",
    r"\bnicht\s+(?:sicher\s+)?(?:beurteilbar|zu\s+beurteilen)",
    r"\bwird\s+vermutet\b",
    r"\?(?!\s?[^\W\d_])",
)
EITHER = (r"\b(?:vs\.?|versus|differentialdiagnostisch|differenzialdiagnostisch|dd\.?:?|bzw\.?)(?=\s)",)
UNCERTAIN_BEFORE = (
    r"(?<!\w)\?+(?=\s?[^\W\d_])",
    r"\b(?:nicht\s+auszuschlie(?:ss|ß)en(?:de[rsn]?)?|nicht\s+sicher)\b",
    r"\b(?:m[öo]e?glich\w*|wahrscheinlich\w*|mutma(?:ss|ß)lich\w*|vermutlich\w*|vermutet\w*|fraglich\w*|eventuell\w*|evtl\.?|"
    r"denkbar\w*|potentiell\w*|potenziell\w*)",
    r"(?<!\w)(?:verdacht(?:e?s?)?\s+(?:auf|einer?s?|f[üu]e?r)|v\.?\s?a\.?(?=\s)|verd[äa]e?chtig\w*\s+(?:auf|f[üu]e?r)|suspekt\w*\s+(?:auf|f[üu]e?r)?|"
    r"verdachtsdiagnose)",
    r"\b(?:differentialdiagnosen?|differenzialdiagnosen?)\b",
    r"(?<!\w)(?:am\s+ehesten|ehesten?|a\.?\s?e\.?(?=\s)|eher|z\.?\s?a\.?(?=\s)|zum\s+ausschluss|ausschluss|frage\s+nach)",
    r"\b(?:k[öo]e?nnte\w*|kann|k[öo]e?nnen|d[üu]e?rfte\w*|m[öo]e?gen)\b",
    r"\b(?:hinweisend|hinweise?|anhalt|zeichen)\s+(?:auf|f[üu]e?r|einer?s?)\b(?<=auf)",
    r"(?<!\w)(?:z\.?\s?n\.?(?=\s)|zustand\s+nach|anamnestisch\w*|bekannte?\w*\s+anamnese)",
    r"\bpasst\w*\s+zu\b",
)
NEGATIVE_AFTER = (
    rf"\b(?:l[äa]e?(?:ss|ß)t\s+sich\s+|lassen\s+sich\s+)?(?:nicht|nirgends)\s+(?:mehr\s+)?(?:sicher\s+|eindeutig\s+|sicher\s+mehr\s+)?"
    rf"{_SEEN}",
    r"\b(?:liegt|liegen|besteht|bestehen|findet\s+sich|finden\s+sich|zeigt\s+sich|zeigen\s+sich|stellt\s+sich|stellen\s+sich)\s+"
    r"(?:aktuell\s+|derzeit\s+)?nicht(?:\s+(?:mehr|vor|dar))*",
    r"\b(?:ausgeschlossen|verneint|entfernt|gezogen|fehlt|fehlen|abwesend)\b",
    r"\b(?:vollst[äa]e?ndig\s+|komplett\s+)?(?:zur[üu]e?ckgebildet|r[üu]e?ckgebildet|aufgel[öo]e?st|resorbiert)\b",
    r"\b(?:ist|sind)\s+nicht\s+mehr\b",
)
NEGATIVE_BEFORE = (
    r"\bkein(?:e|en|er|em|es|erlei)?\b",
    r"\b(?:ohne|weder|noch|nie)\b",
    r"\bfrei\s+von\b",
    r"\b(?:fehlende\w*|ausgeschlossene\w*|vollst[äa]e?ndige\w*\s+r[üu]e?ckbildung|entfernung|ausschluss\s+eine[rs]|resorption)\b",
    r"\b(?:anstatt|anstelle|statt)\b",
    r"\bnegativ\s+f[üu]e?r\b",
    r"\bnicht\s+(?:mehr\s+)?(?=(?:von\s+|vom\s+)?[a-zäöü]+(?:em|en|er)?\s)",
)
_SIZES = (
    r"(?:eine?[nrms]?|der|die|das|es|klein\w*|gering\w*|m[äa]e?(?:ss|ß)ig\w*|gro(?:ss|ß)\w*|ausgepr[äa]e?gt\w*|deutlich\w*|diskret\w*|"
    r"bekannt\w*|stabil\w*|unver[äa]e?ndert\w*|beidseit\w*|links\w*|rechts\w*|basal\w*|vermehrt\w*|leicht\w*|minimal\w*|moderat\w*|"
    r"schmal\w*|zunehmend\w*|persistierend\w*|m[öo]e?glich\w*|residuell\w*|sonst|aktuell)"
)

_CUES: CueTable = (
    (any_of(PSEUDO), None, (True,)),
    (any_of(NEGATIVE_FIRST), "absent", (True,)),
    (any_of(UNCERTAIN_AFTER), "uncertain", (False,)),
    (any_of(EITHER), "uncertain", (True, False)),
    (any_of(NEGATIVE_AFTER), "absent", (False,)),
    (any_of(UNCERTAIN_BEFORE), "uncertain", (True,)),
    (any_of(NEGATIVE_BEFORE), "absent", (True,)),
)

_LOBES = table(
    {
        ("bilateral", "lower"): "bibasal",
        ("bilateral", "upper"): "biapikal",
        ("left", "mid"): "lingula",
        ("left", "lower"): "retrokardial retrokardiale",
    }
)
_SIDES = table(
    {
        "right": "rechts rechtsseitig rechtsseitige rechtsseitiger rechtsseitigen rechtsseitiges rechte rechter "
        "rechten rechtes re",
        "left": "links linksseitig linksseitige linksseitiger linksseitigen linksseitiges linke linker linken "
        "linkes li",
        "bilateral": "beidseits beidseitig beidseitige beidseitiger beidseitigen bilateral bilaterale bilateraler bds "
        "beide beiden beider",
    }
)
_ZONES = table(
    {
        "upper": "oberlappen oberfeld oberfelder apikal apikale apikaler spitze spitzen apex ol lungenspitze",
        "mid": "mittellappen mittelfeld mittelfelder ml",
        "lower": "unterlappen unterfeld unterfelder basal basale basaler basales basalen basis ul lungenbasis",
    }
)

_SUFFIX = re.compile(r"(?:ern|en|er|es|em|e|n|s)$")
_UMLAUTS = str.maketrans("äöüáéó", "aouaeo")


@lru_cache(maxsize=50_000)
def normal(word: str) -> str:
    """Return a word without umlauts and endings: "Ergüsse", "Erguesse" and "Erguss" are one."""
    word = word.lower().translate(_UMLAUTS).replace("ß", "ss")
    for pair, letter in (("ae", "a"), ("oe", "o"), ("ue", "u")):
        word = word.replace(pair, letter)
    if len(word) > 4 and not word.endswith("ss"):
        match = _SUFFIX.search(word)
        if match is not None and match.start() >= 4:
            return word[: match.start()]
    return word


_SMALL = (
    "ist sind war waren wird der die das des dem den ein eine im in am mit und nicht mehr leicht deutlich mäßig gering "
    "stark diskret minimal grenzwertig noch unverändert links rechts beidseits beidseitig basal gut jeweils insgesamt normal "
    "vollständig altersentsprechend stellen stellt sich zeigen zeigt erscheint bei regelrecht"
)

GERMAN = Language(
    code="de",
    normal=normal,
    small_words=frozenset(normal(word) for word in _SMALL.split()),
    fold={},
    grammar=Grammar(
        cues=_CUES,
        end=pattern(
            r";|[.!?]\s|\b(?:aber|jedoch|hingegen|w[äa]e?hrend|allerdings|obwohl|obgleich|au(?:ss|ß)er|abgesehen\s+von|bis\s+auf|sondern|wobei|bei|"
            r"infolge|aufgrund|trotz|dabei|dagegen|daneben|zudem|mit\s+ausnahme)\b"
        ),
        verb=pattern(
            r"\b(?:ist|sind|war|waren|zeigt|zeigen|besteht|bestehen|hat|haben|findet|finden|bleibt|bleiben|liegt|liegen|stellt|stellen|"
            r"imponiert|imponieren|erscheint|erscheinen|projiziert|persistiert|persistieren)\b"
        ),
        new_item=pattern(rf"(?:,|\bund\b|,\s*und\b|\bmit\b|\bsowie\b)\s+{_SIZES}(?!\w)"),
        comma=pattern(r",\s*(?!und\b|oder\b|noch\b)"),
        alternative=pattern(r"\b(?:oder|noch)\b"),
        either=any_of(EITHER),
        aside=pattern(r",\s*(?:der|die|das|welche[rs]?)\b[^,;]*,"),
        same_subject=pattern(
            r"(?:,\s*)?\b(?:aber|jedoch|und|welche[rs]?|wobei)\s+(?=(?:ist|sind|hat|haben|kann|aktuell|jetzt|diese[rs]?)\b|$)[^,;]*$"
        ),
        own_verb=pattern(
            r"\s*\b(?:ist|sind|war|waren|hat|haben|kann|k[öo]e?nnen|l[äa]e?(?:ss|ß)t|lassen|sich|wird|werden|aktuell|derzeit|jetzt|beide|auch|"
            r"sicher|hier)\s*$"
        ),
        restart=pattern(r"\bund\s+(?:es|der|die|das|eine?)\b"),
        told=pattern(rf"^\W*{_PREVIOUS}\s+(?:war|waren|zeigt\w*|fand\w*|bestand\w*|hatte\w*)\b"),
        prior=pattern(rf"(?<!wie ){_PREVIOUS}"),
        negation=pattern(r"\b(?:nicht|kein\w*)\b"),
    ),
    places=PlaceWords(
        lobes=_LOBES,
        sides=_SIDES,
        zones=_ZONES,
        no_side=pattern(r"\s+(?:herz\w*|vorhof\w*|ventrikel\w*|hauptbronchus|arm\w*)"),
        no_zone=re.compile(r"(?!)"),
        separator=pattern(
            r"[,;:]|\b(?:und|oder|noch|sowie|mit|ohne|aber|versus|vs|dd|vereinbar|verd\w*chtig|am\s+ehesten|bei|nach|statt)\b"
        ),
        both=frozenset(),
        no_both=re.compile(r"(?!)"),
        compared=pattern(r"(?:verglichen\s+mit|im\s+vergleich\s+zu[rm]?|als)\s+(?:der\s+|dem\s+)?$"),
        far=pattern(r"[;:]|\b(?:aber|jedoch|hingegen|w\w*hrend)\b"),
        joint=pattern(r"^\s*(?:,|und|oder|noch|,\s*(?:und|oder)|sowie)?\s*$"),
        preposition=pattern(r"\b(?:in|im|an|am|auf|der|des|[üu]e?ber|zum|zur|bei)\b"),
        neighbour=pattern(r"\b(?:angrenzend\w*|begleitend\w*|assoziiert\w*|benachbart\w*)\b"),
        opening=pattern(r"\b(?:zeigt|findet|besteht|stellt)\b"),
        introduced=pattern(r"\b(?:eine?[nrms]?|kein\w*)\s+(?:\w+\s+)?$|\bmit\b|\bv\.a\."),
        behind=words("rechts links beidseits bds re li rechtsseitig linksseitig beidseitig basal apikal"),
        words=place_pattern(_LOBES, _SIDES, _ZONES),
    ),
)
