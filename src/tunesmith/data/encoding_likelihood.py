"""How likely bytes are as text of an encoding: the letters of each language, words, scripts and control characters.

A candidate decodes the bytes, and each character outside of ASCII gets the logarithm of its probability in a language
that is written in this encoding, and in this place: a capital inside of a word, a symbol between letters and letters
of two scripts side by side are unlikely everywhere. The sums, in nats, are of the same bytes and can be compared; a
few bytes that do not decode cost each as much as a few unlikely characters, and decide nothing.

Letters are listed in the order of their frequency. Common Chinese characters and kanji are those of the first level of
GB 2312, Big5 and JIS X 0208.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

LATIN = {
    "English": "éïçèöüñ",
    "German": "üäöß",
    "French": "éèàêçùîôâûëïœæ",
    "Spanish": "óíáéñúü¿¡",
    "Portuguese": "ãçáéóíêõúâàô",
    "Italian": "èàùòìé",
    "Swedish": "äåöé",
    "Danish": "åøæé",
    "Icelandic": "áðíþóéöæúý",
    "Polish": "łąężśćóńź",
    "Czech": "íáéěřšžýčůúťďňó",
    "Slovak": "áíéčžšúýľťôóňďäŕĺ",
    "Hungarian": "áéöőóüíúű",
    "Romanian": "ăîâșțşţ",
    "Croatian": "čšžćđ",
    "Turkish": "ışğüçöİâî",
    "Lithuanian": "ėųšžįąčęū",
    "Latvian": "āīēšņūļžķčģ",
    "Estonian": "äõüöšž",
}
OTHER_SCRIPTS = {
    "Russian": "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфъё",
    "Ukrainian": "оаиніевртслкдумпязьгбчхйщжїцюєшфґ",
    "Bulgarian": "аоиетнрсвлкдпмзуягчъбцхжшйющфь",
    "Serbian": "аоиеунсрјткдвлмпзгбчцхћшжђљњџф",
    "Greek": "αοιετσνηυρπκμλςωγδθχφβξζψάέήίόύώϊϋ",
    "Hebrew": "יוהלאשמתרבנדקעחכפטגזסםץןך",
    "Thai": "านรอกเงคมยลวดทสตะปบหแจพชขใไโผซธภณถศษฐญ่้ิีุูัา็์ื",
    "Arabic": "اليمنوترهبدعفسكقحجةشأصطخذىضإثزغظئءؤآ",
}
COMMON_WORDS = {
    "English": "the and of to in is that was he it his with as for had you not be her on at by this but have from they",
    "German": "und der die das ist nicht ein zu den mit von sich auf es ich war dem als auch aber wie nur noch",
    "French": "le la les et des de un une est que dans il pas pour sur du au qui elle ce son mais avec",
    "Spanish": "el la los que en un una se del por con no las de su al lo para pero como todo",
    "Portuguese": "os que de em um uma da do para com se no na as dos por mas ao como ele",
    "Italian": "il la che di un una in non per con del si gli le da al era ma come sono della",
    "Swedish": "och att det som en ett av med den till var inte jag han men hade sin om",
    "Danish": "og at det som en et af med den til var ikke jeg han men havde sin om der",
    "Icelandic": "og er sem ekki hann var en til um hún það af",
    "Polish": "na do nie to jest po od za ale jak tak go przez tylko by co",
    "Czech": "na se je to do ale byl jako ve po za od kdy by jen tak pro",
    "Slovak": "na sa je to do ale bol ako vo po za od by len tak pre",
    "Hungarian": "az hogy nem is egy volt de meg ki csak mint ez el",
    "Romanian": "de la cu nu un pe ca din se au mai este era sa care",
    "Croatian": "je na da se za od ne su ali kao bio po iz to koji",
    "Turkish": "bir ve bu da de ne ile her ama gibi kadar daha olan",
    "Lithuanian": "ir kad yra su bet kaip tai po iki jis buvo",
    "Latvian": "un ir ka ar no bet par uz bija kas lai",
    "Estonian": "ja on ei et see oli ta ka ning aga kui ma",
}
"""The language of a text with few letters outside of ASCII is read from its other words."""
TYPOGRAPHIC = "’“”—\xa0–…«»„‚‘•°§€£©®™·¿¡ªº½¼¾×²³№"
WESTERN = ("English", "German", "French", "Spanish", "Portuguese", "Italian", "Swedish", "Danish", "Icelandic")
CENTRAL = ("Polish", "Czech", "Slovak", "Hungarian", "Romanian", "Croatian", "German")
CYRILLIC = ("Russian", "Ukrainian", "Bulgarian", "Serbian")
EASTERN = {
    "cp932": "Japanese",
    "euc_jp": "Japanese",
    "gb18030": "Chinese",
    "big5": "Traditional Chinese",
    "cp949": "Korean",
}
CANDIDATES: dict[str, tuple[tuple[str, ...], float]] = {
    "cp1252": (WESTERN, 0),
    "iso8859_15": (WESTERN, -3),
    "cp1250": (CENTRAL, 0),
    "iso8859_2": (CENTRAL, -1),
    "cp1254": (("Turkish",), 0),
    "iso8859_9": (("Turkish",), -1),
    "cp1257": (("Lithuanian", "Latvian", "Estonian"), 0),
    "cp1251": (CYRILLIC, 0),
    "koi8_r": (("Russian", "Bulgarian"), 0),
    "koi8_u": (("Ukrainian",), -1),
    "cp866": (("Russian", "Bulgarian"), -1),
    "iso8859_5": (CYRILLIC, -4),
    "mac_cyrillic": (("Russian",), -5),
    "cp1253": (("Greek",), 0),
    "iso8859_7": (("Greek",), -1),
    "cp1255": (("Hebrew",), 0),
    "cp1256": (("Arabic",), 0),
    "iso8859_6": (("Arabic",), -2),
    "iso8859_8": (("Hebrew",), -1),
    "cp874": (("Thai",), 0),
    "cp1125": (("Ukrainian",), -3),
    "cp850": (WESTERN, -5),
    "cp437": (WESTERN, -6),
    "cp852": (CENTRAL, -5),
    "mac_roman": (WESTERN, -5),
    "mac_latin2": (CENTRAL, -8),
    **{name: ((language,), 0.0) for name, language in EASTERN.items()},
}
"""Encodings with the languages that are written in them, and how much rarer one is than its neighbors, in nats."""
LEAST, STRANGE = -12.0, -13.0
"""Of one character or byte: a few that are damaged decide nothing."""
UTF8_CHARACTER = math.log(1 / 100)
IN_WORD, CAPITAL_IN_WORD, TWO_ACCENTS, TWO_SCRIPTS = -6.0, -5.0, -1.5, -7.0
JOINERS = "’'·-‐—–\xa0\xad"
MAX_WEIGHED_BYTES = 6000
ASCII_WORD = re.compile(rb"(?<![A-Za-z\x80-\xff])[A-Za-z]{2,}(?![A-Za-z\x80-\xff])")
NATS_A_WORD, MAX_NATS_OF_WORDS = 2.0, 40.0
OTHER_LANGUAGE, FOREIGN_LETTER = -10.0, -3.0


@dataclass(frozen=True)
class Reading:
    """Bytes read in one encoding.

    Attributes:
        text: with U+FFFD for what does not decode.
        nats: logarithm of how likely that is.
    """

    encoding: str
    text: str
    nats: float


def readings(content: bytes) -> list[Reading]:
    """Return what bytes outside of ASCII can be in each encoding, the likeliest first.

    Args:
        content: lines of a file.
    """
    unlike = _unlike_language(content)
    found = [_read(content, "utf-8", {"any": (lambda _character: UTF8_CHARACTER, 0.0)})]
    for name, (languages, prior) in CANDIDATES.items():
        likelihoods = {}
        for language in languages:
            nats = _likelihood(language, is_other=unlike[language] <= OTHER_LANGUAGE)
            likelihoods[language] = (nats, prior + unlike[language])
        found.append(_read(content, name, likelihoods))
    return sorted(found, key=lambda reading: -reading.nats)


def _unlike_language(content: bytes) -> dict[str, float]:
    """How unlikely each language is by the words of ASCII letters, in nats."""
    words = Counter(word.decode().lower() for word in ASCII_WORD.findall(content))
    hits = {it: sum(words[word] for word in common.split()) for it, common in COMMON_WORDS.items()}
    most = max(hits.values())
    languages = {it for found, _ in CANDIDATES.values() for it in found}
    return {it: -min(NATS_A_WORD * (most - hits.get(it, 0)), MAX_NATS_OF_WORDS) for it in languages}


def _read(content: bytes, encoding: str, languages: dict[str, tuple[Callable[[str], float], float]]) -> Reading:
    text = content.decode(encoding, errors="replace")
    impossible = 0
    found: list[tuple[str, float]] = []
    for i, character in enumerate(text):
        if character < "\x80":
            continue
        if character == "\ufffd" or unicodedata.category(character) in {"Cc", "Cn", "Co", "Cs"}:
            impossible += 1
        elif encoding == "utf-8":
            found.append((character, 0.0))
        else:
            found.append((character, _in_place(text[i - 1 : i] or " ", character, text[i + 1 : i + 2] or " ")))
    nats = max(
        sum(max(likelihood(character) + place, LEAST) for character, place in found) + prior
        for likelihood, prior in languages.values()
    )
    return Reading(encoding, text, nats + impossible * LEAST)


def _in_place(before: str, character: str, after: str) -> float:
    """How unlikely a character is between its neighbors, whatever the language."""
    if not character.isalpha():
        return IN_WORD if before.isalpha() and after.isalpha() and character not in JOINERS else 0.0
    if _is_wide(character):
        return 0.0
    nats = 0.0
    if character.isupper() and before.isalpha() and before.islower():
        nats += CAPITAL_IN_WORD
    script = _script(character)
    for neighbor in (before, after):
        if neighbor.isalpha() and not _is_wide(neighbor) and _script(neighbor) != script:
            nats += TWO_SCRIPTS
    if script == "LATIN" and before > "\x7f" and before.isalpha():
        nats += TWO_ACCENTS
    return nats


@cache
def _script(character: str) -> str:
    return unicodedata.name(character, "?").split()[0] if character > "\x7f" else "LATIN"


def _is_wide(character: str) -> bool:
    return character >= "\u2e80"


@cache
def _likelihood(language: str, *, is_other: bool) -> Callable[[str], float]:
    """Logarithms of the probabilities of characters, in a text whose words are of another language or not."""
    nats = _probabilities(language)
    if not is_other or language in EASTERN.values():
        return nats
    return lambda character: nats(character) + (FOREIGN_LETTER if character.isalpha() else 0.0)


@cache
def _probabilities(language: str) -> Callable[[str], float]:
    """Logarithms of the probabilities of characters outside of ASCII."""
    if language in EASTERN.values():
        return _eastern(language)
    letters = LATIN.get(language) or OTHER_SCRIPTS[language]
    share = {letter: 1 / (rank + 3) for rank, letter in enumerate(letters)}
    capitals = {letter.upper(): 0.06 * weight for letter, weight in share.items() if len(letter.upper()) == 1}
    share = {**capitals, **share}
    typographic = {sign: 1 / (rank + 2) for rank, sign in enumerate(TYPOGRAPHIC)}
    signs = 0.9 if language == "English" else 0.08 if language in LATIN else 0.03
    total, total_signs = sum(share.values()), sum(typographic.values())
    table = {sign: math.log(signs * weight / total_signs) for sign, weight in typographic.items()}
    table |= {letter: math.log((1 - signs) * weight / total) for letter, weight in share.items()}
    return lambda character: table.get(character, STRANGE)


def _eastern(language: str) -> Callable[[str], float]:
    classes: dict[str, list[tuple[Callable[[str], bool], float]]] = {
        "Japanese": [
            (lambda c: "ぁ" <= c <= "ゖ", 0.5 / 83),
            (lambda c: "ァ" <= c <= "ー", 0.08 / 87),
            (lambda c: c in "、。「」『』・…―　（）！？〜～", 0.08 / 18),
            (_between("euc_jp", 0xB0, 0xCF), 0.31 / 2965),
            (_between("euc_jp", 0xD0, 0xF4), 0.01 / 3390),
            (lambda c: "\uff01" <= c <= "\uff5e", 0.01 / 94),
        ],
        "Chinese": [
            (lambda c: c in "，。、“”！？：；（）《》…—‘’", 0.12 / 18),
            (_between("gb2312", 0xB0, 0xD7), 0.85 / 3755),
            (_between("gb2312", 0xD8, 0xF7), 0.02 / 3008),
        ],
        "Traditional Chinese": [
            (lambda c: c in "，。、「」『』！？：；（）《》…—", 0.12 / 18),
            (_between("big5", 0xA4, 0xC6), 0.85 / 5401),
            (_between("big5", 0xC9, 0xF9), 0.02 / 7652),
        ],
        "Korean": [
            (_between("euc_kr", 0xB0, 0xC8), 0.96 / 2350),
            (lambda c: "가" <= c <= "힣", 1e-6),
            (lambda c: c in "“”‘’…·「」『』", 0.02 / 10),
            (_between("euc_kr", 0xCA, 0xFD), 0.005 / 4888),
        ],
    }
    table = [(belongs, math.log(share)) for belongs, share in classes[language]]

    @cache
    def nats(character: str) -> float:
        return next((value for belongs, value in table if belongs(character)), STRANGE)

    return nats


def _between(encoding: str, first: int, last: int) -> Callable[[str], bool]:
    """Whether a character has two bytes in an encoding, the first of them in a range."""

    def belongs(character: str) -> bool:
        try:
            coded = character.encode(encoding)
        except UnicodeEncodeError:
            return False
        return len(coded) == 2 and first <= coded[0] <= last

    return belongs


def lines_to_weigh(content: bytes) -> bytes:
    """Return lines with bytes outside of ASCII, evenly spread, with about `MAX_WEIGHED_BYTES` of them."""
    lines = [line for line in content.split(b"\n") if not line.isascii()]
    n_bytes = sum(len(line) for line in lines)
    step = max(n_bytes // (2 * MAX_WEIGHED_BYTES), 1)
    return b"\n".join(line[: 2 * MAX_WEIGHED_BYTES] for line in lines[::step])[: 4 * MAX_WEIGHED_BYTES]
