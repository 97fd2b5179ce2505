"""What a reader of Wikipedia sees where its source has templates, tags, conversion marks and listings."""

from __future__ import annotations

import pytest

from rag_hpc.sources.wiki.wikitext import plain_text

SHOWN = {
    "The war of 1939{{ndash}}45 and the season 2010{{en dash}}11.": "The war of 1939–45 and the season 2010–11.",
    "It is 5{{nbsp}}km to the pier{{snd}}a short walk.": "It is 5 km to the pier – a short walk.",
    "pages 10{{Ndash}}20, 15{{Nbsp}}September{{Mdash}}or so": "pages 10–20, 15 September—or so",
    "a{{spaced ndash}}b{{·}}c{{'}}d{{\\}}e{{=}}f{{!}}g{{spaces|2}}h": "a – b · c'd / e=f|g  h",
    "10{{sup|3}} and CO{{sub|2}}, {{frac|1|2}}, {{frac|3|1|2}} and {{sfrac|5}}": "10³ and CO2, 1/2, 3 1/2 and 1/5",
    "{{val|1.5|0.1|e=3|u=km}}, 5{{e|-3}}, {{gaps|1|234|567}}": "1.5±0.1×10³ km, 5×10⁻³, 1234567",
    "{{formatnum:1234}} and {{lc:AB}}": "1234 and AB",
    "{{convert|10|-|20|km|mi}}, {{cvt|5|to|6|m}}, {{convert|6|ft|2|in|m}}": "10–20 km, 5 to 6 m, 6 ft 2 in",
    "{{circa|1500}}, {{c.|1600|1610}}, {{reign|1500|1520}}, {{fl.}}": "c. 1500, c. 1600–1610, r. 1500–1520, fl.",
    "{{as of|2010|5}} and {{as of|2011|lc=y}}, {{start date|1950|1|2}}, {{dts|2000|12|31|df=y}}": (
        "As of May 2010 and as of 2011, January 2, 1950, 31 December 2000"
    ),
    "{{US$|100}} or {{€|5}} or {{INR|7}} or {{GBP|1.50}}": "US$100 or €5 or ₹7 or £1.50",
    "{{nihongo|Tokyo|東京|Tōkyō}} and {{lang|ja|京都}} and {{lang-fr|Paris}} and {{ruby|漢字|かんじ}}": (
        "Tokyo (東京, Tōkyō) and 京都 and Paris and 漢字"
    ),
    "the {{USS|Enterprise|CVN-65}}, {{ship|HMS|Victory}}, a {{sclass|Nimitz|aircraft carrier}}": (
        "the USS Enterprise, HMS Victory, a Nimitz-class aircraft carrier"
    ),
    "{{ill|Anna Muster|de}}, {{sortname|Jane|Doe}}, {{flag|France}}, {{flagicon|FR}}x": (
        "Anna Muster, Jane Doe, France, x"
    ),
    "{{key press|Ctrl|C}} runs {{code|print(x)}} or {{mono|ls}}": "Ctrl+C runs print(x) or ls",
    "{{nowrap|1=a = b}}, {{lang|fr|text=là}}, {{abbr|Dr|Doctor}}, {{nobr|[[x|y]] z}}": "a = b, là, Dr, y z",
    "{{template:ndash}}{{ NDASH }}{{en_dash}}": "–––",
    "{{sic}} {{sic|teh}} {{yes}} {{no|Never}} {{nonsense|words}}.": "[sic] teh [sic] Yes Never .",
    "{{hlist|a|b}}; H{{chem|2|O}}; {{angbr|th}}; {{gloss|dog}}": "a, b; H2O; ⟨th⟩; 'dog'",
}
SHOWN |= {
    "{{transl|ja|Hepburn|Tōkyō}}, {{transliteration|ru|Moskva}}, {{lang-zh|t=電腦|p=diànnǎo}}": (
        "Tōkyō, Moskva, 電腦; diànnǎo"
    ),
    "{{unité|10|km}} au {{s-|XIX|e}}, XX{{e}} et {{1er}}, {{XVIIIe siècle}}, {{date-|1 janvier 2000}}": (
        "10 km au XIXe siècle, XXe et 1er, XVIIIe siècle, 1 janvier 2000"
    ),
    "{{仮リンク|物|en|thing}} {{tsl|en|Object|物件}} {{link-en|物|x}} {{JIS2004フォント|辻}}": "物 物件 物 辻",
    "{{要出典範囲|文|date=x}}": "文",
    "（{{bd|1881年|9月25日|1936年|10月19日}}）{{bd|1950年}}": "（1881年9月25日－1936年10月19日）1950年",
    "{{ordinal|11}} {{ord|22}}, {{height|ft=6|in=2}}, {{Euro|5}}, {{§|823|BGB}}, 44 {{BCE}}": (
        "11th 22nd, 6 ft 2 in, €5, § 823 BGB, 44 BCE"
    ),
    "It {{cn span|is text|date=2020}} and {{sort|a}}, {{death date and age|2000|1|2|1950|3|4}}.": (
        "It is text and a, January 2, 2000."
    ),
    "x {{flatlist|\n* a\n* b\n}} y\n{{columns-list|colwidth=9em|\n* c\n}}": "x\n- a\n- b\ny\n\n- c",
    "a<includeonly>hidden</includeonly>b<noinclude>c</noinclude>": "abc",
}
QUOTATIONS = [
    "{{blockquote|text=We shall rebuild it.|author=The mayor}}",
    "{{quote|1=We shall rebuild it.}}",
    "{{quote|We shall rebuild it.|The mayor}}",
    "{{Cquote|quote=We shall rebuild it.|source=x}}",
    "{{quote box|title=x|quote=We shall rebuild it.|width=30%}}",
    "{{rquote|right|We shall rebuild it.|x}}",
    "{{Zitat-en|We shall rebuild it.|Übersetzung}}",
    "{{Zitat|Text=We shall rebuild it.|Autor=x}}",
    "{{Citation bloc|We shall rebuild it.}}",
    "{{cita|We shall rebuild it.}}",
    "{{Citazione|We shall rebuild it.}}",
    "{{Цитата|We shall rebuild it.}}",
    "{{Cytat|We shall rebuild it.}}",
]
BRACKETS = {
    "Begin in <code>main()</code>, then <code>exit()</code>; foo( ) and f(,) too": (
        "Begin in main(), then exit(); foo( ) and f(,) too"
    ),
    "Rome ({{IPA|x}}), Paris ({{IPA|x}}; west), Bonn (<ref>x</ref>) and Ulm (a; {{IPA|x}})": (
        "Rome, Paris (west), Bonn and Ulm (a; )"
    ),
    "Oslo ( {{a}}, {{b}} ) has [[f()|g()]] and ()": "Oslo has g() and ()",
    "Z ({{a}}/{{b}}), W ({{a}} – {{b}}), U (<ref name=x />), 京（{{a}}）、西（{{a}}、x）": "Z, W, U, 京、西（x）",
    "{{nowrap|Kyiv ({{IPA|x}})}} and [[Lviv|Lviv ({{x}}; old)]]": "Kyiv and Lviv (old)",
}
TAGS = {
    "A <code>List<String></code> and <code>vector<int></code>, Map<K, List<V>>": (
        "A List<String> and vector<int>, Map<K, List<V>>"
    ),
    "Include <stdio.h> and <sys/types.h>, write <YourName> or <your-name>": (
        "Include <stdio.h> and <sys/types.h>, write <YourName> or <your-name>"
    ),
    "a <foo bar='1'>b</foo> <[[x]]> c": "a <foo bar='1'>b</foo> <x> c",
    "x<br />y<BR>z <span class=a>s</span> <u>t</u> <templatestyles src=x /><section begin=a />": "x\ny\nz s t",
    "<ruby>漢字<rp>(</rp><rt>かんじ</rt><rp>)</rp></ruby>は <ce>H2O</ce>": "漢字は H2O",
    "&lt;div&gt; and <nowiki><b></nowiki>": "<div> and <b>",
}
VARIANTS = {
    "歐洲的-{zh-hans:计算机; zh-hant:電腦}-產業，-{zh-cn:内存; zh-tw:記憶體}-價格": "歐洲的電腦產業，記憶體價格",
    "欧洲的-{zh-hans:计算机; zh-hant:電腦}-产业，-{zh-tw:記憶體;zh-cn:内存;}-这": "欧洲的计算机产业，内存这",
    "-{記憶體}-是一個詞，-{R|北京}-，-{A|zh-cn:博客; zh-hk:網誌; zh-tw:部落格;}-": "記憶體是一個詞，北京，部落格",
    "a-{H|zh-cn:x;zh-tw:y}-b-{T|zh:t}-c-{}-d": "abcd",
    "Он -{sr-ec:је;sr-el:je}- ту": "Он је ту",
    "On -{sr-ec:је;sr-el:je}- tu": "On je tu",
    "這-{zh-hans:[[计算机|机]]; zh-hant:{{lang|zh|電腦}}}-個": "這電腦個",
    "這-{zh-hans:a&nbsp;b; zh-hant:c&nbsp;d}-個": "這c\u00a0d個",
    "這-{電腦=>zh-cn:计算机;}-個": "這计算机個",
    "x-{open and f(x)-{y": "x-{open and f(x)-{y",
    "{{nowrap|a}}-b and a}-c": "a-b and a}-c",
}
LISTINGS = {
    "In C:\n\n #include <stdio.h>\n int main(void) {\n     return 0;\n }\n\nEnd": (
        "In C:\n\n```\n#include <stdio.h>\nint main(void) {\n    return 0;\n}\n```\n\nEnd"
    ),
    "Shell:\n # ls -l\n \n * x = 1\nEnd": "Shell:\n```\n# ls -l\n\n* x = 1\n```\nEnd",
    " == no heading ==\n<nowiki>#</nowiki> x": "```\n== no heading ==\n```\n# x",
    "a\n \nb\n {{gone}}\nc<br> d": "a\n\nb\n\nc\nd",
    "{|\n| a\n b\n|}": "a\nb",
    "He said {{quote|x}} and went.\n{|\n|a\n|} after": "He said\nx\nand went.\n\na\n\nafter",
    "a\n<blockquote>\n quoted\n</blockquote>\nb <blockquote> c": "a\n\nquoted\n\nb\nc",
    "<ref/> a\n<pre>b\nc</pre> d": "a\n\n```\nb\nc\n```\nd",
}


@pytest.mark.parametrize("source", SHOWN)
def test_templates_that_stand_for_text_show_it(source: str) -> None:
    assert plain_text(source).text == SHOWN[source]


@pytest.mark.parametrize("quotation", QUOTATIONS)
def test_quotations_are_kept_however_their_text_is_given(quotation: str) -> None:
    text = plain_text(f"The mayor said:\n{quotation}\nand later").text
    assert text == "The mayor said:\n\nWe shall rebuild it.\n\nand later"


@pytest.mark.parametrize("source", BRACKETS)
def test_only_brackets_in_which_something_stood_are_removed(source: str) -> None:
    assert plain_text(source).text == BRACKETS[source]


@pytest.mark.parametrize("source", TAGS)
def test_what_is_no_tag_of_mediawiki_is_text(source: str) -> None:
    assert plain_text(source).text == TAGS[source]


@pytest.mark.parametrize("source", VARIANTS)
def test_a_word_in_several_scripts_is_read_in_that_of_the_page(source: str) -> None:
    assert plain_text(source).text == VARIANTS[source]


@pytest.mark.parametrize("source", LISTINGS)
def test_lines_that_begin_with_a_space_are_a_listing(source: str) -> None:
    assert plain_text(source).text == LISTINGS[source]
