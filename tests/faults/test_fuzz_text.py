"""Made-up inputs whose right text is known: what is no markup comes through, and nothing of ours is left in it.

Long run: RAG_HPC_FUZZ_INPUTS=100000 nice pytest --timeout=0 tests/faults/test_fuzz_text.py
"""

from __future__ import annotations

import json
import random
import re
import time
import unicodedata
from collections.abc import Callable

import pytest
from fuzzing import NUM_INPUTS

from rag_hpc.algo.answer.cite import parse_citations
from rag_hpc.algo.dedup.ids import Numbers, split_id, with_number
from rag_hpc.algo.extract.decode import ExtractError, clean_text, decode
from rag_hpc.algo.extract.extract import Extractor, extract
from rag_hpc.algo.text.charset import known_charset
from rag_hpc.algo.text.sentences import sentence_spans
from rag_hpc.algo.text.words import CLUSTER, WORD, content_words, is_unspaced, num_words, word_ends
from rag_hpc.sources.archives.message import dechunked
from rag_hpc.sources.crawl.robots import parse_robots
from rag_hpc.sources.crawl.sitemaps import parse_sitemap
from rag_hpc.sources.crawl.urls import normalise_url
from rag_hpc.sources.wiki.wikitext import plain_text

Dice = random.Random
MARKUP = (
    (  # whole, one a bar: what stands around it is outside
        "{{cite!a={{b}}}}|<ref name=x>r</ref>|<ref/>|[[File:f.jpg!thumb!c]]|<!-- c -->|{{quote!text=q}}|{{ndash}}|<br>"
        "|{{convert!1!km}}|-{zh-hans:x;zh-hant:y}-|[[l!m]]|[http://h/ t]|<nowiki>[[n]]</nowiki>|<math>m</math>"
        "|<pre>p</pre>"
        "|''|'''|{{flatlist!_* a_* b}}|{{nowrap!({{x}})}}|({{IPA!x}})|&amp;|&#65;|<String>|<i>i</i>|（{{x}}）"
        "|<blockquote>_ b</blockquote>|{{transl!ja!Hepburn!x}}|<includeonly>o</includeonly>|{{s-!X!e}}|{{tsl!en!a!b}}"
        "|{{#if:x!a}}|_{!_!a_!}_|<syntaxhighlight lang=c>_ a_</syntaxhighlight>|<poem>_a_</poem>|{{-}}"
    )
    .replace("!", "\x02")
    .split("|")
)
PIECES = (
    "{{ }} {| |} |- || | ! [[ ]] [ ] -{ }- <ref> </ref> <ref/> <nowiki> </nowiki> <pre> </pre> <blockquote>"
    " </blockquote> <includeonly> </includeonly> <br> <!-- --> <T> [http://x [[File:a [[Category:K ( ) ; : , # = =="
    " '' \x00 \x01 x 7"
    " quote|text= nowrap| lang|fr| zh-hans:a; H| * （ ） / – &lt; {{{ }}} {{#if:"
).split(" ")
INLINE = [
    "<svg><title>no</title></svg>",
    "<button>no</button>",
    "<template><p>no</p></template>",
    "<math><annotation>no</annotation></math>",
    "<rt>no</rt>",
    "<!-- no --!>",
    "<style>no</style>",
    "<noscript>no</noscript>",
    "<select><option>no</select>",
    "<wbr>",
    "<b></b>",
    "<script>no</script>",
]
LETTERS = {
    "shift_jis": "日本の港は①㈱髙島屋で、ー～",
    "euc-kr": "한국어 문장 똠방각하 펲",
    "big5": "臺灣的港口㗎啲，嘅",
    "gb2312": "中国的港口€镕，囍",
    "euc-jp": "日本の港はで、",
    "iso-2022-jp": "日本の港は水",
    "windows-1251": "Порт был построен № “”",
    "koi8-r": "Порт был построен",
    "tis-620": "ท่าเรือเมืองเก่า",
    "iso-8859-9": "İstanbul ğüşiöç “”",
    "iso-8859-1": "L’été à l’hôtel – œuvre €",
    "utf-8": "日本 Порт été ท่าเรือ",
}
ALPHABET = "ab7_ .!?\n,'。！？、สวัดี្កខမြန်ກຂ漢字かなカナｶﾞ한글éß\u0301\u200b\u00a0\U0001f600\ud800[]1【】"


