from __future__ import annotations

import numpy as np
import pytest

from rag_hpc.algo.extract.density import scan_page
from rag_hpc.algo.extract.extract import Extractor, extract
from rag_hpc.algo.extract.mend import mended

LINE = "Stir the dough for ten minutes, cover it with a cloth, and leave it alone until it has doubled in size. "
INGREDIENTS = ["500 g Mehl", "1 Prise Salz", "300 ml lauwarmes Wasser", "20 g frische Hefe", "2 EL Olivenöl"]
MENU = "<nav><ul>" + "".join(f"<li><a href='/{k}'>Rubrik {k}</a></li>" for k in range(12)) + "</ul></nav>"
BOXES = "".join(
    f"<div class='x{k}'><h3>Meistgelesen</h3><ul>"
    + "".join(f"<li><a href='/{k}{j}'>Was der Nachbar {j} dazu sagt, und warum es {k} wurde</a></li>" for j in range(9))
    + "</ul></div>"
    for k in range(4)
)
LETTER = (
    "<div class='box'><h3>Newsletter</h3><p>Jeden Morgen das Wichtigste, kostenlos und ohne Umweg in Ihr Postfach.</p>"
    "<form><input name='mail'><button>Anmelden</button></form></div>"
)
SHORT = [
    "Der Gemeinderat hat am Dienstag beschlossen, die alte Mühle am Bach zu kaufen und zu sanieren.",
    "Die Kosten liegen bei 1,2 Millionen Euro, die Hälfte davon trägt das Land.",
    "Im Frühjahr sollen die Arbeiten beginnen, sagte die Bürgermeisterin.",
]


def text(body: str) -> str:
    page = f"<html><body>{body}</body></html>".encode()
    return extract(page, "text/html", "utf-8", "http://h/p", Extractor.density).text


def kept(body: str, estimates: list[float], chosen: list[int]) -> list[int]:
    page = scan_page(body.encode(), "http://h/p")
    assert len(page.blocks) == len(estimates)
    found: list[int] = mended(page, np.array(estimates), np.array(chosen)).tolist()
    return found


def test_ingredients_of_a_recipe_are_kept() -> None:
    items = "".join(f"<li>{item}</li>" for item in INGREDIENTS)
    steps = "".join(f"<p>{LINE}{k}</p>" for k in range(4))
    found = text(f"{MENU}<div class='c'><h1>Fladenbrot</h1><p>{LINE}</p><ul>{items}</ul>{steps}</div>{BOXES}")
    assert [item for item in INGREDIENTS if item not in found] == []
    assert "Rubrik" not in found and "Nachbar" not in found


def test_text_in_a_table_is_kept() -> None:
    rows = "".join(f"<tr><td>Schritt {k}</td><td>{LINE}</td></tr>" for k in range(5))
    found = text(f"{MENU}<div><h1>Anleitung</h1><p>{LINE}</p><table>{rows}</table><p>{LINE}</p></div>{BOXES}")
    assert [k for k in range(5) if f"Schritt {k} | Stir" not in found] == []


def test_short_article_beside_long_furniture() -> None:
    article = "".join(f"<p>{line}</p>" for line in SHORT)
    tags = "<p>Schlagworte: <a href='/1'>Mühle</a> <a href='/2'>Gemeinderat</a></p>"
    found = text(f"{MENU}<div class='a'><h1>Mühle wird gekauft</h1>{article}{tags}</div>{LETTER}{BOXES}{LETTER}")
    assert [line for line in SHORT if line not in found] == []
    assert "Nachbar" not in found


@pytest.mark.parametrize("item", ["<li>{}</li>", "<tr><td>{}</td></tr>"])
def test_items_between_kept_items_are_kept_links_are_not(item: str) -> None:
    texts = ["one", "two", "three", "<a href='/'>all the others</a>", "five", "six", "seven"]
    list_ = "ul" if "li" in item else "table"
    body = f"<{list_}>" + "".join(item.format(one) for one in texts) + f"</{list_}>"
    assert kept(body, [0.9] + [0.1] * 5 + [0.9], [0, 6]) == [0, 1, 2, 4, 5, 6]
    assert kept(body, [0.1] * 6 + [0.9], [6]) == [6]


def test_paragraphs_between_two_of_the_same_parent_are_kept() -> None:
    body = "<p>one</p><p>two</p><h2>three</h2><p>four</p>"
    assert kept(body, [0.9, 0, 0, 0.9], [0, 3]) == [0, 1, 3]
    assert kept(f"<div>{body}</div><p>five</p>", [0.9, 0, 0, 0, 0.9], [0, 4]) == [0, 4]
    assert kept("<p>one</p>" + "<p>more</p>" * 3 + "<p>five</p>", [0.9, 0, 0, 0, 0.9], [0, 4]) == [0, 4]


def test_what_stands_beside_has_to_be_surer_unless_it_is_most() -> None:
    body = f"<p>{LINE}</p><aside><p>{LINE[:60]}</p><p>{LINE[:50]}</p></aside>"
    assert kept(body, [0.6, 0.6, 0.8], [0, 1, 2]) == [0, 2]
    assert kept(f"<aside>{body}</aside>", [0.6, 0.6, 0.6], [0, 1, 2]) == [0, 1, 2]


def test_a_short_article_keeps_the_h1_right_before_it() -> None:
    body = "<h1>one</h1><p>two {}</p>"
    assert kept(body.format(""), [0.1, 0.9], [1]) == [0, 1]
    assert kept(body.format(LINE * 10), [0.1, 0.9], [1]) == [1]
    assert kept(f"<div><h1>one</h1></div><p>{LINE}</p>", [0.1, 0.9], [1]) == [1]
