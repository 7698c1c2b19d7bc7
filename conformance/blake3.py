"""BLAKE3 (O'Connor, Aumasson, Neves, Wilcox-O'Hearn, 2020), unkeyed, 32-byte output, in pure Python.

Python's integers are unbounded, so one integer can hold a 32-bit word of many chunks at once: chunk `i` has bits 64 i
to 64 i + 31, and the 32 bits above leave room for carries. `_compress` is the standard compression function on such
integers; with one lane it is the textbook one.
"""

import struct

_IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
_PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
_QUARTERS = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
             (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))
_CHUNK_START, _CHUNK_END, _PARENT, _ROOT = 1, 2, 4, 8
_CHUNK, _BLOCK = 1024, 64
_LANES = 512  # chunks a batch: integers of 4 KiB, which stay in the cache


def _pack(words):
    """The integer whose lane i is words[i]."""
    return int.from_bytes(struct.pack("<%dQ" % len(words), *words), "little")


def _unpack(number, lanes):
    return struct.unpack("<%dQ" % lanes, number.to_bytes(8 * lanes, "little"))


def _compress(cv, block, counters, length, flags):
    """New chaining value (8 words), from one of 8 words and a block of 16 words; every word has a lane a counter."""
    ones = _pack([1] * len(counters))
    mask = ones * 0xFFFFFFFF
    v = list(cv) + [ones * word for word in _IV[:4]]
    v += [_pack([c & 0xFFFFFFFF for c in counters]), _pack([c >> 32 for c in counters]), ones * length, ones * flags]
    m = block
    for _ in range(7):
        for i, (a, b, c, d) in enumerate(_QUARTERS):
            va, vb, vc, vd = v[a], v[b], v[c], v[d]
            for word, turn_d, turn_b in ((m[2 * i], 16, 12), (m[2 * i + 1], 8, 7)):
                va = (va + vb + word) & mask
                vd ^= va
                vd = (vd >> turn_d | vd << (32 - turn_d)) & mask
                vc = (vc + vd) & mask
                vb ^= vc
                vb = (vb >> turn_b | vb << (32 - turn_b)) & mask
            v[a], v[b], v[c], v[d] = va, vb, vc, vd
        m = [m[i] for i in _PERMUTATION]
    return [v[i] ^ v[i + 8] for i in range(8)]


def _chunks(data, counters, root):
    """Chaining values of the chunks in `data`, one a counter; all are full, or there is one."""
    lanes = len(counters)
    size = len(data) // lanes
    cv = [_pack([word] * lanes) for word in _IV]
    last = max(0, (size - 1) // _BLOCK)
    for n in range(last + 1):
        length = min(_BLOCK, size - n * _BLOCK)
        flags = (_CHUNK_START if n == 0 else 0) | ((_CHUNK_END | root) if n == last else 0)
        if lanes == 1:
            words = struct.unpack("<16I", data[n * _BLOCK:n * _BLOCK + length].ljust(_BLOCK, b"\0"))
            block = list(words)
        else:
            words = struct.unpack("<%dI" % (len(data) // 4), data) if n == 0 else words
            block = [_pack(words[16 * n + j::_CHUNK // 4]) for j in range(16)]
        cv = _compress(cv, block, counters, length, flags)
    return list(zip(*(_unpack(word, lanes) for word in cv)))


def _parents(cvs, root):
    """Chaining values of the parents of an even number of nodes."""
    lanes = len(cvs) // 2
    block = [_pack([cv[i] for cv in cvs[side::2]]) for side in (0, 1) for i in range(8)]
    out = _compress([_pack([word] * lanes) for word in _IV], block, [0] * lanes, _BLOCK, _PARENT | root)
    return list(zip(*(_unpack(word, lanes) for word in out)))


def blake3(data):
    """The 32-byte BLAKE3 hash of `data` (bytes)."""
    data = bytes(data)
    last = max(0, (len(data) - 1) // _CHUNK)
    nodes = []
    for first in range(0, last, _LANES):
        end = min(first + _LANES, last)
        nodes += _chunks(data[first * _CHUNK:end * _CHUNK], range(first, end), 0)
    nodes += _chunks(data[last * _CHUNK:], [last], _ROOT if last == 0 else 0)
    # A left subtree is full: so pair neighbours level by level, and an odd last node moves up as it is.
    while len(nodes) > 1:
        even = len(nodes) & ~1
        nodes = _parents(nodes[:even], _ROOT if len(nodes) == 2 else 0) + nodes[even:]
    return struct.pack("<8I", *nodes[0])
