"""English: what denies, doubts and places a finding in the reports of English-speaking hospitals."""

from __future__ import annotations

import re
from functools import lru_cache

from vlp.core.words import words

from .base import CueTable, Grammar, Language, PlaceWords, any_of, pattern, place_pattern, table

_DEGREE = (
    r"(?:\s+(?:significant|substantial|appreciable|definite|relevant|obvious|major|further|real|interval|overt|gross|other|"
    r"acute|new))*"
)
_CHANGE = r"(?:change|increase|decrease|difference|improvement|progression|worsening|growth)s?"
_SEEN = (
    r"(?:seen|identified|visuali[sz]ed|visible|evident|present|appreciated|demonstrated|apparent|noted|detected|observed|found|"
    r"shown|recogni[sz]ed)"
)
_EARLIER = (
    r"(?:(?:on|in|at|from)\s+(?:the\s+|that\s+|this\s+|a\s+|any\s+|h(?:is|er)\s+|their\s+)?(?:time\s+of\s+(?:the\s+)?)?"
    r"(?:most\s+recent\s+|immediate\s+|outside\s+)?(?:prior|priors|previous|earlier|old|older|last|preceding|comparison|"
    r"yesterday['’]?s?|(?:\d{1,2}[/.-]){1,2}\d{2,4}|_{2,})(?!\w)|previously\b|before(?=\s*(?:[.,;]|$)))"
)
"""An earlier examination, of which a statement may speak."""
PSEUDO = (
    rf"\b(?:no|without|not\s+any){_DEGREE}\s+{_CHANGE}\b(?:\s+(?:in|of|from|to)\b)?",
    r"\bnot\s+(?:significantly |substantially |appreciably |markedly )?(?:changed|increased|decreased|improved|worsened)\b",
    r"\bnot\s+only\b",
    r"\bno\s+(?:prior|previous|comparison|old)\s+(?:stud|exam|film|image|radiograph|chest|comparison)\w*",
    r"\b(?:nearly|almost|partially|partly|incompletely|not(?:\s+\w+)?)\s+(?:completely\s+)?(?:resolved|cleared)\b",
    r"\b(?:near(?:ly)?|almost|partial|incomplete|some)[\s-]+(?:complete\s+)?(?:resolution|clearing)\s+of\b",
    r"\b(?:no|without(?:\s+a)?)\s+(?:doubt|question)\b",
    rf"\b(?:not|never|nor)\s+(?:\w+ly\s+|well\s+|yet\s+|previously\s+)*(?:{_SEEN}|included|imaged)\s+"
    rf"(?:(?:on|in|at)\s+(?:the\s+|a\s+|any\s+)?(?:lateral|frontal|ap|pa)\b|{_EARLIER})",
    rf"\b(?:not|never)\s+(?:previously|formerly)\s+(?:{_SEEN})\b",
    rf"\babsent\s+{_EARLIER}",
)
"""Look like negations and are none."""

