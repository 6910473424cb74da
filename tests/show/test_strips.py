"""Strips of tokens: who wrote what, and text that stays text."""

from __future__ import annotations

import pytest

from vpdlab.show import token_strip


def test_own_tokens_are_underlined_and_the_others_grey() -> None:
    strip = token_strip(["<b>", "a\n", "85", "c"], [True, True, False, True])
    page = strip._repr_html_()
    assert page.count("border-bottom") == 3 and page.count("color: ") == 1
    assert "&lt;b&gt;" in page and "<b>" not in page and page.count("<br>") == 1
    assert 'title="token 2, written by the environment"' in page
    assert repr(strip) == "policy: <b>a↵\nenvironment: 85\npolicy: c"


def test_tokens_and_mask_have_one_length() -> None:
    for mask in ([True], [True, False, True]):
        with pytest.raises(ValueError, match=r"argument 2 is (longer|shorter)"):
            token_strip(["a", "b"], mask)
