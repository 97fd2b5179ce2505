"""What the templates of Wikipedia say that only stand for characters, numbers, dates, names and quotations.

None is looked up: the table below holds what the common ones show. All others are left out. Names are those of the
English Wikipedia and of the quotation templates of other large ones: https://en.wikipedia.org/wiki/Wikipedia:Templates
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_CHARACTERS = {
    "–": "ndash, en dash, endash, nd, –",
    "—": "mdash, em dash, emdash, md, —",
    " – ": "snd, spaced ndash, spaced en dash, spaced endash, sndash, snds, spnd, spndash, dash",
    " — ": "smd, spaced mdash, spaced em dash, spaced emdash, smdash",
    " ": "space, thinsp, thin space, thinspace, hairsp, hair space, 6sp, ensp, emsp, en space, em space, nnbsp, sp",
    " · ": "·, middot, dot, •, bull, bullet, mdot",
    "|": "!, pipe, vbar, bar",
    "||": "!!",
    "=": "=, equals",
    "{": "(, lbrace, {",
    "}": "), rbrace, }",
    "{{": "((",
    "}}": "))",
    "[": "lbrack, lsqb, bracket left",
    "]": "rbrack, rsqb, bracket right",
    "'": "', apos, apostrophe, `",
    "'s": "'s, aposs",
    '"': "dq, dquote",
    ":": "colon, :",
    ";": "semicolon, ;",
    ",": "comma",
    "*": "asterisk, ast, *",
    "#": "hash, number sign",
    "/": "slash, /",
    " / ": "\\, spaced slash",
    "~": "tilde, ~",
    "&": "amp, ampersand",
    "<": "lt, less than",
    ">": "gt, greater than",
    "−": "minus, −, negative",
    "±": "pm, plusminus, plus-minus, ±",
    "×": "times, ×, multiply",
    "÷": "divide, ÷",
    "°": "deg, degree, °",
    "′": "prime, ′",
    "″": "pprime, ″",
    "…": "..., …, ellipsis, hellip",
    "€": "euro sign",
    "£": "pound sign",
    "§": "sect, section sign",
    "\u2011": "nbhyph, nbhyphen, nb-hyphen",
    "er": "er",
    "re": "re",
    "†": "dagger, †",
    "‡": "double dagger, ddagger, double-dagger, ‡",
    "♯": "sharp",
    "♭": "flat",
    "♮": "natural",
    "✓": "tick, check mark, checkmark, ya",
    "✗": "cross, xmark, x mark, cross mark",
    "ʻ": "okina, ʻ",
    "ʾ": "hamza, ʾ",
    "ʿ": "ayin, ayn, ʿ",
    "π": "pi, π",
    "φ": "phi",
    "τ": "tau",
    "∞": "infinity, infin",
    "“": "ldquo, “",
    "”": "rdquo, ”",
    "‘": "lsquo, ‘",
    "’": "rsquo, ’",
    "«": "laquo",
    "»": "raquo",
    "[sic]": "sic",
    "\n": "br, break, crlf, paragraph break, paragraph",
    "": "zwsp, zwj, zwnj, shy, wbr, zero width joiner, zero-width space",
    "Yes": "yes, yea",
    "No": "no, nay",
    "N/A": "n/a",
    "TBA": "tba",
    "Unknown": "unknown",
    "a.k.a.": "aka, a.k.a.",
}
_FIRST = (  # templates that show their first argument
    "nowrap nobr nobreak nwr nowrap1 nobold noitalic noitalics small smaller resize big larger huge em strong bold"
    " italic italics i b u s underline strike strikethrough del ins mono code codett tt kbd samp var mvar math bigmath"
    " tmath nomobile smallcaps smallcaps2 sc sc1 center centre left right float visible_anchor vanchor"
    " tooltip abbr abbrlink abbrv hover_title define nihongo2 hebrew arabic ar script proper_name"
    " nastaliq ruby ruby-ja rubi furigana not_a_typo typo notatypo as_written nts number_table_sorting"
    " flagathlete flag flagu flagcountry ill ill2 interlanguage_link interlanguage_link_multi"
    " illm link-interwiki chem2 ce overline overbar sub su subscript lc uc ucfirst lcfirst langr"
    " indent block_indent blockindent poem linktext dfn"
    " unicode polytonic gr grc-gre nohyphens"
    " j translation_text"
    " citation_needed_span cn_span cn-span clarify_span clarification_needed_span 要出典範囲 要検証範囲"
    " birth_year_and_age death_year_and_age sort_under"
    " exp exposant ind indice romain petites_capitales pc terme_défini abréviation abrd abr comment"
    " versalita fmtn num число nombre_en_lettres"
    " 仮リンク le internal_link_helper 補助漢字フォント jis90フォント jis2004フォント cp932フォント 拡張漢字 僻字"
    " нп нп1 нп2 нп3 нп4 нп5 iw не_переведено не_переведено_2 не_переведено_3 не_переведено_5"
).split()
_SECOND = (
    "lang rtl-lang langx native_name nativename wikt-lang wt color colour fontcolor"
    " font_color font_colour colored_text coloured_text background_color bgcolor background_colour align"
    " sortkey font text_color tcolor langue llang"
).split()
_QUOTATIONS = (  # set apart from what stands around them; by language: en, de, fr, es, it, pt, nl, pl, ru, uk, zh, ja
    "quote blockquote block_quote cquote quotation quote_box quotebox quote_frame pull_quote pullquote bquote rquote"
    " centered_pull_quote centred_pull_quote poemquote poem_quote poem_quotation verse_translation quote_without_source"
    " zitat citation_bloc citation_étrangère vers cita cita_destacada citazione citação citar citaat"
    " cytat cytat_d цитата citat citát 引用 引文 引用文"
).split()
_INLINE_QUOTATIONS = "talkquote tq tqi tq2 qi citation".split()
_SHIPS = (
    "uss hms ss mv rms ms hmcs hmas hmnzs ins sms usns uscgc rv hnlms jds js orp iss usat hmt rfa ms mts gts".split()
)
_CURRENCIES = {
    "US$": "usd us$ usdollar us_dollar",
    "£": "gbp £ gbp£ pounds",
    "€": "eur € euro euros",
    "₹": "inr inrconvert ₹ indian_rupee",
    "¥": "jpy ¥ jpyconvert yen",
    "CN¥": "cny rmb",
    "A$": "aud a$",
    "C$": "cad c$",
    "NZ$": "nzd nz$",
    "₩": "krw ₩",
    "CHF ": "chf",
    "₱": "php ₱",
    "R$": "brl r$",
    "₽": "rub",
    "HK$": "hkd hk$",
}
_MONTHS = (
    "January February March April May June July August September October November December".split()
)  # as templates of the English Wikipedia write them
_RANGES = {
    "-": "–",
    "–": "–",
    "to": " to ",
    "and": " and ",
    "or": " or ",
    "by": " by ",
    "x": " × ",
    "×": " × ",
    "+/-": " ± ",
}
_RANGES |= {"to(-)": " to ", "and(-)": " and ", "&": " & ", "xx": " × ", "±": " ± ", "/": "/"}
_SUPERSCRIPTS = str.maketrans("0123456789+-−()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁽⁾ⁿ")
_NAME = re.compile(r"[\w .\-]{1,40}")
_BLANKS = re.compile(r"[\s_]+")
_MOST_SPACES = 20
_CENTURY = re.compile(
    r"(?:[ivxl]{1,7}(?:er|e) (?:siècle|millénaire)|\d{1,4}(?:er|re|e|nd))(?: av\. j\.-c\.)?"
)  # of French


class Arguments:
    """The arguments of a template, by place from 1 and by name in lower case."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.placed: list[str] = []
        self._named: dict[str, str] = {}
        for text in texts:
            name, equals, value = text.partition("=")
            if equals and _NAME.fullmatch(name.strip()):
                self._named[name.strip().lower()] = value.strip()
            else:
                self.placed.append(text.strip())

    def get(self, *names: str | int) -> str:
        """Return the first of these that is there and not empty, or ""."""
        for name in names:
            value = self._named.get(str(name), "")
            if not value and isinstance(name, int) and name <= len(self.placed):
                value = self.placed[name - 1]
            if value:
                return value
        return ""

    def all(self) -> list[str]:
        """Return those by place, in order, that are not empty; 1=, 2= and so on are by place too."""
        most = max([len(self.placed), *(int(n) for n in self._named if n.isascii() and n.isdigit() and len(n) < 3)])
        return list(filter(None, (self.get(place) for place in range(1, most + 1))))


