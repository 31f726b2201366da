"""Spanish: what denies, doubts and places a finding, with or without accents, also in PadChest's cut words ("derram")."""

from __future__ import annotations

import re
from functools import lru_cache

from .base import CueTable, Grammar, Language, PlaceWords, any_of, pattern, place_pattern, table

_SEEN = (
    r"(?:observ\w*|apreci\w*|identific\w*|visualiz\w*|evidenci\w*|detect\w*|objetiv\w*|demuestr\w*|demostr\w*|ve|ven|vis(?:to|tos)|"
    r"visibl\w*|present\w*|encuentr\w*|reconoc\w*|hallad\w*)"
)
_DEGREE = r"(?:clar\w*|definid\w*|franc\w*|significativ\w*|evident\w*|relevant\w*|otr\w*|nuev\w*)"
_PREVIOUS = (
    r"(?:(?:en|por)\s+(?:el|la|los|las|su|un|una)?\s*(?:(?:estudio|radiograf\w*|rx|tc|tac|control|exploraci\w*|placa|imagen|"
    r"examen)\w*\s+)?(?:previ\w*|anterior\w*)|previamente|anteriormente)"
)
PSEUDO = (
    rf"\b(?:sin|no\s+hay|no\s+se\s+{_SEEN})\s+(?:{_DEGREE}\s+)*(?:cambi\w*|variaci\w*|modificaci\w*|progres\w*|empeoramiento|"
    r"mejor\w*|diferenci\w*)(?:\s+(?:en|de|del|respecto|con)\b)?",
    r"\bno\s+(?:se\s+)?(?:ha|han)?\s*(?:\w+mente\s+)?(?:cambi\w*|vari\w*|modific\w*|aument\w*|disminu\w*|mejor\w*|progres\w*|crec\w*)",
    r"\bno\s+(?:completamente\s+|totalmente\s+|del\s+todo\s+)?resuel\w*",
    r"\bno\s+(?:solo|solamente|unicamente)\b",
    r"\bsin\s+duda\b",
    r"\b(?:no\s+(?:se\s+)?(?:dispon\w*|aport\w*)|sin)\s+(?:de\s+)?(?:estudi\w*|radiograf\w*|control\w*|placa\w*)\s+(?:previ\w*|anterior\w*)",
    rf"\bno\s+(?:se\s+|era\s+|estaba\s+)*(?:claramente\s+|bien\s+)?{_SEEN}\s+{_PREVIOUS}",
    r"\b(?:casi|practicamente)\s+(?:complet\w*|total\w*)\s+(?:resolucion|desaparicion)\s+de\b",
    r"\bresolucion\s+(?:parcial|incompleta)\s+del?\b",
)
NEGATIVE_FIRST = (
    r"^\s*(?:no|ausente|ninguno|negativo)\s*:",
    r"\bno\s+(?:\w+mente\s+)?(?:es|son|parec\w*|result\w*)?\s*(?:\w+mente\s+)?(?:compatibl\w*|sugestiv\w*|sugerent\w*|sospechos\w*|"
    r"caracteristic\w*|tipic\w*|indicativ\w*|concordant\w*|suger\w*|sugier\w*|correspond\w*|represent\w*|impresion\w*)"
    r"(?:\s+(?:con|de|a)\b)?",
    r"\bsin\s+(?:signos|datos|criterios|hallazgos|evidencia|imagenes|semiologia)\s+(?:\w+\s+)?(?:compatibl\w*|sugestiv\w*|"
    r"sugerent\w*|sospechos\w*|indicativ\w*|que\s+sugier\w*)(?:\s+(?:con|de)\b)?",
    r"\bincompatibl\w*\s+con\b",
    r"\ben\s+contra\s+de\b",
)
UNCERTAIN_AFTER = (
    r"\bno\s+(?:se\s+)?(?:pued\w*|podria\w*|logra\w*)?\s*(?:ser\s+)?(?:\w+mente\s+)?(?:descart\w*|exclu\w*)(?=\s*(?:[.,;]|$|con|en))",
    r"\bno\s+(?:es|resulta|son)\s+(?:descartabl\w*|excluibl\w*|valorabl\w*)",
    r"\ba\s+(?:descartar|valorar|considerar)\b(?=\s*(?:[.,;]|$))",
    r"\b(?:es|son|parece\w*|seria\w*)\s+(?:poco\s+)?(?:posibl\w*|probabl\w*|dudos\w*|sospechos\w*|improbabl\w*)",
    r"\b(?:dudos[oa]s?|improbables?|posibles?|probables?|poco\s+probables?)(?=\s*(?:[.,;]|$))",
    r"\?(?!\s?[^\W\d_])",
)
EITHER = (r"\b(?:vs\.?|versus|frente\s+a)(?=\s)",)
UNCERTAIN_BEFORE = (
    r"(?<!\w)\?+(?=\s?[^\W\d_])",
    r"\b(?:no\s+(?:se\s+)?(?:pued\w*|podria\w*|permit\w*|logra\w*)|sin\s+poder)\s+(?:\w+mente\s+)?(?:descart\w*|exclu\w*)",
    r"\bno\s+(?:descart\w*|exclu\w*|permite\s+descartar)",
    r"\b(?:para|a)\s+descartar\b|\bdescart(?:ar)?\b|\bvalorar\b",
    r"\b(?:posib\w*|probab\w*|presumib\w*|presunt\w*|aparent\w*|quiza\w*|tal\s+vez)",
    r"\b(?:sospech\w*|sugest\w*|sugerent\w*|suger\w*|sugier\w*|indicativ\w*)\b(?:\s+de\b)?",
    r"\b(?:podri\w*|pued\w*|pudier\w*)\s+(?:estar\s+)?(?:correspond\w*|represent\w*|trat\w*|ser|deber\w*|relacion\w*|reflej\w*|en)\b"
    r"(?:\s+(?:a|de|con|en\s+relacion\s+con|relacion\s+con)\b)?",
    r"\b(?:dudos\w*|cuestionab\w*)(?=\s)",
    r"\b(?:diagnostico\s+diferencial|plantea\w*|a\s+considerar)\b",
    r"\b(?:antecedente\w*|historia)\s+(?:\w+\s+)?de\b",
)
NEGATIVE_AFTER = (
    rf"\b(?:ya\s+)?no\s+(?:se\s+|es\s+|son\s+|esta\w*\s+)?(?:claramente\s+)?{_SEEN}(?=\s*(?:[.,;]|$|en\s+(?:el|la|este)\s+"
    r"(?:estudio\s+|control\s+|radiografia\s+)?(?:actual|presente)|en\s+la\s+actualidad|actualmente))",
    r"\b(?:ausent\w*|descartad\w*|inexistent\w*)\b",
    r"\b(?:se\s+ha\w*\s+|ha\w*\s+sido\s+)?(?:resuelt\w*|reabsorbid\w*|retirad\w*)(?!\w|\s+del?\b)",
    r"\bha\w*\s+(?:desaparecid\w*|remitid\w*)\b",
)
NEGATIVE_BEFORE = (
    r"\b(?:se\s+)?descarta\w*\b",
    r"\b(?:ausenci\w*|resoluci\w*|desaparici\w*|retirad\w*)\s+(?:complet\w*\s+|total\s+)?del?\b",
    r"\b(?:libre\w*|negativ\w*)\s+(?:de|para)\b",
    r"\b(?:en\s+lugar\s+de|en\s+vez\s+de|mas\s+que)\b",
    r"\b(?:sin|no|ni|tampoco|nunca|niega|ningun\w*)\b",
)
_SIZES = (
    r"(?:pequen\w*|minim\w*|leve\w*|moderad\w*|gran|grande\w*|sever\w*|importante\w*|marcad\w*|discret\w*|estable\w*|conocid\w*|"
    r"persist\w*|residual\w*|cronic\w*|posible\w*|probable\w*|bilateral\w*|aument\w*|un|una|unos|unas|el|la|los|las|signos|"
    r"cambios|imagen\w*|se|hay|existe\w*|\w+mente)"
)

