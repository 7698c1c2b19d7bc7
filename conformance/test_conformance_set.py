"""The naive decoder on the conformance set, and the set against its generator. Run `python3 -m unittest` in this
folder."""

import json
import unittest
from pathlib import Path

import make_files
import naive_decoder
import naive_tokenizer
from naive_bases import Bases
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
        bases = Bases([make_files.SMALL_BASE, HERE / "files"])
        for path in sorted((HERE / "broken").iterdir()):
            with self.subTest(path.stem):
                with self.assertRaises(Broken) as caught:
                    for _, content in naive_decoder.decode(path.read_bytes(), bases=bases):
                        if content == naive_decoder.NO_ZSTD:
                            self.skipTest(content)
                clause = path.stem.split("-")[0]
                self.assertTrue(str(caught.exception).startswith(f"SPEC {clause}:"), str(caught.exception))

    def test_compiled_tokenizers(self):
        def assets(name):
            objects = dict(naive_decoder.decode((HERE / "files" / f"{name}.impasto").read_bytes()))
            if naive_decoder.NO_ZSTD in objects.values():
                self.skipTest(naive_decoder.NO_ZSTD)
            return objects

        other = assets("3.4.5-form-of-another-tokenizer")
        self.assertIsNone(naive_tokenizer.compiled(other))
        objects = assets("15-compiled-tokenizer")
        form = naive_tokenizer.compiled(objects)
        source = json.loads(next(content for obj, content in objects.items() if obj.name == naive_tokenizer.NAME))
        vocab, merges = source["model"].pop("vocab"), source["model"].pop("merges")
        merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in merges]
        self.assertEqual((form.vocab, form.merges), (vocab, merges))
        # The settings name options that the source leaves at their defaults.
        settings = {key: value for key, value in form.settings.items() if key in source}
        settings["model"] = {key: value for key, value in form.settings["model"].items() if key in source["model"]}
        del source["truncation"]
        self.assertEqual(settings, source)

    def test_forms_that_a_reader_ignores(self):
        # The tokens are "a" and "ab"; the merge of "a" and "b" needs a third.
        form = bytes([1, 2, 2, 3, 1]) + b"{}" + bytes([1, 2]) + b"aab" + bytes([2, 1])
        for form, clause in ((form, "15.2"), (b"\2" + form[1:], "15.1"), (form[:-1], "15.1")):
            with self.assertRaises(Broken) as caught:
                naive_tokenizer.read_compiled(form)
            self.assertTrue(str(caught.exception).startswith(f"SPEC {clause}:"), str(caught.exception))


if __name__ == "__main__":
    unittest.main()