def expanded(texts: Sequence[str]) -> str:
    """Return what a template shows, "" if that is unknown or nothing. texts: its name, then its arguments."""
    name = _BLANKS.sub(" ", texts[0]).strip().lower().removeprefix("template:").strip()
    maker = _MAKERS.get(name)
    if maker is not None:
        return maker(Arguments(texts[1:]))
    function, colon, _ = name.partition(":")
    if colon and function in _FUNCTIONS:
        return texts[0].partition(":")[2].strip()
    if name.startswith(("lang-", "script/", "link-", "internal link helper/")):
        return Arguments(texts[1:]).get(1, "text")
    if name.startswith("zitat-"):
        return _quotation(Arguments(texts[1:]))
    return texts[0].strip() if _CENTURY.fullmatch(name) else ""


_FUNCTIONS = (
    "formatnum",
    "lc",
    "uc",
    "ucfirst",
    "lcfirst",
    "nowrap",
    "#formatdate",
    "#dateformat",
    "plural",
    "grammar",
)


def _spaces(own: Arguments) -> str:
    number = own.get(1)
    return " " * (min(int(number), _MOST_SPACES) if number.isascii() and number.isdigit() and len(number) < 4 else 1)


def _quotation(own: Arguments) -> str:
    text = own.get("text", "quote", "quotation", "content", "zitat", "texte", "texto", "testo", "текст", 1)
    return f"\n{text}\n" if text else ""