_CANNOT = (
    r"(?:can\s?not|can't|could\s+not|couldn't|may\s+not)\s+(?:be\s+)?"
    r"(?:entirely\s+|completely\s+|definitively\s+|reliably\s+)?"
)
OF_EARLIER = (
    rf"^\W*{_EARLIER}[^,;.]{{0,60}},?\s+(?:there\s+)?(?:was|were|had)\b",
    r"^\W*(?:the\s+)?(?:prior|previous|earlier|old)\s+(?:\w+\s+){1,3}(?:showed|demonstrated|revealed|was|were|had)\b",
)
"""Openings of a statement that tells of an earlier examination."""
UNCERTAIN_BEFORE = (
    r"(?<!\w)\?+(?=\s?[^\W\d_])",
    rf"{_CANNOT}(?:exclude|rule\s+out)\b",
    r"\b(?:difficult|hard|impossible|not\s+possible)\s+to\s+(?:exclude|rule\s+out)\b",
    r"\b(?:unclear|uncertain|not\s+certain|questionable)\s+(?:whether|if)\b",
    r"\b(?:rule\s+out|r/o|evaluate\s+for|evaluation\s+for|assess\s+for|assessment\s+for|query|question\s+of|\?)",
    r"\b(?:may|might|could|would)\s+(?:also\s+|well\s+|potentially\s+)?(?:represent|reflect|be|indicate|suggest|relate|"
    r"correspond|signify|have|still|mimic|include)\w*(?:\s+(?:due|related|secondary|attributable|attributed)\s+to\b)?",
    r"\b(?:possible|possibly|probable|probably|likely|presumably|presumed|presumptive|suspected|potential|potentially)\b",
    r"\b(?:suspicion|suspicious|concern|concerning|worrisome|worry)\s+(?:for|of)\b",
    r"\b(?:findings?|features?|signs?|changes?)\s+to\s+suggest\b",
    r"\b(?:(?<!to )suggest(?:s|ing|ed|ive)?|favor(?:s|ed|ing)?|favour(?:s|ed|ing)?)\b(?:\s+of\b)?",
    r"\b(?:questionable|equivocal|indeterminate\s+for|apparent)(?=\s)",
    r"\bpossibility\s+of\b",
    r"\braises?\s+(?:the\s+)?(?:possibility|question|concern|suspicion)\b",
    r"\bdifferential\b",
    r"\b(?:history\s+of|hx\s+of|diagnosed\s+with)\b",  # told, not seen
)
UNCERTAIN_AFTER = (
    rf"\b{_CANNOT}(?:be\s+)?(?:excluded|ruled\s+out)\b",
    r"\b(?:is|are|was|were)\s+not\s+(?:entirely\s+|completely\s+|definitively\s+)?(?:excluded|ruled\s+out)\b",
    r"\b(?:is|are|was|were|be|remains?)\s+(?:\w+ly\s+)?(?:difficult|hard|impossible|not\s+possible)\s+to\s+"
    r"(?:exclude|rule\s+out)\b(?=\s*(?:[.,;]|$|in\b|on\b|given\b|with\b))",
    r"\b(?:is|are|was|were)\s+(?:thought|felt|believed|considered)\s+(?:to\s+be\s+)?(?:likely|possible|probable|unlikely)\b",
    r"\b(?:is|are|was|were|remains?)\s+(?:suspected|questioned|considered|suggested|favou?red)\b",
    r",\s*if\s+(?:present|any)\b",
    r"\b(?:is|are|remains?|seems?)\s+(?:possible|probable|(?:less\s+)?likely|questionable|unlikely|a\s+possibility|"
    r"equivocal)\b(?!\s+to\b)",
    r"\b(?:may|might|could|should)\s+be\s+(?:present|considered|suspected|missed)\b",
)
EITHER = (r"\b(?:vs\.?|versus|favou?red\s+over)(?=\s)",)
"""Between two findings of which one is there."""

_LIKENS = (
    r"consistent|inconsistent|compatible|in\s+keeping|in\s+line|suggestive|indicative|characteristic|diagnostic|typical|classic|"
    r"suspicious|concerning|worrisome|convincing|representative|due|secondary|attributable|related|explained|caused|"
    r"reflective|specific"
)
_MEANS = (
    r"represent(?:ing)?|reflect(?:ing)?|suggest(?:ing)?|indicat(?:e|ing)|constitut(?:e|ing)|correspond(?:ing)?\s+to|"
    r"support(?:ing)?|favou?r(?:ing)?|meet(?:ing)?\s+criteria\s+for|be\s+due\s+to|due\s+to"
)
NEGATIVE_FIRST = (
    rf"\b(?:no\s+longer|not)\s+{_SEEN}\s+(?:is|are)\b",
    r"^\s*absent(?=\s+[a-z])",
    r"\bnothing\s+to\s+(?:suggest|indicate)\b",
    r"^\s*(?:no|none|absent|negative|not\s+seen)\s*:",
    rf"(?:\bnot|n['’]t)\s+(?:\w+ly\s+|be\s+|thought\s+to\s+be\s+|felt\s+to\s+be\s+)*(?:{_LIKENS})\s+(?:with|of|for|to|by)\b",
    rf"(?:\bnot|n['’]t|\bnever)\s+(?:\w+ly\s+)*(?:(?:appear|seem|look|felt|thought|believed|considered)\w*\s+(?:like\s+)?"
    rf"(?:to\s+)?)?(?:{_MEANS})\b",
    r"\b(?:inconsistent|incompatible|at\s+odds)\s+with\b",
    r"\b(?:argu|speak|militat|weigh|count)\w*\s+(?:strongly\s+)?against\b",
    r"\b(?:is|are|was|were)\s+against\b(?=\s+(?:an?\s+|any\s+)?\w+)",
    r",\s*not\s+(?:an?\s+|any\s+|true\s+)?(?=\w)(?!\w+ly\b|seen|visible|present|identified|evident|well|changed)",
)
"""Negations in front of their finding that read like those behind one."""

