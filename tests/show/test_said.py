"""Sentences of a notebook, checked."""

from __future__ import annotations

import pytest
import torch

from vpdlab.show.markup import clean
from vpdlab.show.said import MIME, said


def test_what_holds_is_folded_and_what_does_not_is_open_and_named() -> None:
    good = said({"one & two": True, "tensors": torch.tensor(1.0) > 0})._repr_mimebundle_()
    assert "2 of 2 hold" in good["text/html"] and " open" not in good["text/html"]
    assert "one &amp; two" in good["text/html"]
    assert good[MIME] == {"one & two": True, "tensors": True}
    bad = said({"one": True, "two": False})._repr_mimebundle_()
    assert "<details open>" in bad["text/html"] and "not in this run" in bad["text/html"]
    assert bad["text/plain"] == "holds: one\nDOES NOT HOLD: two"


def test_an_exported_page_shows_the_list_as_the_notebook_does() -> None:
    """Folded or open, and with marks in place of bullets, past the filter of HTML."""
    for sentences in ({"one": True}, {"one": True, "two": False}):
        page = clean(said(sentences)._repr_mimebundle_()["text/html"])
        assert page.startswith("<details") and "list-style-type:none" in page.replace(" ", "")
        assert ("open" in page.partition(">")[0]) == (not all(sentences.values()))


@pytest.mark.parametrize("value", [1, 0.5, None, "yes", torch.tensor(0.5)])
def test_a_number_in_place_of_a_truth_value_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="must be True or False"):
        said({"always": value})
