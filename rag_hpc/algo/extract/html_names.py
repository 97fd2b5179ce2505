"""Names that mean something in HTML: tags by how they nest, and the words that sites put into class and id."""

from __future__ import annotations

import numpy as np

from rag_hpc.algo.types import I64, U64

# How a tag is treated. Tags that are not listed are inline: they neither nest nor break a line. What is skipped but no
# block leaves its sentence whole, with a GAP between the words on both sides of a box that browsers draw.
BLOCK, RAW, SKIP, CLOSES_P, SCOPE, TABLE_PART, HEADING, BREAK, LINK, MARK, GAP, READING, BASE = (
    1 << i for i in range(13)
)
_FLOW = BLOCK | CLOSES_P
KINDS = {
    "html": MARK,
    "body": 0,
    "a": LINK,
    "br": BREAK,
    "hr": BREAK | CLOSES_P,
    "p": _FLOW,
    "li": _FLOW,
    "dt": _FLOW,
    "dd": _FLOW,
    "pre": _FLOW,
    "td": BLOCK | SCOPE | TABLE_PART,
    "th": BLOCK | SCOPE | TABLE_PART,
    "h1": _FLOW | HEADING,
    "h2": _FLOW | HEADING,
    "h3": _FLOW | HEADING,
    "h4": _FLOW | HEADING,
    "h5": _FLOW | HEADING,
    "h6": _FLOW | HEADING,
    "tr": BLOCK | TABLE_PART,
    "table": BLOCK | SCOPE | TABLE_PART,
    "thead": BLOCK | TABLE_PART,
    "tbody": BLOCK | TABLE_PART,
    "tfoot": BLOCK | TABLE_PART,
    "caption": BLOCK | SCOPE,
    "blockquote": _FLOW,
    "figure": _FLOW,
    "figcaption": _FLOW,
    "ul": _FLOW,
    "ol": _FLOW,
    "dl": _FLOW,
    "menu": _FLOW,
    "div": _FLOW,
    "section": _FLOW,
    "article": _FLOW,
    "main": _FLOW,
    "aside": _FLOW,
    "nav": _FLOW,
    "header": _FLOW,
    "footer": _FLOW,
    "form": _FLOW,
    "fieldset": _FLOW,
    "address": _FLOW,
    "center": _FLOW,
    "details": _FLOW,
    "summary": _FLOW,
    "listing": _FLOW,
    "hgroup": _FLOW,
    "legend": BLOCK,
    "dialog": _FLOW,
    "search": _FLOW,
    "dir": _FLOW,
    "option": BREAK,
    "label": 0,
    "script": RAW | MARK,
    "style": RAW,
    "noscript": RAW,
    "title": RAW | MARK,
    "textarea": RAW,
    "iframe": RAW,
    "noembed": RAW,
    "noframes": RAW,
    "xmp": RAW,
    "template": SKIP,
    "shadowroot": _FLOW,  # a template that browsers show
    "svg": SKIP,
    "select": SKIP | GAP,
    "button": SKIP | GAP,
    "object": SKIP | GAP | SCOPE,
    "canvas": SKIP | GAP,
    "video": SKIP | GAP,
    "audio": SKIP | GAP,
    "datalist": SKIP,
    "map": SKIP,
    "applet": SKIP | GAP | SCOPE,
    "annotation": SKIP,
    "annotation-xml": SKIP,
    "rt": READING,
    "rp": READING,
    "rtc": READING,
    "rb": BASE,
    "ruby": BASE,
    "meta": MARK,
    "link": MARK,
    "time": MARK,
}
TAGS = ["", *list(KINDS)]
CODE = {name: code for code, name in enumerate(TAGS)}

# Start tags that close open elements: the tags, what they close, and what they do not look past.
CLOSES, STOPS = 1, 2
_ALL_BUT = [name for name in TAGS if name not in ("div", "address", "p")]
IMPLIED = [
    (["li"], ["li"], _ALL_BUT),
    (["dt", "dd"], ["dt", "dd"], _ALL_BUT),
    (["td", "th"], ["td", "th"], ["tr", "table"]),
    (["tr"], ["tr"], ["table"]),
    (["thead", "tbody", "tfoot"], ["thead", "tbody", "tfoot"], ["table"]),
]