_CUES: CueTable = (
    (any_of(PSEUDO), None, (True,)),
    (any_of(NEGATIVE_FIRST), "absent", (True,)),
    (any_of(UNCERTAIN_AFTER), "uncertain", (False,)),
    (any_of(EITHER), "uncertain", (True, False)),
    (any_of(UNCERTAIN_BEFORE), "uncertain", (True,)),
    (any_of(NEGATIVE_AFTER), "absent", (False,)),
    (any_of(NEGATIVE_BEFORE), "absent", (True,)),
)

_LOBES = table(
    {
        ("right", "upper"): "lsd",
        ("right", "mid"): "lm",
        ("right", "lower"): "lid",
        ("left", "upper"): "lsi",
        ("left", "lower"): "lii retrocardiaco retrocardiaca",
        ("left", "mid"): "lingula lingular",
        ("bilateral", "lower"): "bibasal bibasales",
        ("bilateral", "upper"): "biapical biapicales",
    }
)
_SIDES = table(
    {
        "right": "derecho derecha derechos derechas derech dcho dcha der",
        "left": "izquierdo izquierda izquierdos izquierdas izquierd izdo izda izq",
        "bilateral": "bilateral bilaterales bilateralmente ambos ambas",
    }
)
_ZONES = table(
    {
        "upper": "superior superiores apical apicales apice apices vertice vertices",
        "mid": "medio media medios",
        "lower": "inferior inferiores base bases basal basales",
    }
)

_SUFFIX = re.compile(
    r"(?:aciones|acion|iciones|icion|amientos?|imientos?|adas|ados|ada|ado|idas|idos|ida|ido|ares|ar|ales|al|iones|ion|es|os|"
    r"as|o|a|e|s)$"
)
_ACCENTS = str.maketrans("áéíóúüñÁÉÍÓÚÜÑ", "aeiouunAEIOUUN")


