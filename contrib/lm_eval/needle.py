#!/usr/bin/env python3
"""Make a test of long contexts: a sentence (the needle) at several depths of texts of several lengths.

    needle.py --text TEXT --tokenizer FOLDER -o DATA/needle.jsonl [--lengths 512,1024,2048] [--depths 0,0.25,0.5,0.75,1] [--each 4]

TEXT is a UTF-8 text file that is long enough. FOLDER holds the tokenizer.json of the model. A context has at most LENGTH tokens with the
needle in it; the question, about 20 tokens, comes after it. The same options and text give the same file.
"""

import argparse
import json
import random
import sys
from pathlib import Path

from tokenizers import Tokenizer

CITIES = ("Lisbon", "Nairobi", "Oslo", "Lima", "Hanoi", "Quito", "Riga", "Accra", "Perth", "Tunis", "Bergen", "Kyoto")


def needle(random_):
    city, code = random_.choice(CITIES), random_.randrange(10_000, 100_000)
    return f"The secret number of {city} is {code}.", f"What is the secret number of {city}?", str(code)


def haystack(tokenizer, text, ids, length, depth, random_):
    """One item. The needle lies at a line break or blank next to `depth`, so that it never splits a word."""
    sentence, question, answer = needle(random_)
    room = length - len(tokenizer.encode(f" {sentence} ", add_special_tokens=False).ids)
    begin = random_.randrange(len(ids) - room + 1)
    part = tokenizer.decode(ids[begin : begin + room], skip_special_tokens=False)
    at = round(depth * len(part))
    blank = part.rfind(" ", 0, at)
    at = len(part) if depth >= 1 else max(blank, 0)
    context = f"{part[:at].rstrip()} {sentence} {part[at:].lstrip()}".strip()
    return {"context": context, "question": question, "answer": answer, "length": length, "depth": depth}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--lengths", type=lambda s: [int(x) for x in s.split(",")], default=[512, 1024, 2048])
    parser.add_argument("--depths", type=lambda s: [float(x) for x in s.split(",")], default=[0, 0.25, 0.5, 0.75, 1])
    parser.add_argument("--each", type=int, default=4, help="items of each length and depth")
    options = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(options.tokenizer / "tokenizer.json"))
    text = options.text.read_text(encoding="utf-8")
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    if len(ids) < max(options.lengths):
        sys.exit(f"{options.text}: {len(ids)} tokens, but the longest context has {max(options.lengths)}")
    random_ = random.Random(0)
    with options.output.open("w", encoding="utf-8") as file:
        for length in options.lengths:
            for depth in options.depths:
                for _ in range(options.each):
                    file.write(json.dumps(haystack(tokenizer, text, ids, length, depth, random_)) + "\n")


if __name__ == "__main__":
    main()
