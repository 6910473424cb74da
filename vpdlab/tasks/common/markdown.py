"""Fenced code blocks in Markdown as models write it.

markdown-it-py parses the blocks (CommonMark). Before that, fences that CommonMark would misread are repaired: text
before an opening fence, a closing fence at the end of a code line, an unclosed block, fences inside the program's own
strings, code indented less than its list item. Lines are split only where Python splits them.
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from markdown_it import MarkdownIt

CONTAINER = r"[ \t]*(?:>[ \t]*|(?:[-*+]|[0-9]{1,9}[.)])[ \t]+)*"  # of a list or a quotation
FENCE = re.compile(rf"({CONTAINER})(`{{3,}}(?=[^`]*$)|~{{3,}})(.*)")
BEHIND_WORDS = re.compile(r"([^`]*[^`\s])[ \t]*(`{3,})([ \t]*python3?|[\w{][\w+#.:{}=-]*)?[ \t]*")
IN_ONE_LINE = re.compile(r"([^`]*)(`{3,})[ \t]*(?:python3?|py)[ \t]+([^`]+?)[ \t]*\2[ \t]*", re.I)
PROMPT = re.compile(r"[ \t]*(?:>>>|[.]{3})(?: (.*))?")
CODE_LINE = re.compile(
    r"[ \t#@)\]}'\"]|(?:from|import|def|async|class|if|for|while|with|try|except|return|assert)\b|\w+[ \t]*[=(.\[+-]"
)
BEGUN = re.compile(r"[ \t]*(?:python3?[ \t]+|py[ \t]+)?((?:def|class|import|from|async def|@)[ \t]*\w.*)", re.I)
OPEN = " (never closed)"  # appended to the label of an unclosed block
PYTHON = re.compile(r"i?py(thon)?[0-9.]*|pycon|python-repl", re.I)
LABEL = re.compile(r"[{\s]*[.]?([\w+#.-]*)")
TRIES = 12  # closing fences that are tried for one block
warnings.filterwarnings("ignore", module="<answer>")  # do not warn about escapes in model-written code


@dataclass(frozen=True)
class Block:
    """A fenced block: its language ("python", "" if unlabelled, or the label), its text, and whether it was closed."""

    language: str
    code: str
    closed: bool


@lru_cache(maxsize=64)
def parsed(code: str) -> ast.Module | None:
    """The syntax tree of code; None if it does not parse."""
    try:
        return ast.parse(code, "<answer>")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a text, in order."""
    mended, length = _mended(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    # Only block structure is needed; HTML tags and indentation must not hide a fence.
    reader = MarkdownIt("commonmark").disable(["inline", "text_join", "html_block", "code", "reference", "lheading"])
    found = []
    for token in reader.parse(mended):
        if token.type == "fence" and len(token.markup) >= length:
            closed = not token.info.endswith(OPEN)
            code = as_code(token.content)
            found.append(Block(_language(token.info.removesuffix(OPEN)), code if closed else trimmed(code), closed))
    return found


@dataclass(frozen=True)
class Opening:
    """An opening fence: text before it, container prefix, fence characters, label, and code on the same line."""

    words: str
    prefix: str
    run: str
    info: str
    code: str = ""


def _mended(lines: Sequence[str]) -> tuple[str, int]:
    """(the text with every block between fences longer than any other run of fence characters, that length)."""
    length = max((len(run) for line in lines for run in re.findall(r"`+|~+", line)), default=0) + 3
    out: list[str] = []
    index = 0
    while index < len(lines):
        line = lines[index]
        index += 1
        if len(line) < 2000 and (whole := IN_ONE_LINE.fullmatch(line)):
            out += [whole[1], "", "`" * length + "python", whole[3], "`" * length]
            continue
        opening = _opening(line)
        if opening is None:
            out.append(line)
            continue
        body, index, closed = _body(lines, index, opening)
        width = len(opening.prefix.expandtabs(4))
        inside = all(
            len(row.expandtabs(4)) - len(row.expandtabs(4).lstrip(" >")) >= width for row in body if row.strip()
        )
        prefix = opening.prefix if inside else ""  # a line left of its list item would end the item
        fence = opening.run[0] * length
        out += [opening.words, ""] if opening.words else []
        behind = re.sub(r"[^>\s]", " ", prefix)
        out += [f"{prefix}{fence}{opening.info}{'' if closed else OPEN}"]
        out += [*([behind + opening.code] if opening.code else []), *body, behind + fence]
    return "\n".join(out), length


def _opening(line: str) -> Opening | None:
    if found := FENCE.fullmatch(line):
        prefix, run, info = found.groups()
        begun = BEGUN.fullmatch(info)
        return Opening("", prefix, run, "python", begun[1]) if begun else Opening("", prefix, run, info)
    if found := BEHIND_WORDS.fullmatch(line):
        return Opening(found[1], "", found[2], found[3] or "")
    return None


def _body(lines: Sequence[str], start: int, opening: Opening) -> tuple[list[str], int, bool]:
    """(the lines of a block, the next line after it, whether it was closed).

    A program may contain fences in its strings, so the first fence at which the block parses as Python closes it. If it
    never parses, the first closing fence does, or the line that opens another Python block.
    """
    run = rf"{re.escape(opening.run[0])}{{{len(opening.run)},}}"
    closing, before_words = re.compile(rf"(.*?)({run})[ \t]*"), re.compile(rf"(.*?)({run})[ \t]+\w+[ ,.].*")
    begun = [opening.code] if opening.code else []
    python, tries, first = _language(opening.info) in ("python", ""), 0, None
    for index in range(start, len(lines)):
        found = closing.fullmatch(lines[index])
        words = before_words.fullmatch(lines[index]) if found is None and python and tries <= TRIES else None
        if words:
            body = [*lines[start:index], *([words[1]] if words[1].strip(" \t>") else [])]
            tries += 1
            if parsed(as_code(_unquoted([*begun, *body], opening.prefix))):
                return body, index + 1, True
        if found is None:
            new = FENCE.fullmatch(lines[index])
            if new and _language(new[3]) == "python":
                first, tries = first or (list(lines[start:index]), index, False), tries + 1
            if tries > TRIES and first:
                return first
            continue
        alone = not found[1].strip(" \t>")
        body = [*lines[start:index], *([] if alone else [found[1]])]
        if first is None and (not alone or len(found[1].expandtabs(4)) - len(opening.prefix.expandtabs(4)) < 4):
            first = body, index + 1, True
        tries += 1
        if first and (not python or tries > TRIES):
            return first
        if python and parsed(as_code(_unquoted([*begun, *body], opening.prefix))):
            return body, index + 1, True
    return first or (list(lines[start:]), len(lines), False)


def _unquoted(body: Sequence[str], prefix: str) -> str:
    rows = [re.sub(r"^[ \t]*>[ ]?", "", row) for row in body] if ">" in prefix else body
    return "\n".join(rows) + "\n"


def _language(info: str) -> str:
    """ "python" for all its spellings, "" if there is no label, else the label."""
    found = LABEL.match(info)
    label = found[1].casefold() if found else ""
    return "python" if PYTHON.fullmatch(label) else label


def as_code(content: str) -> str:
    """A block's text without common indentation and without the prompts of an interactive session."""
    content = content.removeprefix("\ufeff")
    rows = content.split("\n")
    first = next((row for row in rows if row.strip()), "").lstrip()
    if first.startswith((">>>", "$ ")) and any(row.lstrip().startswith(">>>") for row in rows):
        rows = [found[1] or "" for row in rows if (found := PROMPT.fullmatch(row))]
        content = "\n".join(rows) + "\n"
    if parsed(content) is None and parsed(dedented := textwrap.dedent(content)):
        return dedented
    return content


def trimmed(code: str) -> str:
    """The code of an unclosed block without the prose that follows it after a blank line."""
    rows = code.split("\n")
    for index in [n for n, row in enumerate(rows) if not row.strip()][:TRIES]:
        if parsed(code) is not None:
            return code
        after = next((row for row in rows[index:] if row.strip()), "")
        if not CODE_LINE.match(after) and parsed("\n".join(rows[:index])) is not None:
            return "\n".join(rows[:index]) + "\n"
    return code


def indented(text: str) -> str:
    """The indented code blocks of a text without fences."""
    tokens = MarkdownIt("commonmark").disable(["inline", "text_join", "html_block"]).parse(text)
    return "\n".join(as_code(token.content) for token in tokens if token.type == "code_block")