def wikitext_outside_markup_stays(dice: Dice) -> None:
    words = [f"w{number}w" for number in range(dice.randrange(1, 12))]
    parts = [f"{word}{dice.choice((' ', chr(10), ' ', ''))}{dice.choice(MARKUP)}" for word in words]
    source = dice.choice((" ", "\n", "\n\n", "")).join(parts)
    text = plain_text(source.replace("_", "\n").replace("\x02", "|")).text
    assert re.findall(r"w\d+w", text) == words
    assert not re.search(r"[\x00\x01]|\{\{|\[\[", text.replace("[[n]]", ""))


def wikitext_in_pieces_ends(dice: Dice) -> None:
    source = "".join(dice.choice(PIECES) + dice.choice(("", "", " ", "\n")) for _ in range(dice.randrange(80)))
    found = plain_text(source * dice.choice((1, 1, 1, 20)))
    assert not re.search("[\x00\x01]", found.text + "".join(found.categories))


def inline_markup_leaves_its_sentence_whole(dice: Dice) -> None:
    words = [f"word{number}" for number in range(30)]
    marked = " ".join(word + (dice.choice(INLINE) if dice.random() < 0.4 else "") for word in words)
    found = extract(f"<article><p>{marked}</p></article>".encode(), "text/html", None, "http://h/", Extractor.density)
    assert found.text == " ".join(words)


def letters_survive_their_charset(dice: Dice) -> None:
    label = dice.choice(list(LETTERS))
    codec = known_charset(label) or ""
    text = "".join(dice.choices(LETTERS[label] + " abc", k=dice.randrange(30, 200)))
    page = f"<meta charset={label}><p>".encode() + text.encode(codec)
    assert decode(page, dice.choice((None, label, label.upper())), "u").endswith(text)
    at = dice.randrange(len(page))
    broken = page[:at] + dice.randbytes(dice.randrange(3)) + page[at + dice.randrange(3) :]
    try:
        decode(broken, label, "u").encode("utf-8")
    except ExtractError as error:
        assert error.reason in ("binary", "undecodable")


def words_and_sentences_cover_the_text(dice: Dice) -> None:
    text = "".join(dice.choices(ALPHABET, k=dice.randrange(120)))
    assert not re.search(r"\w", WORD.sub("", text)) and (num_words(text) > 0 or not WORD.search(text))
    assert all(word and word == word.lower() for word in content_words(text))
    assert is_unspaced(text) == bool(CLUSTER.search(text))
    assert all(0 <= end <= len(text) for end in word_ends(text))
    last = 0
    for start, end in sentence_spans(text):
        assert last <= start < end and not text[last:start].strip() and text[start:end].strip() == text[start:end]
        last = end
    assert not text[last:].strip()
    assert all(number > 0 for number in parse_citations(text))


def an_article_in_json_is_read_as_it_was_written(dice: Dice) -> None:
    words = [
        f"word{number}{dice.choice(('', ',', '.', ' &', ' <', chr(34), chr(92), 'é', '漢'))}" for number in range(60)
    ]
    data = json.dumps({"@type": "Article", "articleBody": " ".join(words)}, ensure_ascii=dice.random() < 0.5)
    script = f"<script type='application/ld+json'>{data}</script>"
    page = f"<title>t</title>{script}<p>Please enable scripts.</p>{'<noscript>x</noscript>' * dice.randrange(2)}"
    found = extract(page.encode(), "text/html", None, "http://h/", Extractor.density)
    assert found.text == clean_text(" ".join(words))


def urls_have_one_spelling(dice: Dice) -> None:
    host = "".join(dice.choices("abz09-._ßς漢字éİıＡ。．\u200d\u00adक्ष☃😀ש", k=dice.randrange(1, 24)))
    url = normalise_url(
        f"{dice.choice(('http', 'HTTPS'))}:{dice.choice(('//', chr(92) * 2))}{host}/{dice.choice(ALPHABET)}"
    )
    assert url is None or (url.isascii() and normalise_url(url) == url)


def robots_are_obeyed_however_they_spell_the_agent(dice: Dice) -> None:
    name = "".join(dice.choice((char.upper(), char)) for char in "rag-hpc")
    agent = name + dice.choice(("", "/0.1", "/2 (+http://h/)", " *", ";x", "\t# note"))
    line = dice.choice(("User-agent: ", "user-agent:", "USER-AGENT : ", " User-Agent:\t")) + agent
    lines = ["User-agent: other", "Disallow:", "", line, "Disallow: /private", "", "User-agent: *", "Allow: /"]
    body = dice.choice(("\n", "\r\n", "\r")).join(lines).encode(dice.choice(("utf-8", "utf-8-sig", "utf-16")))
    rules = parse_robots(body, "http://h/robots.txt", "rag-hpc")
    assert not rules.allows("http://h/private/x") and rules.allows("http://h/public")