NEGATIVE_BEFORE = (
    r"\b(?:no|without|neither|nor|never|denies|lacks?)\b",
    r"\b(?:negative|clear|free)\s+(?:for|of)\b",
    r"\b(?:absence|resolution|clearing|removal|lack)\s+of\b",
    r"\b(?:rather\s+than|instead\s+of|excludes?|excluding|rules?\s+out\s+any)\b",
    r"\b(?:does|do|did|is|are|was|were|has|have|can)\s?(?:not|n't)\s+(?:clearly\s+|definitely\s+)?"
    r"(?:demonstrate|show|reveal|identify|see|have|include|suggest|contain|indicate|a\b|an\b|any\b)",
    r"\bfails?\s+to\s+(?:show|reveal|demonstrate)\b",
)
NEGATIVE_AFTER = (
    rf"\b(?:not|no\s+longer)\s+(?:definitely\s+|clearly\s+|well\s+|yet\s+)?(?:{_SEEN}|suspected|confirmed)\b",
    r"\b(?:absent|lacking|resolved|excluded|ruled\s+out|removed|withdrawn|extubated|replaced\s+(?:by|with))\b",
    r"\b(?:has|have)\s+(?:(?:since|now|completely|entirely|fully)\s+)*cleared\b",
)

_STARTERS = (
    r"(?:there|a|an|the|its|small|tiny|trace|mild|moderate|large|severe|marked|stable|unchanged|persistent|again|minimal|"
    r"subtle|slight|left|right|bilateral|bibasilar|mildly|status|possible|probable|likely|residual|associated|"
    r"underlying|resulting|\w+ly)"
)


# In the order in which they claim characters: "cannot be excluded" must not be read as "not" or as "excluded".
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
        ("right", "upper"): "rul",
        ("right", "mid"): "rml",
        ("right", "lower"): "rll",
        ("left", "upper"): "lul",
        ("left", "lower"): "lll retrocardiac",
        ("left", "mid"): "lingula lingular",
        ("bilateral", "lower"): "bibasilar bibasal",
        ("bilateral", "upper"): "biapical",
    }
)
_SIDES = table(
    {
        "right": "right rt rightward",
        "left": "left lt leftward",
        "bilateral": "both bilateral bilaterally",
    }
)
_ZONES = table(
    {
        "upper": "upper apical apex apices suprahilar",
        "mid": "mid middle midlung midzone",
        "lower": "lower base bases basal basilar basally infrahilar",
    }
)


SMALL_WORDS = words(
    "is are was were be been being appears appear remains remain has have within the of in a an at its this that "
    "there mildly moderately severely markedly slightly minimally borderline grossly stable again now mild moderate "
    "severe marked slight minimal top upper limit limits size contour not no longer right left both bilateral "
    "bilaterally posterior lateral anterior under beneath below on overall also still likely essentially entirely well"
)


@lru_cache(maxsize=50_000)
def normal(word: str) -> str:
    """Return a word in lower case and in the singular, roughly: both sides of a comparison go through it."""
    word = re.sub(r"['’]s$", "", word.lower())
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith("sses"):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