@lru_cache(maxsize=50_000)
def normal(word: str) -> str:
    """Return a word without accents and endings: both sides of a comparison, and words that are cut already, meet there."""
    word = word.lower().translate(_ACCENTS)
    while len(word) > 3:
        match = _SUFFIX.search(word)
        if match is None or match.start() < 3:
            break
        word = word[: match.start()]
    return word


_SMALL = (
    "es son esta estan se ha han de del la el los las en un una y con que lo levemente moderadamente ligeramente discretamente "
    "muy leve moderado moderada severo severa discreto discreta ligero ligera pequeño pequeña no ya ambos ambas derecho "
    "derecha izquierdo izquierda bilateral pulmonar pulmonares dentro limites tamaño aspecto morfologia algo"
)

SPANISH = Language(
    code="es",
    normal=normal,
    small_words=frozenset(normal(word) for word in _SMALL.split()) | frozenset(_SMALL.split()),
    fold=_ACCENTS,
    grammar=Grammar(
        cues=_CUES,
        end=pattern(
            r";|[.!?]\s|\b(?:pero|aunque|salvo|excepto|sin\s+embargo|no\s+obstante|mientras|sino|a\s+excepcion\s+de|debid\w*\s+a|"
            r"secundari\w*\s+a|a\s+pesar\s+de|aparte\s+de|ademas\s+de|asociad\w*\s+a|en\s+contexto\s+de|en\s+paciente)\b"
        ),
        verb=pattern(
            r"\b(?:es|son|esta|estan|hay|existe|existen|muestra\w*|presenta\w*|persiste\w*|aparece\w*|tiene\w*|se\s+(?:observ|apreci|"
            r"identific|visualiz|evidenci)\w*)\b"
        ),
        new_item=pattern(rf"(?:,|\by\b|,\s*y\b|\be\b|\bcon\b)\s+{_SIZES}(?!\w)"),
        comma=pattern(r",\s*(?!y\b|o\b|u\b|ni\b)"),
        alternative=pattern(r"\b(?:o|u|ni)\b"),
        either=any_of(EITHER),
        aside=pattern(r",\s*(?:que|el\s+cual|la\s+cual)\b[^,;]*,"),
        same_subject=pattern(r"(?:,\s*)?\b(?:pero|aunque|que)\s+(?=(?:se|ha|han|no|ya)\b|$)[^,;]*$"),
        own_verb=pattern(r"\s*\b(?:es|son|esta|estan|se|ha|han|sido|ya|ambos|todos|\w+mente)\s*$"),
        restart=pattern(r"\by\s+(?:hay|se|un|una|el|la)\b"),
        prior=pattern(rf"(?<!como )(?<!igual que ){_PREVIOUS}"),
        told=pattern(
            rf"^\W*{_PREVIOUS}[^,;.]{{0,60}},?\s+(?:se\s+(?:\w+ba|vio|vieron|\w+aron|\w+o)|habia|existia|hubo)\b"
        ),
        negation=pattern(r"\bno\b"),
    ),
    places=PlaceWords(
        lobes=_LOBES,
        sides=_SIDES,
        zones=_ZONES,
        no_side=re.compile(r"(?!)"),
        no_zone=pattern(r"\s+(?:de\s+la\s+normalidad|abdominal|lumbar|cervical)"),
        separator=pattern(
            r"[,;:]|\b(?:y|e|o|u|ni|con|sin|asi\s+como|pero|versus|vs|suger\w*|sugest\w*|compatib\w*|probab\w*|posib\w*|en\s+relacion|"
            r"secundari\w*|tras)\b"
        ),
        both=frozenset(),
        no_both=re.compile(r"(?!)"),
        compared=pattern(r"(?:respecto|comparad\w*|que)\s+(?:con\s+|al?\s+)?(?:el\s+|la\s+|lado\s+)*$"),
        far=pattern(r"[;:]|\b(?:pero|aunque|mientras|sin\s+embargo)\b"),
        joint=pattern(r"^\s*(?:,|y|e|o|u|ni|,\s*(?:y|o)|asi\s+como)?\s*$"),
        preposition=pattern(r"\b(?:en|a|sobre|de|del|hacia|por)\b"),
        neighbour=pattern(r"\b(?:adyacente|asociad\w*|subyacente|acompanante|compresiv\w*)\b"),
        opening=pattern(r"\b(?:hay|se|existe\w*)\b"),
        introduced=re.compile(r"\b(?:un|una|hay|sin|no)\s+(?:\w+\s+)?$|\bcon\b|\bsuger\w*|\bprobab\w*"),
        behind=frozenset([*_SIDES, *_ZONES, *_LOBES]) - {"ambos", "ambas"},
        words=place_pattern(_LOBES, _SIDES, _ZONES),
    ),
)
