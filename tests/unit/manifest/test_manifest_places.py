"""Lines of keys, in every way that TOML has to write them."""

from __future__ import annotations

from shardwright.manifest._places import scan

TEXT = '''\
# a comment with "quotes" and [brackets]
top = 1
dotted . key."quoted.part".'lit"eral' = [ 1, # ] not the end
  [2, 3],
  { a = 1, b = [
    4 ] },
]
multi = """
one \\""" two
"""""
plain = "a # b" # c
after = \'\'\'
[no.table]
\'\'\'\'
moment = 1979-05-27 07:32:00 # T
empty = [] \t

  [ a . b ] # indented
x = {}
[a]
y = { p.q = 1, "r s" = { t = 2 } }
[[list]]
n = 1
  [list.sub]
  m = 2
  [[list.inner]]
  k = 1
  [[list.inner]]
  k = 2
[[list]]
[list.sub]
m = 3
[other]
[[list]]
n = 9
'''


def test_every_path_has_its_line() -> None:
    lines = {path: spot.line for path, spot in scan(TEXT).items()}
    quoted = ("dotted", "key", "quoted.part", 'lit"eral')
    assert lines == {
        (): 1,
        ("top",): 2,
        ("dotted",): 3,
        ("dotted", "key"): 3,
        ("dotted", "key", "quoted.part"): 3,
        quoted: 3,
        (*quoted, 0): 3,
        (*quoted, 1): 4,
        (*quoted, 1, 0): 4,
        (*quoted, 1, 1): 4,
        (*quoted, 2): 5,
        (*quoted, 2, "a"): 5,
        (*quoted, 2, "b"): 5,
        (*quoted, 2, "b", 0): 6,
        ("multi",): 8,
        ("plain",): 11,
        ("after",): 12,
        ("moment",): 15,
        ("empty",): 16,
        ("a",): 20,
        ("a", "b"): 18,
        ("a", "b", "x"): 19,
        ("a", "y"): 21,
        ("a", "y", "p"): 21,
        ("a", "y", "p", "q"): 21,
        ("a", "y", "r s"): 21,
        ("a", "y", "r s", "t"): 21,
        ("list",): 22,
        ("list", 0): 22,
        ("list", 0, "n"): 23,
        ("list", 0, "sub"): 24,
        ("list", 0, "sub", "m"): 25,
        ("list", 0, "inner"): 26,
        ("list", 0, "inner", 0): 26,
        ("list", 0, "inner", 0, "k"): 27,
        ("list", 0, "inner", 1): 28,
        ("list", 0, "inner", 1, "k"): 29,
        ("list", 1): 30,
        ("list", 1, "sub"): 31,
        ("list", 1, "sub", "m"): 32,
        ("other",): 33,
        ("list", 2): 34,
        ("list", 2, "n"): 35,
    }


def test_strings_keep_their_text_as_written() -> None:
    spots = scan(TEXT)
    assert spots[("plain",)].raw == '"a # b"'
    assert spots[("multi",)].raw == '"""\none \\""" two\n"""""'
    assert spots[("top",)].raw == ""


def test_an_empty_text_and_one_without_a_last_newline() -> None:
    assert {path: spot.line for path, spot in scan("").items()} == {(): 1}
    assert scan("a = 1\r\nb = 2")[("b",)].line == 2
