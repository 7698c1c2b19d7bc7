"""What a content-addressed store keeps of a series of files, if it cuts them into chunks by content.

Cuts each file where a rolling hash of the last 64 bytes has 16 zero bits (as the chunkers of Hugging Face's Xet and of backup
programs do: chunks of 64 KB in the mean, at least 8 and at most 128 KB), and counts the bytes of chunks that no earlier file has.

    python tools/shared_chunks.py FILE...

Needs numpy."""

import hashlib
import sys

import numpy as np

BITS, LEAST, MOST, WINDOW = 16, 8 << 10, 128 << 10, 64


def boundaries(data):
    """The places after which the rolling hash would cut."""
    gear = np.frombuffer(b"".join(hashlib.sha256(bytes([byte])).digest()[:8] for byte in range(256)), np.uint64)
    found, block = [], 1 << 22
    for start in range(0, len(data), block):
        first = max(0, start - WINDOW)
        values = gear[np.frombuffer(data, np.uint8, min(block + start - first, len(data) - first), first)]
        hashes = values.copy()
        for back in range(1, WINDOW):
            hashes[back:] += values[:-back] << np.uint64(back)
        cuts = np.flatnonzero(hashes >> np.uint64(64 - BITS) == 0) + first
        found.append(cuts[cuts >= start])
    return np.concatenate(found) + 1 if found else np.zeros(0, int)


def chunks(data):
    """The chunks of a file, in order."""
    start = 0
    for cut in [*boundaries(data).tolist(), len(data)]:
        while cut - start > MOST:
            yield data[start : start + MOST]
            start += MOST
        if cut - start >= LEAST or (cut == len(data) and cut > start):
            yield data[start:cut]
            start = cut


def main():
    seen = set()
    print("| file | bytes | chunks | new bytes | share |")
    print("|---|---:|---:|---:|---:|")
    for path in sys.argv[1:]:
        with open(path, "rb") as file:
            data = file.read()
        count = new = 0
        for chunk in chunks(data):
            count += 1
            digest = hashlib.blake2b(chunk, digest_size=16).digest()
            if digest not in seen:
                seen.add(digest)
                new += len(chunk)
        print(f"| {path} | {len(data)} | {count} | {new} | {new / max(1, len(data)):.1%} |")


if __name__ == "__main__":
    main()
