"""A few examples for csvstate; run with `python3 test_csvstate.py`."""

import unittest

from csvstate import parse


class Examples(unittest.TestCase):
    def test_plain_rows(self):
        self.assertEqual(parse("a,b\nc,d\n"), [["a", "b"], ["c", "d"]])

    def test_empty_fields(self):
        self.assertEqual(parse(",a,\n"), [["", "a", ""]])

    def test_quoted_delimiter(self):
        self.assertEqual(parse('"a,b",c\n'), [["a,b", "c"]])

    def test_no_final_line_end(self):
        self.assertEqual(parse("a,b"), [["a", "b"]])

    def test_doubled_quote(self):
        self.assertEqual(parse('"say ""hi""",x\n'), [['say "hi"', "x"]])

    def test_unclosed_quote(self):
        with self.assertRaisesRegex(ValueError, "line 2"):
            parse('a\n"b\n')


if __name__ == "__main__":
    unittest.main()