def _pull_quotation(own: Arguments) -> str:
    """Of {{rquote|right|text}} the second."""
    text = own.get("text", "quote", 2, 1)
    return f"\n{text}\n"


def _fraction(own: Arguments) -> str:
    parts = own.all()
    if len(parts) >= 3:
        return f"{parts[0]} {parts[1]}/{parts[2]}"
    return "/".join(parts) if len(parts) == 2 else f"1/{parts[0]}" if parts else "/"


def _measure(own: Arguments) -> str:
    """Return {{convert|5|to|10|km|mi}} as "5 to 10 km": what is given, without what it is converted to."""
    parts = own.all()
    text = parts[0] if parts else ""
    at = 1
    while at + 1 < len(parts) and parts[at].lower() in _RANGES:
        text += _RANGES[parts[at].lower()] + parts[at + 1]
        at += 2
    unit = parts[at] if at < len(parts) else ""
    if at + 2 < len(parts) and unit in ("ft", "lb", "st", "mi", "yd", "h", "min") and _is_number(parts[at + 1]):
        return f"{text} {unit} {parts[at + 1]} {parts[at + 2]}"
    return f"{text} {unit}".strip()


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).replace(",", "").isdigit()


def _value(own: Arguments) -> str:
    """Return {{val|1.5|0.1|e=3|u=km}} as "1.5±0.1×10³ km"."""
    text = "±".join(own.all()[:2])
    text += f"×10{own.get('e').translate(_SUPERSCRIPTS)}" if own.get("e") else ""
    unit = own.get("u", "ul", "up", "upl")
    return own.get("p") + text + (f" {unit}" if unit and unit not in ("%", "°") else unit) + own.get("s")


def _date(own: Arguments) -> str:
    parts = own.all()
    if not parts or not parts[0].isdigit():
        return parts[0] if parts else ""
    if len(parts) < 2 or not parts[1].isdigit() or not 1 <= int(parts[1]) <= 12:
        return " ".join(reversed(parts[:3])) if len(parts) > 1 and not parts[1].isdigit() else parts[0]
    month = _MONTHS[int(parts[1]) - 1]
    if len(parts) < 3 or not parts[2].isdigit():
        return f"{month} {parts[0]}"
    day = int(parts[2])
    return f"{day} {month} {parts[0]}" if own.get("df") else f"{month} {day}, {parts[0]}"


