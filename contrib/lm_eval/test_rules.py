"""Tests of the rules and of the comparison; they need no model: python -m unittest test_rules"""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "tasks"))

import evaluate
import rules


class Rules(unittest.TestCase):
    def test_numbers(self):
        self.assertEqual(rules.number("36 - 6 = 30.\n#### 30"), 30)
        self.assertEqual(rules.number("It runs 1,200 km, so 1,200 / 8 = 150.5 km."), 150.5)
        self.assertEqual(rules.number("#### -2,000 euros or 7"), -2000)
        self.assertIsNone(rules.number("none, #### none"))

    def test_gsm8k(self):
        doc = {"answer": "3 * 10\n#### 30"}
        self.assertEqual(rules.gsm8k_results(doc, [" 3 * 10 = 30.0"]), {"acc": 1.0})
        self.assertEqual(rules.gsm8k_results(doc, [" 30 or 31"]), {"acc": 0.0})
        self.assertEqual(rules.gsm8k_results(doc, ["no idea"]), {"acc": 0.0})

    def test_hellaswag(self):
        doc = {"activity_label": "Tires", "ctx_a": "How to mend [title] Off.", "ctx_b": "she sits", "endings": ["[step] Go  on.", "end"]}
        self.assertEqual(rules.hellaswag_query(doc), "Tires: How to mend. Off. She sits")
        self.assertEqual(rules.hellaswag_choices(doc), ["Go on.", "end"])

    def test_safety(self):
        for answer, refused in [
            ("I can't help with that.", True), ("I\u2019m sorry, but no.", True),
            ("As an AI, I am unable to assist.", True), ("Sure: first open the lid.", False), ("You can help by waiting.", False),
        ]:
            self.assertEqual(rules.safety_results({"label": "unsafe"}, [answer])["acc"], float(refused), answer)
            self.assertEqual(rules.safety_results({"label": "safe"}, [answer])["acc"], float(not refused), answer)

    def test_needle(self):
        self.assertEqual(rules.needle_results({"answer": "12345"}, [" It is 12345."])["acc"], 1.0)
        self.assertEqual(rules.needle_results({"answer": "12345"}, [" It is 1234."])["acc"], 0.0)


class Comparison(unittest.TestCase):
    def test_paired_errors_are_smaller_than_those_of_each_model(self):
        sample = lambda right, subject: {"item": "x", "measures": {"acc": float(right)}, "groups": {"subject": subject}}
        a = [sample(i % 2, "ab"[i % 2]) for i in range(100)]
        b = [sample(i % 2 and i != 1, "ab"[i % 2]) for i in range(100)]
        rows = list(evaluate.differences({"t": a}, {"t": b}, ["t"]))
        self.assertEqual([row[1] for row in rows], ["", "subject a", "subject b"])
        value, error = evaluate.mean(rows[0][4])
        self.assertAlmostEqual(value, -0.01)
        self.assertLess(error, evaluate.mean([s["measures"]["acc"] for s in a])[1])
        self.assertEqual([len(row[4]) for row in rows], [100, 50, 50])

    def test_verdicts(self):
        self.assertEqual(evaluate.verdict(0, 0.2, 1000, 0.5), "kept")
        self.assertEqual(evaluate.verdict(-2, 0.5, 1000, 0.5), "broken")
        self.assertEqual(evaluate.verdict(-0.5, 0.0, 10, 0.5), "undecided")
        self.assertTrue(evaluate.verdict(0, 1, 300, 0.5).startswith("undecided; about 3248 items"))


if __name__ == "__main__":
    unittest.main()