def sitemaps_give_their_urls_in_order(dice: Dice) -> None:
    urls = [f"http://h/{number}" for number in range(dice.randrange(1, 9))]
    blanks = [dice.choice(("", " ", "\n")) for _ in urls]
    junk = [
        dice.choice(
            (
                "",
                "<lastmod>2024</lastmod>",
                "<!-- x -->",
                "<n>a & b</n>",
                "<i:image><i:loc>http://h/i</i:loc></i:image>",
                "<br>",
            )
        )
        for _ in urls
    ]
    entries = (
        f"<url>{extra}<loc>{blank}{url}{blank}</loc></url>"
        for url, blank, extra in zip(urls, blanks, junk, strict=True)
    )
    head = dice.choice(("", "\n", "\ufeff", "<?xml version='1.0' encoding='utf-8'?>", "\n<?xml version='1.0'?>\n"))
    pages, inner, _ = parse_sitemap(f"{head}<urlset xmlns:i='x'>{''.join(entries)}</urlset>".encode())
    assert (pages, inner) == (urls, [])


def chunks_are_joined(dice: Dice) -> None:
    body, wire, at = dice.randbytes(dice.randrange(1, 300)), b"", 0
    while at < len(body):
        piece = body[at : at + dice.randrange(1, 60)]
        extra = dice.choice((b"", b";a=b", b" ", b';sig="' + b"x" * dice.randrange(500) + b'"'))
        wire += b"%x%s\r\n%s\r\n" % (len(piece), extra, piece)
        at += len(piece)
    whole = dechunked(wire + b"0\r\n" + dice.choice((b"", b"X: y\r\n")) + b"\r\n")
    assert whole.data == body and not whole.cut
    cut = dechunked(wire[: dice.randrange(len(wire))])
    assert cut.data is None or len(cut.data) <= len(body) + 520
    dechunked(bytes(dice.choice((byte, byte, byte, 10, 48)) for byte in wire))


def numbers_make_ids_unique(dice: Dice) -> None:
    ids = [
        dice.choice("ab") + dice.choice(("", "", "#2", "#3", "#07", "#x", "#2#2")) for _ in range(dice.randrange(1, 20))
    ]
    firsts, again = list(dict.fromkeys(ids)), []
    for at, doc_id in enumerate(ids):
        if doc_id in ids[:at]:
            again.append(doc_id)
    numbers = Numbers(again)
    numbers.add(doc_id for doc_id in firsts if split_id(doc_id)[1] > 1)
    renamed = [with_number(doc_id, int(number)) for doc_id, number in zip(again, numbers.given(), strict=True)]
    assert len({*firsts, *renamed}) == len(ids)


def text_is_clean_once_for_all(dice: Dice) -> None:
    text = "".join(dice.choices(ALPHABET + "\r\t\x0b\x85\x1f\u2028\ufeff\u3000\u0316", k=dice.randrange(80)))
    found = clean_text(text)
    assert clean_text(found) == found == unicodedata.normalize("NFC", found)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\xa0\u00ad\u2028\ufeff]|[ \t]\n|\n{3}", found)


CHECKS: list[Callable[[Dice], None]] = [
    wikitext_outside_markup_stays,
    wikitext_in_pieces_ends,
    inline_markup_leaves_its_sentence_whole,
    letters_survive_their_charset,
    words_and_sentences_cover_the_text,
    an_article_in_json_is_read_as_it_was_written,
    urls_have_one_spelling,
    robots_are_obeyed_however_they_spell_the_agent,
    sitemaps_give_their_urls_in_order,
    chunks_are_joined,
    numbers_make_ids_unique,
    text_is_clean_once_for_all,
]


@pytest.mark.parametrize("check", CHECKS)
def test_what_is_known_of_an_input_holds_for_its_text(check: Callable[[Dice], None]) -> None:
    for number in range(NUM_INPUTS):
        begun = time.process_time()
        try:
            check(random.Random(f"{check.__name__} {number}"))
        except AssertionError as error:
            raise AssertionError(f"input {number}") from error
        assert number == 0 or time.process_time() - begun < 2, number  # the first one compiles
