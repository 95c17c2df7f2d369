"""Every allowed pair is covered, by few rows and always the same."""

from itertools import combinations, product

import pytest
from pairwise import pairwise

LISTS = dict(a=list("abcdefg"), b=[1, 2, 3, 4], c=[True, False], d=[None, 0.5, 2.0])


def pairs(rows):
    """All pairs of (position, value)."""
    return {pair for row in rows for pair in combinations(enumerate(row), 2)}


def test_every_pair_is_covered_by_few_rows():
    rows = pairwise(**LISTS)
    assert pairs(rows) == pairs(product(*LISTS.values()))
    assert 28 <= len(rows) <= 34  # a and b need 28; the product has 168
    assert rows == pairwise(**LISTS)


def test_what_is_not_allowed_does_not_occur_and_all_else_does():
    allowed = lambda a, b, c, d: not (a == "b" and b > 2) and (c or d is not None)
    rows = pairwise(allowed=allowed, **LISTS)
    possible = [row for row in product(*LISTS.values()) if allowed(*row)]
    assert set(rows) <= set(possible)
    assert pairs(rows) == pairs(possible)
    assert pairwise(allowed=lambda **row: False, **LISTS) == []


def test_a_kind_meets_everything_and_each_of_its_values_something():
    """Numbers that meet letters by their parity: each number once, each letter with an odd and an even one."""
    rows = pairwise(number=range(10), letter="xyz", kinds=dict(number=lambda n: n % 2))
    assert {number for number, _ in rows} == set(range(10))
    assert {(n % 2, letter) for n, letter in rows} == set(product((0, 1), "xyz"))
    assert len(rows) == 10
    with pytest.raises(TypeError, match="numbr"):
        pairwise(number=range(3), letter="x", kinds=dict(numbr=abs))


def test_two_lists_without_kinds_are_their_product():
    assert sorted(pairwise(a="ab", b="cd")) == sorted(product("ab", "cd"))
