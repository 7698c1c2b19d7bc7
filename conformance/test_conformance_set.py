"""The naive decoder on the conformance set, and the set against its generator. Run `python3 -m unittest` in this
folder."""

import unittest
from pathlib import Path

import make_files
import naive_decoder
from naive_container import Broken

HERE = Path(__file__).resolve().parent


class ConformanceSet(unittest.TestCase):
    def test_odd_and_broken_files_are_those_made_now(self):
        made = make_files.make()
        for name, data in made.items():
            self.assertEqual((HERE / name).read_bytes(), data, name)
        committed = {f"broken/{path.name}" for path in (HERE / "broken").iterdir()}
        self.assertEqual(committed, {name for name in made if name.startswith("broken/")})

    def test_expectations(self):
        names = [{path.stem for path in (HERE / folder).iterdir()} for folder in ("files", "expected")]
        self.assertEqual(*names)
        for path in sorted((HERE / "files").iterdir()):
            text = make_files.expected(path)
            if text is not None:  # else there is no Zstandard library
                self.assertEqual((HERE / "expected" / f"{path.stem}.txt").read_text(encoding="utf-8"), text, path.stem)

    def test_broken_files_break_the_clause_of_their_name(self):
        for path in sorted((HERE / "broken").iterdir()):
            with self.subTest(path.stem):
                with self.assertRaises(Broken) as caught:
                    for _, content in naive_decoder.decode(path.read_bytes()):
                        if content == naive_decoder.NO_ZSTD:
                            self.skipTest(content)
                clause = path.stem.split("-")[0]
                self.assertTrue(str(caught.exception).startswith(f"SPEC {clause}:"), str(caught.exception))


if __name__ == "__main__":
    unittest.main()