def _as_of(own: Arguments) -> str:
    said = own.get("alt") or f"{'as' if own.get('lc') else 'As'} of {'' if own.get('bare') else _date(own)}".strip()
    return said + own.get("post")


def _before(mark: str, between: str = "–") -> Callable[[Arguments], str]:
    """Return a maker for {{circa|1500|1520}}: the mark, then the years."""
    return lambda own: f"{mark} {between.join(own.all())}".strip()


def _japanese(own: Arguments) -> str:
    rest = ", ".join(filter(None, (own.get(2), own.get(3), own.get(4, "extra"))))
    return f"{own.get(1)} ({rest})" if own.get(1) and rest else own.get(1) or rest


def _chinese(own: Arguments) -> str:
    said = [own.get(*names) for names in (("c", "s", "simp"), ("t", "trad"), ("p", "hp"), ("w",), ("j",), ("l",))]
    return "; ".join(dict.fromkeys(filter(None, [*said, own.get(1)])))


def _marked(before: str, after: str) -> Callable[[Arguments], str]:
    return lambda own: f"{before}{own.get(1)}{after}" if own.get(1) else ""


def _named(prefix: str) -> Callable[[Arguments], str]:
    return lambda own: f"{prefix} {own.get(1)}".strip()


def _money(sign: str) -> Callable[[Arguments], str]:
    return lambda own: f"{sign}{own.get(1)}"


def _joined(between: str) -> Callable[[Arguments], str]:
    return lambda own: between.join(own.all())


def _listed(own: Arguments) -> str:
    return "\n" + "\n".join(f"* {item}" for item in own.all()) + "\n"


def _block(own: Arguments) -> str:
    """Of {{flatlist|...}} the list, each item a line of the source."""
    return f"\n{own.get(1)}\n" if own.get(1) else ""


def _life(own: Arguments) -> str:
    """Return {{bd|1881年|9月25日|1936年|10月19日}} of the Chinese Wikipedia as from when to when."""
    parts = [own.get(place) for place in range(1, 5)]
    return "－".join(filter(None, ("".join(parts[:2]), "".join(parts[2:]))))


def _century(own: Arguments) -> str:
    """Return {{s-|XIX|e}} of the French Wikipedia as "XIXe siècle"."""
    return f"{own.get(1)}{own.get(2)} siècle" if own.get(2) else own.get(1)


def _ordinal(own: Arguments) -> str:
    number = own.get(1)
    teens = number[-2:-1] == "1"
    return number + ("th" if teens else {"1": "st", "2": "nd", "3": "rd"}.get(number[-1:], "th")) if number else ""


def _height(own: Arguments) -> str:
    return " ".join(f"{own.get(unit)} {unit}" for unit in ("m", "cm", "ft", "in") if own.get(unit))


def _sic(own: Arguments) -> str:
    said = own.get(1)
    return said if own.get("hide") and said else f"{said} [sic]".strip()


def _verse(own: Arguments) -> str:
    return f"\n{own.get('lang1', 1)}\n\n{own.get('lang2', 2)}\n"


_MAKERS: dict[str, Callable[[Arguments], str]] = {}


def _name(names: Sequence[str], maker: Callable[[Arguments], str]) -> None:
    _MAKERS.update(dict.fromkeys((name.replace("_", " ") for name in names), maker))


def _always(text: str) -> Callable[[Arguments], str]:
    return lambda own: text


def _cell(text: str) -> Callable[[Arguments], str]:
    """Of {{yes|Done}} the first argument, else the template's own word."""
    return lambda own: own.get(1) or text


