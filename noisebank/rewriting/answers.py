"""Which answers of a language model are used: cleaned of what models put around them, then checked by what they say.

An answer that fails a check has a code, and the original prompt is used in its place.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

from noisebank.errors import RowFailure
from noisebank.rewriting.template import Request, one_line

CODES = ("empty", "refusal", "too_long", "several_lines", "copied", "drifted", "endpoint")
"""Why a prompt has no rewrite, besides what is wrong with the prompt itself."""
ADVICE = {
    "empty": "it had no words",
    "refusal": "it was a refusal",
    "too_long": "it had too many words",
    "several_lines": "it had more than one line",
    "copied": "it was one of the captions",
    "drifted": "it did not keep the meaning of the prompt, or not its script",
}
"""What a second request says of the first answer, by its code; nothing of the answer itself."""
LONGEST_ANSWER = 1 << 14
"""Characters of an answer that are looked at."""
_CHARACTERS_A_WORD = 20
_THOUGHTS = re.compile(r"\A\s*<think>.*?(</think>|\Z)", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"\A```[^\n`]*\n(.*?)\n?```\Z", re.DOTALL)
_LABEL = re.compile(
    r"\A(?:(?:sure|certainly|okay)[,.!]\s+)?(?:here(?: is|['’]s)\b[^:\n]{0,60}"
    r"|(?:the )?(?:rewritten|rewrite|revised|new|final|output|answer|prompt|caption)"
    r"(?: (?:video )?(?:prompt|caption))?)"
    r"\s*:\s*",
    re.IGNORECASE,
)
_QUOTES = ('""', "''", "“”", "‘’", "«»", "„“", "「」", "``", "**")
_REFUSAL = re.compile(
    r"(?:i['’]?m|i am) sorry\b|sorry, (?:but )?i\b|i (?:can['’]?t|cannot|can not|won['’]t|will not)\b"
    r"|i(?:['’]m| am) (?:unable|not able)\b|as an? (?:ai|language model|assistant)\b|unfortunately, i\b",
    re.IGNORECASE,
)


def strip_answer(text: str) -> str:
    """What is left of an answer without thoughts, fences, label and quotes around it.

    >>> strip_answer('Rewritten prompt: "A dog runs."')
    'A dog runs.'
    """
    text = _THOUGHTS.sub("", text[:LONGEST_ANSWER]).strip()
    before = None
    while text != before:
        before = text
        if fenced := _FENCE.match(text):
            text = fenced[1].strip()
        text = _LABEL.sub("", text).strip()
        if len(text) > 1 and text[0] + text[-1] in _QUOTES:
            text = text[1:-1].strip()
    return text


def check_answer(text: str, request: Request) -> str:
    """The rewrite that an answer gives, on one line; whether it kept the meaning is checked elsewhere.

    Raises:
        RowFailure: ``empty``, ``refusal``, ``several_lines``, ``too_long``, ``copied``, or ``drifted`` where it is
            mostly in a script that neither the prompt nor a caption has.
    """
    answer = strip_answer(text)
    line = one_line(answer, LONGEST_ANSWER)
    if not any(map(str.isalnum, line)):
        raise RowFailure("empty", "it had no words")
    shown = one_line(line, 100)
    if _REFUSAL.match(line):
        raise RowFailure("refusal", f"it was no rewritten prompt but a refusal: {shown!r}")
    if sum(not lines.isspace() for lines in answer.splitlines() if lines) > 1:
        raise RowFailure("several_lines", f"it had more than one line: {shown!r}")
    words, most = len(line.split()), request.max_words
    if words > most or len(line) > most * _CHARACTERS_A_WORD:
        raise RowFailure("too_long", f"it had {words} words, {len(line)} characters, more than {most} words")
    said = _words(line)
    if said != _words(request.prompt) and any(said == _words(caption) for caption in request.references):
        raise RowFailure("copied", "it was one of the captions")
    if foreign := _foreign_script(line, [request.prompt, *request.references]):
        raise RowFailure("drifted", f"it was in another script ({foreign.lower()}): {shown!r}")
    return line


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _foreign_script(text: str, known: Iterable[str]) -> str:
    """The script of most letters of ``text``, if no letter of ``known`` is of it; else empty."""
    scripts = _scripts(text).most_common(1)
    familiar: Counter[str] = sum(map(_scripts, known), Counter())
    return scripts[0][0] if scripts and scripts[0][0] not in familiar else ""


def _scripts(text: str) -> Counter[str]:
    """Letters by their script, which is the first word of a letter's name in Unicode."""
    return Counter(unicodedata.name(c, "UNKNOWN").partition(" ")[0] for c in text if c.isalpha())
