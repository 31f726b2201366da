"""Plain text from what systems export: HTML, RTF, HL7's and Excel's escapes, written line ends, words without an end."""

from __future__ import annotations

import html
import re
import unicodedata

from vlp.core.words import words

LONGEST_WORD = 200
"""Characters of a word; a longer run without a blank is cut: base64, a damaged file, a 10 MB word."""

_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")
_INLINE = "a|abbr|b|big|code|em|font|i|img|ins|mark|o:p|q|s|small|span|strike|strong|sub|sup|u|wbr"
_BLOCK = (
    "address|article|blockquote|body|br|center|dd|div|dl|dt|footer|form|h[1-6]|header|hr|html|main|meta|ol|p|paragraph|pre|"
    "section|table|tbody|text|tfoot|thead|tr|ul|content|list|title|component|structuredbody"
)
_TAG = re.compile(
    rf"<(?P<end>/?)(?:(?P<block>{_BLOCK})|(?P<item>li|item)|(?P<cell>td|th)|(?:{_INLINE}))(?:\s[^<>]{{0,500}})?/?\s{{0,5}}>",
    re.IGNORECASE,
)
_HIDDEN = re.compile(
    r"<!--.{0,10000}?-->|<!DOCTYPE[^<>]{0,500}>|<\?xml[^<>]{0,500}\?>|<!\[CDATA\[|\]\]>|"
    r"<(style|script|head)\b[^<>]{0,500}>.{0,20000}?</\1\s{0,5}>",
    re.IGNORECASE | re.DOTALL,
)
_WRITTEN = re.compile(r"(?<![A-Za-z]:)(?<!\\)(?:(?:\\r)?\\n|\\r(?![a-z]))|\\\.br\\|\\X0[AaDd]\\|_x000[dDaA]_")
_WRITTEN_TAB = re.compile(r"(?<![A-Za-z]:)(?<!\\)\\t(?=[A-Z0-9\s]|$)")
_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff\u00ad\x00-\x08\x0e-\x1f\x7f]")
_LINE_ENDS = re.compile("\r\n?|[\v\f\x85\u2028\u2029]")
_BLANKS = re.compile("[\u00a0\u2000-\u200a\u202f\u205f\u3000]")
_LONG_GAP = re.compile(r"\s{80,}")
_LONG_WORD = re.compile(rf"(\S{{{LONGEST_WORD}}})\S+")


def plain_text(text: str) -> tuple[str, int]:
    """Return a text without markup, escapes and invisible characters, and how many overlong words were cut."""
    if text.lstrip("\ufeff \t\r\n").startswith("{\\rtf"):
        text = from_rtf(text)
    text = _LINE_ENDS.sub("\n", text)
    if "\\" in text or "_x000" in text.lower():
        text = _WRITTEN_TAB.sub("\t", _WRITTEN.sub("\n", text))
    for _ in range(2):  # "&amp;lt;br&amp;gt;"
        if "&" in text:
            text = _ENTITY.sub(lambda match: html.unescape(match[0]), text)
    if "<" in text:
        text = _TAG.sub(_line_of_tag, _HIDDEN.sub("\n", text))
    text = _BLANKS.sub(" ", _INVISIBLE.sub("", _LINE_ENDS.sub("\n", text)))
    text = _LONG_GAP.sub(lambda match: "\n\n" if "\n" in match[0] else " " * 40, text)
    text, cut = _LONG_WORD.subn(r"\1", text)
    return unicodedata.normalize("NFC", text).strip(), cut


def _line_of_tag(tag: re.Match[str]) -> str:
    if tag["block"]:
        return "\n"
    if tag["item"]:
        return "\n" if tag["end"] else "\n- "
    return "\t" if tag["cell"] and tag["end"] else ""


_RTF = re.compile(
    r"\\([a-z]{1,32})(-?\d{1,10})?[ ]?|\\'([0-9a-fA-F]{2})|\\([^a-z])|([{}])|[\r\n]+|([^\\{}\r\n]+)", re.IGNORECASE
)
_RTF_WORDS = {
    "par": "\n",
    "line": "\n",
    "sect": "\n",
    "page": "\n",
    "row": "\n",
    "tab": "\t",
    "cell": "\t",
    "emdash": "—",
}
_RTF_WORDS |= {"endash": "–", "bullet": "•", "lquote": "‘", "rquote": "’", "ldblquote": "“", "rdblquote": "”"}
_RTF_HIDDEN = words(
    "fonttbl colortbl stylesheet info pict header headerl headerr headerf footer footerl footerr footerf object themedata "
    "colorschememapping datastore latentstyles listtable listoverridetable rsidtbl generator xmlnstbl fldinst "
    "bkmkstart bkmkend filetbl revtbl nonshppict pntext"
)


def from_rtf(text: str) -> str:
    """Return the words of an RTF document: Microsoft's Rich Text Format specification 1.9.1, without its layout."""
    page = "cp1252"
    out: list[str] = []
    hidden, width, skip = False, 1, 0
    stack: list[tuple[bool, int]] = []
    pending = b""
    for word, number, byte, symbol, brace, plain in _RTF.findall(text):
        if byte:
            if skip:
                skip -= 1
            elif not hidden:
                pending += bytes.fromhex(byte)
            continue
        if pending:
            out.append(pending.decode(page, "replace"))
            pending = b""
        if brace == "{":
            stack.append((hidden, width))
        elif brace == "}":
            hidden, width = stack.pop() if stack else (False, 1)
        elif symbol == "*" or word in _RTF_HIDDEN:
            hidden = True
        elif word == "ansicpg" and number in ("1250", "1251", "1252", "1253", "1254", "437", "850", "932", "936"):
            page = f"cp{number}"
        elif word == "uc":
            width = int(number or 1)
        elif word == "u" and not hidden:
            out.append(chr(int(number or 0) % 65536))
            skip = width
        elif word in _RTF_WORDS and not hidden:
            out.append(_RTF_WORDS[word])
        elif symbol in ("\\", "{", "}", "~", "_", "-") and not hidden:
            out.append({"~": " ", "_": "-", "-": ""}.get(symbol, symbol))
        elif symbol in ("\n", "\r") and not hidden:
            out.append("\n")
        elif plain and not hidden:
            out.append(plain[skip:])
            skip = 0
    if pending:
        out.append(pending.decode(page, "replace"))
    return (
        "".join(out).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )  # pairs of \u become one character