def _fill() -> None:
    for text, names in _CHARACTERS.items():
        _name(names.split(", "), _cell(text) if text[:1].isupper() and len(text) > 1 else _always(text))
    _name(_FIRST, lambda own: own.get(1, "text", "content"))
    _name(_SECOND, lambda own: own.get(2, "text"))
    _name(_QUOTATIONS, _quotation)
    _name(["rquote"], _pull_quotation)
    _name(["verse translation"], _verse)
    _name(_INLINE_QUOTATIONS, lambda own: own.get("text", "quote", 1))
    _name(['"', "' '", '" "'], _marked("“", "”"))
    for prefix in _SHIPS:
        _name([prefix], _named(prefix.upper()))
    for sign, names in _CURRENCIES.items():
        _name(names.split(), _money(sign))
    _name(["nbsp", "spaces", "pad"], _spaces)
    _name(["frac", "sfrac", "fraction", "fract"], _fraction)
    _name(["convert", "cvt"], _measure)
    _name(["val"], _value)
    _name(["e", "×10^", "x10^"], lambda own: f"×10{own.get(1).translate(_SUPERSCRIPTS)}" if own.get(1) else "e")
    _name(["transliteration", "transl", "translit"], lambda own: own.get(3, 2, "text"))  # the second may be a system
    _name(["10^"], lambda own: f"10{own.get(1).translate(_SUPERSCRIPTS)}")
    _name(["sup", "superscript"], lambda own: own.get(1).translate(_SUPERSCRIPTS))
    _name(["gaps"], _joined(""))
    _name(["chem"], _joined(""))
    _name(["sortname", "ship"], lambda own: f"{own.get(1)} {own.get(2)}".strip())
    _name(["sclass", "sclass-", "sclass2", "sclass2-"], lambda own: f"{own.get(1)}-class {own.get(2)}".strip())
    _name(["birth date", "birth date and age", "bda", "death date", "start date", "end date", "film date"], _date)
    _name(["dts", "start date and age", "birth-date", "death-date", "launch date", "death date and age", "dda"], _date)
    _name(["as of", "asof"], _as_of)
    _name(["circa", "c.", "ca.", "ca", "circ"], _before("c."))
    _name(["floruit", "fl", "fl."], _before("fl."))
    _name(["reign", "r."], _before("r."))
    _name(["born", "b."], _before("b."))
    _name(["died", "d."], _before("d."))
    _name(["ad"], _before("AD"))
    _name(["bc"], lambda own: f"{own.get(1)} BC".strip())
    _name(["bce"], lambda own: f"{own.get(1)} BCE".strip())
    _name(["nihongo", "nihongo3", "nihongo krt", "読み仮名"], _japanese)
    _name(["zh", "lang-zh", "chinese", "zh-cp", "zh-stp", "zh-c"], _chinese)
    _name(["angbr", "angle bracket", "angle brackets", "grapheme"], _marked("⟨", "⟩"))
    _name(["bracket", "interp", "interpolation", "brackets", "squote"], _marked("[", "]"))
    _name(["gloss"], _marked("'", "'"))
    _name(["lit", "lit.", "literally", "literal translation"], _marked("lit. '", "'"))
    _name(["sqrt", "radic", "root"], _marked("√", ""))
    _name(["abs"], _marked("|", "|"))
    _name(["mset"], _marked("{", "}"))
    _name(["key press", "keypress", "keyb", "key"], _joined("+"))
    _name(["hlist", "cslist", "comma separated entries"], _joined(", "))
    _name(["ubl", "unbulleted list", "ublist", "bulleted list", "blist", "ordered list", "olist", "ulist"], _listed)
    _name(["sic"], _sic)
    _name(["ill", "interlanguage link", "illm"], lambda own: own.get("lt", "display", 1))
    _name(["url"], lambda own: own.get(2, 1))
    _name(["isbn"], _before("ISBN", ", "))
    _name(["no.", "numero"], _before("No."))
    _name(["music"], lambda own: {"sharp": "♯", "flat": "♭", "natural": "♮"}.get(own.get(1), own.get(1)))


def _fill_lists_and_measures() -> None:
    _name(["sort"], lambda own: own.get(2, 1))
    _name(["flatlist", "plainlist", "plain list", "columns-list", "columns list", "col-list"], _block)
    _name(["unité", "unite", "nombre", "nb", "unidad", "m", "date-", "date", "incise", "siglo"], _joined(" "))
    _name(["§", "§§"], lambda own: f"§ {' '.join(own.all())}".strip())
    _name(["s", "s-", "s2", "s2-", "siècle"], _century)
    _name(["bd"], _life)
    _name(["tsl"], lambda own: own.get(3, 2))
    _name(["lien"], lambda own: own.get("texte", "fr", 1, "trad"))
    _name(["ordinal", "ord"], _ordinal)
    _name(["height"], _height)


_fill()
_fill_lists_and_measures()