ENGLISH = Language(
    code="en",
    normal=normal,
    small_words=SMALL_WORDS,
    fold={},
    grammar=Grammar(
        cues=_CUES,
        end=pattern(
            r";|[.!?]\s|\b(?:but|however|although|though|except|while|whereas|yet|which|secondary\s+to|due\s+to|because|despite|notwithstanding)\b|"
            r"\bin\s+spite\s+of\b|\b(?:aside|apart)\s+from\b|\bother\s+than\b"
        ),
        verb=pattern(r"\b(?:is|are|was|were|has|have|remains?|appears?|shows?|demonstrates?|persists?)\b"),
        new_item=pattern(rf"(?:,|\band\b|,\s*and\b|\bwith\b)\s+{_STARTERS}\b"),
        comma=pattern(r",\s*(?!and\b|or\b|nor\b)"),
        alternative=pattern(r"\b(?:or|nor)\b"),
        either=any_of(EITHER),
        aside=pattern(r",\s*(?:which|that)\b[^,;]*,"),
        same_subject=pattern(
            r"(?:,\s*)?\b(?:but|though|although|and|yet)\s+(?:(?:this|it|these|they)\b\s*|(?=(?:has|have|had|is|are|was|were)\b)|$)"
            r"[^,;]*$"
        ),
        own_verb=pattern(
            r"\s*\b(?:is|are|was|were|has|have|had|been|be|can|could|would|will|to|since|now|both|all|also|again|\w+ly)\s*$"
        ),
        restart=pattern(r"\band\s+(?:there|the|a|an)\b"),
        prior=pattern(rf"(?<!as )(?<!like )(?<!since )(?<!unlike ){_EARLIER}"),
        told=any_of(OF_EARLIER),
        negation=pattern(r"\b(?:not|no longer|never)\b"),
    ),
    places=PlaceWords(
        lobes=_LOBES,
        sides=_SIDES,
        zones=_ZONES,
        no_side=pattern(
            r"[\s-]+(?:heart|atri\w+|ventric\w+|cardiac\s+(?:border|contour|margin|chamber)s?|main(?:stem)?\b|anterior\s+descending|handed|greater\s+than\s+left|clinical|setting|hilar\s+"
            r"angle|pulmonary\s+arter\w+)"
        ),
        no_zone=pattern(
            r"[\s-]+(?:abdom\w+|limits?|extremit\w+|thoracic|neck|lumbar|cervical|quadrant|pole|back|normal|of\s+the\s+neck|svc|"
            r"superior|esophag\w+|descending|line|and\s+lower\s+extrem\w+)"
        ),
        separator=pattern(
            r"[,;:]|\b(?:and|or|nor|with|without|plus|as\s+well\s+as|but|versus|vs|suggest\w*|represent\w*|reflect\w*|likely|"
            r"consistent\s+with|compatible\s+with|concerning\s+for|suspicious\s+for|worrisome\s+for|indicat\w*|secondary\s+to|"
            r"due\s+to|rather\s+than|following|after|removal\s+of|terminat\w*|tip|courses?|ends?)\b"
        ),
        both=frozenset({"both"}),
        no_both=pattern(r"\s+(?:absent|present|stable|new|old|seen|noted|small|large|likely|clear|\w+ed)\b"),
        compared=pattern(r"\b(?:compared|relative)\s+(?:with|to)\s+(?:the\s+)?$"),
        far=pattern(r"[;:]|\b(?:but|terminat\w*|tip|courses?|ends?|however|although)\b"),
        joint=pattern(r"^\s*(?:,|and|or|nor|,\s*(?:and|or)|as\s+well\s+as|plus)?\s*$"),
        preposition=pattern(
            r"\b(?:in|on|at|within|over|of|throughout|involving|along|overlying|to|into|towards?|near)\b"
        ),
        neighbour=pattern(r"\b(?:adjacent|associated|overlying|underlying|accompanying|compressive|surrounding)\b"),
        opening=pattern(r"\bthere\b"),
        introduced=re.compile(r"\b(?:a|an|there|no)\s+(?:\w+\s+)?$|\bwith\b|\bsuggest\w*|\blikely\b"),
        behind=frozenset(),
        words=place_pattern(_LOBES, _SIDES, _ZONES),
    ),
)
