"""README.md and README.zh.md say the same: one cannot change without the other. What stands between the marks of the results is made by publish."""

import re

import pytest

from nrms import ROOT
from nrms.report.publish import BEGIN, END

NAMES = ("README.md", "README.zh.md")
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
STARTS = (("fence", "```"), ("heading", "#"), ("table", "|"), ("code", "    "), ("item", "- "))
EXAMPLES = "reports/examples"


def blocks(text):
    """[(kind, text)] of a README, in order: heading, paragraph, item, table, code (indented), fence, results (with their marks)."""
    found, rest = [], text
    while rest := re.sub(r"\A(?:[ \t]*\n)+", "", rest):
        kind = next((kind for kind, start in STARTS if rest.startswith(start)), "paragraph")
        if rest.startswith(BEGIN):
            kind, end = "results", rest.index(END) + len(END)
        elif kind == "fence":
            end = rest.index("\n```", 3) + 4
        elif kind == "code":
            end = re.match(r"(?:    .*(?:\n|\Z)|[ \t]*\n(?=\s*^    ))+", rest, re.M).end()
        elif kind in ("heading", "item"):
            end = re.match(r".*", rest).end()
        else:
            end = re.match(r"(?:(?!```|#{1,6} ).+(?:\n|\Z))+", rest).end()
        found.append((kind, rest[:end].strip("\n")))
        rest = rest[end:]
    return found


def sections(text):
    """[(level of the heading, blocks below it)] of a README, the results left out and, where a README explains them, the paragraph before them."""
    found = []
    for kind, block in blocks(text):
        if kind == "heading":
            found.append((len(block) - len(block.lstrip("#")), []))
        elif kind == "results":
            found[-1][1].append((kind, ""))
        else:
            found[-1][1].append((kind, block))
    for _, inside in found:
        kinds = [kind for kind, _ in inside]
        if kinds[:2] == ["paragraph", "results"]:
            del inside[0]
    return found


def prose(inside):
    """The text of a section without its code blocks."""
    return "\n".join(block for kind, block in inside if kind not in ("code", "fence"))


def columns(row):
    """How many cells a row of a table has; a bar in code is none."""
    return INLINE.sub("", row).strip().strip("|").count("|") + 1


@pytest.fixture(scope="module")
def texts():
    """Both READMEs, English first."""
    return [(ROOT / name).read_text(encoding="utf-8") for name in NAMES]


@pytest.fixture(scope="module")
def pairs(texts):
    """(English, Chinese) blocks of each section."""
    english, chinese = map(sections, texts)
    assert [level for level, _ in english] == [level for level, _ in chinese]
    return [(ours, theirs) for (_, ours), (_, theirs) in zip(english, chinese, strict=True)]


def test_a_readme_is_read_into_blocks():
    """Every kind of block is known, a comment in a fence is no heading, and an empty line does not end an indented block."""
    text = f"# a\n\nb\nb\n\n    c\n\n    c\n| d | `|` |\n|---|---|\n\n```sh\n# e\n```\n\n## f\ng\n\n{BEGIN}- h\n{END}\n\n- i\n"
    kinds = [kind for kind, _ in blocks(text)]
    assert kinds == ["heading", "paragraph", "code", "table", "fence", "heading", "paragraph", "results", "item"]
    assert blocks(text)[2][1] == "    c\n\n    c" and columns("| d | `|` |") == 2
    assert sections(text)[1] == (2, [("results", ""), ("item", "- i")])


def test_each_readme_links_to_the_other(texts):
    """In its first lines, below its title."""
    for text, other in zip(texts, reversed(NAMES), strict=True):
        assert f"]({other})" in "".join(text.splitlines()[:4])


def test_headings_are_the_same(texts):
    """As many, of the same levels, in the same order; the title too."""
    english, chinese = ([block for kind, block in blocks(text) if kind == "heading"] for text in texts)
    assert [h.split()[0] for h in english] == [h.split()[0] for h in chinese] and english[0] == chinese[0]


def test_sections_have_the_same_blocks(pairs):
    """Paragraphs, lists, tables and code follow each other in the same order; the sentence about the results aside."""
    for ours, theirs in pairs:
        assert [kind for kind, _ in ours] == [kind for kind, _ in theirs], prose(ours)


def test_code_blocks_and_results_are_the_same(texts):
    """Fenced and indented blocks and what publish wrote, character by character, in the same order."""
    english, chinese = ([b for b in blocks(text) if b[0] in ("code", "fence", "results")] for text in texts)
    assert english == chinese and {kind for kind, _ in english} == {"code", "fence", "results"}


def test_tables_are_the_same(pairs):
    """Each has as many rows and columns, and each row the same terms in code, in whatever order."""
    for ours, theirs in pairs:
        for english, chinese in zip(*([block.splitlines() for kind, block in inside if kind == "table"] for inside in (ours, theirs)), strict=True):
            for row, other in zip(english, chinese, strict=True):
                assert sorted(INLINE.findall(row)) == sorted(INLINE.findall(other)), f"{row}\n{other}"
                assert columns(row) == columns(other), f"{row}\n{other}"


def test_terms_in_code_are_the_same(pairs):
    """Each section, tables or not, names the same files, commands and parameters."""
    for ours, theirs in pairs:
        assert set(INLINE.findall(prose(ours))) == set(INLINE.findall(prose(theirs)))


def test_numbers_are_the_same(pairs):
    """Every number that a section of README.md has in figures stands in that of README.zh.md, which may have more: six is 6 there."""
    for ours, theirs in pairs:
        assert not set(NUMBER.findall(prose(ours))) - set(NUMBER.findall(prose(theirs)))


def test_links_are_the_same(texts):
    """The same targets, each as often, the two READMEs aside."""
    english, chinese = (sorted(target for target in LINK.findall(text) if target not in NAMES) for text in texts)
    assert english == chinese and english


@pytest.mark.parametrize("name", NAMES)
def test_what_a_readme_links_to_is_there(name):
    """Every relative target is a file of the repository; those of the example reports only where publish has made them."""
    targets = {target.partition("#")[0] for target in LINK.findall((ROOT / name).read_text(encoding="utf-8")) if "://" not in target}
    if not (ROOT / EXAMPLES).is_dir():
        targets = {target for target in targets if not target.startswith(f"{EXAMPLES}/")}
    assert not [target for target in targets if not (ROOT / target).is_file()]
    assert set(NAMES) - {name} <= targets