# Bits of `SEM`: which of these elements a block is inside of.
SEMANTIC = [
    "article",
    "main",
    "aside",
    "nav",
    "header",
    "footer",
    "figure",
    "figcaption",
    "form",
    "table",
    "ul",
    "ol",
    "li",
    "blockquote",
    "section",
    "dl",
    "address",
    "pre",
    "p",
    "details",
    "td",
    "hidden",
]

# Bits of `MASK`: words of class, id, role and itemprop, split at case changes and at all that is no letter.
GROUPS = {
    "comment": "comment comments commenter commentlist disqus respond replies reply livefyre discussion kommentare"
    " feedback viafoura spotim talkback"
    " kommentar kommentarer commentaire commentaires comentarios reacties",
    "sidebar": "sidebar side rail aside widget widgets complementary sidecol rightcol leftcol rhs secondary tertiary"
    " sidenav rightrail"
    " seitenleiste marginalspalte lateral",
    "nav": "nav navbar navigation menu menus submenu breadcrumb breadcrumbs crumb crumbs pager pagination paging"
    " pagenav tabs tablist sitemap skip subnav navi dropdown prev next topnav",
    "footer": "footer foot copyright colophon legal contentinfo bottom disclaimer fuss fusszeile impressum",
    "header": "header masthead banner topbar top head logo branding brand kopfzeile",
    "related": "related recommended recommend recommendation recommendations popular trending latest readmore teaser"
    " teasers promo promos promotion outbrain taboola recirc recirculation carousel slider slideshow more"
    " mostread read also upnext headlines river feed list cards card similar suggested suggestions"
    " featured hot spotlight grid seealso zergnet"
    " verwandte empfehlung empfehlungen meistgelesen beliebt relacionadas relacionados similaires",
    "share": "share sharing social socials facebook twitter addthis addtoany sharedaddy follow tools toolbar actions"
    " pinterest linkedin whatsapp email print sharebar sharethis likes like buttons button btn bookmark"
    " teilen partage partager compartir",
    "ad": "ad ads adv advert adverts advertisement advertising sponsor sponsored sponsors dfp gpt adslot adsense"
    " adbox banner commercial partner affiliate shopping advertise"
    " werbung anzeige anzeigen publicite publicidad reklame annonce",
    "byline": "byline author authors date time dateline timestamp published pubdate updated meta info credits"
    " contributor bio bylines postmeta publish writer avatar profile vcard reporter entrymeta postdate"
    " autor auteur datum fecha",
    "tags": "tags tag tagcloud topics topic categories category keywords labels hashtags taxonomy tagged cat"
    " schlagworte schlagwort themen etiquetas",
    "caption": "caption captions figcaption figure image images img photo photos media gallery video videos credit"
    " picture pic player embed lightbox thumbnail thumb wp"
    " bild bilder bildunterschrift foto fotos galerie",
    "subscribe": "newsletter subscribe subscription signup signin login register form paywall cookie cookies consent"
    " gdpr popup modal overlay dialog alert search offer donate membership premium promobox campaign"
    " notification loginform account user"
    " abonnieren abo anmelden",
    "content": "content article post entry story body text main page blog news bodytext copy document paragraph"
    " paragraphs topicbody mw markdown prose readme"
    " inhalt artikel beitrag contenu contenido texte texto noticia cuerpo",
    "hidden": "hidden hide noprint invisible sr visually screenreader offscreen none collapsed toggle tooltip",
    "lead": "summary lead intro introduction deck standfirst excerpt dek subtitle subheadline description subhead"
    " teasertext lede abstract highlights",
    "title": "title headline heading headlines kicker eyebrow header",
    "toc": "toc contents toctree tableofcontents jump anchors localtoc",
    "note": "note footnote footnotes references reference citation reflist editsection mwedit admonition notes edit",
    "quote": "quote pullquote blockquote pull factbox infobox box callout sidebarbox fact",
    "permalink": "headerlink anchorlink headinganchor hashlink permalink",
    "body": "articlebody entrycontent postcontent storybody maincontent articlecontent storycontent postbody"
    " articletext bodycontent contentbody newsbody storytext blogpost postarticle pagecontent newscontent"
    " articlecopy documentwrapper topictext",
}
# Bits of `cues`: words near the start of a block that tell what it is.
CUES = {
    "media": "photo photos image picture video credit getty shutterstock reuters pictured file screenshot illustration"
    " gallery istock"
    " foto fotos bild bilder bildquelle quelle symbolbild archivbild imagen fuente",
    "legal": "copyright rights reserved terms privacy policy licensed disclaimer cookies"
    " vorbehalten impressum datenschutz droits derechos reservados",
    "more": "read related see watch more also next previous continue click here view back recommended popular trending"
    " latest learn"
    " mehr lesen weiterlesen meistgelesen lire leer leggi lees",
    "social": "share follow like tweet facebook twitter instagram pinterest whatsapp email print youtube linkedin"
    " teilen folgen partager compartir condividi delen drucken",
    "ad": "advertisement sponsored ad promoted advertising anzeige werbung annonce publicidad advertentie reklame",
    "sign": "sign subscribe newsletter newsletters login log register account inbox password join download app"
    " anmelden abonnieren registrieren inscrivez abonnez suscribete iscriviti aanmelden passwort",
    "byline": "by published posted updated date author written min ago edited last modified created contributor"
    " uhr aktualisiert redaktion autor autorin auteur publicado gepubliceerd",
    "comment": "comment comments reply replies conversation leave"
    " kommentar kommentare kommentieren commentaire commentaires comentarios antworten reacties",
    "tags": "tags tagged filed categories category topics topic keywords under labels"
    " schlagworte schlagwort themen kategorie kategorien etiquetas categorias",
    "time": "january february march april may june july august september october november december jan feb mar apr jun"
    " jul aug sep sept oct nov dec monday tuesday wednesday thursday friday saturday sunday am pm est edt gmt"
    " januar februar juni juli oktober dezember montag dienstag mittwoch donnerstag freitag samstag sonntag janvier"
    " juin juillet septembre octobre novembre enero febrero marzo abril mayo junio julio agosto septiembre octubre"
    " noviembre diciembre",
}
# Class names and roles of what is shown on a click or by a search in the page, their parts joined
PANELS = (
    "tabpanel tabpane tabcontent tabcontents tabscontent tabspanel tabspane tabspanels tabitemcontent tabbedblock"
    " tabbedcontent sphinxtabspanel accordioncontent accordionpanel accordionbody accordionitem accordioncollapse"
    " collapsecontent collapsiblecontent panelcollapse expandercontent expandablecontent togglecontent faqanswer"
    " faqcontent readmorecontent morecontent spoilercontent detailscontent untilfound"
)
PANEL = 1 << 40  # beyond the bits of GROUPS, which nodes keep
GROUP_BIT = {name: 1 << bit for bit, name in enumerate(GROUPS)}

