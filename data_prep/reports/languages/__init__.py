"""The languages whose reports the extractor reads, by their ISO 639-1 codes."""

from .base import Language
from .english import ENGLISH
from .german import GERMAN
from .spanish import SPANISH

LANGUAGES: dict[str, Language] = {language.code: language for language in (ENGLISH, SPANISH, GERMAN)}
