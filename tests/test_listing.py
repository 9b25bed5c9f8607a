"""Cards: what titles say is text, pictures come along, words carry what colours do, and it fits a narrow screen."""

from dataclasses import replace

import numpy as np
import pytest

from nrms.serve import browse, open_run
from nrms.serve.browse import Browser
from nrms.serve.item_cards import LATEST, bar, compare
from nrms.serve.one_user import Served


@pytest.fixture(scope="module")
def models(finished):
    return [open_run(finished[exp]) for exp in ("exp3_gate", "exp4")]


@pytest.fixture
def user(models):
    """Somebody with a long history, who clicked something."""
    test = models[0].test
    return test.user[int(np.flatnonzero(test.history.lengths > LATEST)[0])]


def page_of(models, user, k=10):
    readers = [model.reader(user=user) for model in models]
    return compare(models, [model.rank(reader, k, reader.slate) for model, reader in zip(models, readers, strict=True)])


def test_bars_begin_at_zero():
    """On a scale from -1 to 3 zero stands at a quarter; 2 goes half the width to its right, -1 all the way to the left."""
    assert "left:25.0%;width:50.0%" in bar("text", 2, -1, 3) and "left:0.0%;width:25.0%" in bar("text", -1, -1, 3)
    assert ">+2.00<" in bar("text", 2, -1, 3) and ">2.00<" in bar("weight", 2, 0, 3, ".2f")


def test_both_models_and_every_click(models, user):
    """The history once, with weight and attention of each model; two lists; every listed title; the chosen item's rank."""
    text, reader = page_of(models, user, 5), models[0].reader(user=user)
    assert text.count("weight A") == text.count("weight B") == text.count("attention A") == text.count("attention B") == len(reader.history)
    assert text.count("<section>") == 2 and text.count("rank 1 ·") == 2 and text.count("clicked: rank") == 2
    assert f"{len(reader.history) - LATEST:,} earlier" in text and "What the numbers mean" in text


@pytest.mark.parametrize("short", [0, 1])
def test_histories_of_different_length(short, models, user):
    """Where one model reads fewer clicks than the other all that either reads are shown, in either order; at those it did not read it says so."""
    served = list(models)
    served[short] = object.__new__(Served)
    served[short].__dict__ = models[short].__dict__ | {"config": models[short].config.model_copy(update={"history": 3})}
    read, numeral = len(models[0].reader(user=user).history), "AB"[short]
    text = page_of(served, user)
    assert read > 3 and f"History: {read} clicks" in text and text.count("not read") == 2 * (read - 3)
    latest, *older = text[text.index("History: ") :].split('<li class="card ">')[1 : read + 1][2:4]
    assert "not read" not in latest and f'<span>weight {numeral}</span><span class="bar"></span><b>not read</b>' in older[0]
    assert text.count("weight A") == text.count("weight B") == text.count("attention A") == text.count("attention B") == read


def test_what_is_true_of_one_model_names_it(models, user):
    """Below the lists a meaning that both models share stands once, by itself; one that only a model has begins with its letter."""
    text = page_of(models, user)
    assert "<li>A: text: the rest of the lead, without picture." in text and "<li>B: text: the whole lead" in text
    assert text.count("<li>lead: ") == 1 and text.count("weight of a click: ") == 1


def test_a_picker_always_answers(finished, models, user, monkeypatch, capsys):
    """Whatever goes wrong behind a picker is a sentence beside it, with the traceback in stderr; the next pick is answered as before."""
    shown, box = [], {}
    made = Browser("newsroom-tiny", [finished["exp4"]], k=3)
    pickers = made.pickers
    monkeypatch.setattr(browse, "is_live", lambda: True)
    monkeypatch.setattr(browse, "display", lambda *_, **__: type("Handle", (), {"update": lambda _, page: shown.append(page)})())
    monkeypatch.setattr(made, "pickers", lambda user: box.update(all=pickers(user)) or box["all"])
    made.show(user)
    picker, said = box["all"][0]["user"], box["all"][0]["message"]
    other = next(name for name in made.served(made.first[0]).users if name != user)
    with monkeypatch.context() as patch:
        patch.setattr(made, "page", lambda *_: [][1])
        picker.value = other
    assert said.value.endswith("IndexError: list index out of range") and "Traceback" in capsys.readouterr().err and not shown
    picker.value = user
    assert said.value == "" and len(shown) == 1


def test_nothing_of_a_title_is_html(models, user):
    """Titles, categories and ids of strangers are escaped, wherever they stand."""
    evil = '<img src=x onerror="alert(1)">&'
    wrong = []
    for model in models:
        news = replace(
            model.tables.items, title=np.full_like(model.tables.items.title, evil), category=np.full_like(model.tables.items.category, evil)
        )
        wrong.append(object.__new__(type(model)))
        wrong[-1].__dict__ = model.__dict__ | {"tables": replace(model.tables, items=news), "name": evil}
    text = page_of(wrong, user)
    assert "<img src=x" not in text and "&lt;img src=x onerror=&quot;alert(1)&quot;&gt;&amp;" in text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(scheme, models, user, browser, tmp_path):
    """At 360 pixels nothing is cut off, every picture has pixels, nothing is asked of the network, and text stands out from its ground."""
    (tmp_path / "page.html").write_text(
        f'<!doctype html><meta charset="utf-8"><style>:root{{color-scheme:light dark}}</style>{page_of(models, user)}'
    )
    page, asked = browser.new_page(viewport={"width": 360, "height": 800}, color_scheme=scheme), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"file://{tmp_path / 'page.html'}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    images = page.evaluate("[...document.querySelectorAll('.nrms-list img')].map(i => i.naturalWidth)")
    assert images and min(images) > 0 and all(url.startswith(("file:", "data:")) for url in asked)
    assert (
        page.evaluate("getComputedStyle(document.querySelector('.nrms-list .title')).color")
        == {"light": "rgb(0, 0, 0)", "dark": "rgb(255, 255, 255)"}[scheme]
    )