FNV_START, FNV_PRIME = 0xCBF29CE484222325, 0x100000001B3


def name_hash(name: str) -> int:
    """Return the 64-bit FNV-1a hash of a lower-case ASCII name, as the scanner computes it."""
    value = FNV_START
    for byte in name.encode("ascii"):
        value = ((value ^ byte) * FNV_PRIME) % (1 << 64)
    return value


def hash_table(entries: dict[str, int], bits: int) -> tuple[U64, I64]:
    """Return keys and values of an open-addressing table with 2**bits places; key 0 is empty."""
    keys, values = np.zeros(1 << bits, np.uint64), np.zeros(1 << bits, np.int64)
    for name, value in entries.items():
        place = name_hash(name) % (1 << bits)
        while keys[place]:
            place = (place + 1) % (1 << bits)
        keys[place], values[place] = name_hash(name), value
    return keys, values


def tag_table() -> tuple[U64, I64]:
    """Return the hash table from tag names to their codes."""
    return hash_table({name: code for name, code in CODE.items() if name}, 9)


def implied_table() -> I64:
    """Return CLOSES and STOPS by code of the start tag and code of the open element."""
    table = np.zeros((len(TAGS), len(TAGS)), np.int64)
    for starts, closed, stops in IMPLIED:
        for start in starts:
            table[CODE[start], [CODE[name] for name in closed]] |= CLOSES
            table[CODE[start], [CODE[name] for name in stops]] |= STOPS
    return table


def word_table() -> tuple[U64, I64]:
    """Return the hash table from words of class names to the bits of their groups, and to PANEL."""
    return _bit_table(GROUPS, dict.fromkeys(PANELS.split(), PANEL))


def cue_table() -> tuple[U64, I64]:
    """Return the hash table from words of the text to the bits of CUES."""
    return _bit_table(CUES)


def _bit_table(groups: dict[str, str], others: dict[str, int] | None = None) -> tuple[U64, I64]:
    bits = dict(others or {})
    for place, words in enumerate(groups.values()):
        for word in words.split():
            bits[word] = bits.get(word, 0) | 1 << place
    return hash_table(bits, 12)
