"""Clause 15 of the specification: the compiled form of a tokenizer; numbers in comments are clauses."""

import json
from dataclasses import dataclass

from naive_container import Broken, Reader, need, unzigzag

NAME, FORM = "tokenizer.json", "tokenizer.json#compiled"
VERSION = 1


@dataclass
class Compiled:
    settings: dict  # tokenizer.json without truncation, padding, vocab and merges
    vocab: dict  # token: id
    merges: list  # pairs of tokens, in the order of their priority


def compiled(objects):
    """The compiled form in a file, or None if a reader ignores it (3.4.5, 15.2). `objects` maps objects to their bytes."""
    named = {obj.name: obj for obj in objects}
    if NAME not in named or FORM not in named:
        return None
    units = sorted(named[NAME].units.values(), key=lambda unit: unit.tile)
    hashes = b"".join(unit.hash for unit in units)
    form = objects[named[FORM]]
    if form[:len(hashes)] != hashes:  # 3.4.5
        return None
    try:
        return read_compiled(form[len(hashes):])
    except Broken:
        return None


def read_compiled(form):
    reader = Reader(form, "15.1", "the compiled form")
    version = reader.varint()
    need(version == VERSION, "15.1", f"the form has version {version}")
    settings_length, ids, text_length, merge_count = (reader.varint() for _ in range(4))
    try:
        settings = json.loads(reader.take(settings_length))
    except ValueError as error:
        raise Broken("15.1", f"the settings are not JSON: {error}") from error
    lengths = [reader.varint() for _ in range(ids)]
    need(sum(lengths) == text_length, "15.2", "the lengths do not add up to the text length")
    tokens = []
    for length in lengths:
        try:
            tokens.append(bytes(reader.take(length)).decode())
        except UnicodeDecodeError as error:
            raise Broken("15.2", f"token {len(tokens)} is not whole characters") from error
    vocab = {token: number for number, token in enumerate(tokens) if token}
    need(len(vocab) == sum(length > 0 for length in lengths), "15.2", "two tokens have the same text")
    need(ids == 0 or tokens[-1], "15.1", "the largest id has no token")
    results, previous = [], -1
    for _ in range(merge_count):
        previous += unzigzag(reader.varint()) + 1
        need(0 <= previous < ids and tokens[previous], "15.2", "a merged token is not in the vocabulary")
        results.append(tokens[previous].encode())
    merges = []
    for merged in results:
        left = reader.varint()
        try:
            pair = merged[:left].decode(), merged[left:].decode()
        except UnicodeDecodeError as error:
            raise Broken("15.2", "a merge splits a character") from error
        need(left < len(merged) and all(token in vocab for token in pair), "15.2", "a part is not in the vocabulary")
        merges.append(pair)
    need(reader.at_end(), "15.1", "bytes follow the lefts")
    return Compiled(settings, vocab, merges)
