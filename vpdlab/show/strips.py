"""The tokens of an episode as a strip in which everyone sees who wrote what."""

from __future__ import annotations

from collections.abc import Sequence

from vpdlab_widgets.base import safe, visible

from vpdlab.show.plots.style import GREY, STUDENT
from vpdlab.show.tables import Shown

_OWN = f"border-bottom: 3px solid {STUDENT}; margin-right: 1px"
_OTHER = f"color: {GREY}; margin-right: 1px"
_LONGEST = 200  # characters of one token


def token_strip(tokens: Sequence[str], mask: Sequence[bool]) -> Shown:
    """Tokens in order: underlined where the policy wrote them itself, grey where the mask is False.

    Args:
        tokens: each token as text.
        mask: whether the policy wrote it (`RolloutTokens.mask`).

    Raises:
        ValueError: where the two differ in length.
    """
    spans, words = [], []
    for place, (token, own) in enumerate(zip(tokens, mask, strict=True)):
        said = safe(token.replace("\n", "↵"), _LONGEST)
        title = f"token {place}, written by {'the policy' if own else 'the environment'}"
        spans.append(f'<span style="{_OWN if own else _OTHER}" title="{title}">{said}</span>')
        spans += ["<br>"] if "\n" in token else []
        opens = place == 0 or own != mask[place - 1]
        words.append(f"{chr(10) if opens and place else ''}{('policy: ' if own else 'environment: ') if opens else ''}")
        words.append(visible(token).replace("\n", "↵"))
    page = f'<p style="font-family: monospace; line-height: 2; white-space: pre-wrap">{"".join(spans)}</p>'
    return Shown(page, "".join(words))
