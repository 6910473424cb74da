"""The program that a response gives as its answer, read from Markdown as models write it.

The rule of choice, for a problem that asks for a function or a class (its entry point):

1. thoughts (`<think>…</think>` and the like) are no answer and are left out;
2. of the fenced blocks, the last one that defines the entry point is the answer, whatever its label; a block that means
   to define it but is not Python counts too, so that a right draft does not stand in for a wrong answer;
3. names that it uses and does not define (an import, a helper) come from the other blocks, where one defines them;
4. where no block defines it: the last block labelled as Python, else the last without a label that is a program;
5. where there is no fence at all: the response itself, from its first line of code, if that defines the entry point.

For a program that reads its input (no entry point): the last block labelled as Python that is a program, else the last
without a label that is one; without any fence, a response that is a program from its first to its last character.

Blocks are those of CommonMark, read by markdown-it-py. Before it reads them, fences that CommonMark does not take for
what their writer meant are mended: words before an opening fence, a closing fence behind the last line of code, a block
that was opened and never closed, fences within a program's own strings.
"""

from __future__ import annotations

import ast
import builtins
import re
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from markdown_it import MarkdownIt

CUT = "The response was cut at the length limit before a block of code was closed."
NONE = "The response holds no code: there is no block between ```python and ```."
EMPTY = "The response holds no code: its block is empty."
TAG = re.compile(r"<(/?)(?:think|thinking|thoughts?|reasoning|reflection|scratchpad)>", re.I)
CONTAINER = r"[ \t]*(?:(?:>|[-*+]|[0-9]{1,9}[.)])[ \t]+|>)*[ \t]*"  # of a list or a quotation
FENCE = re.compile(rf"({CONTAINER})(`{{3,}}(?=[^`]*$)|~{{3,}})(.*)")
BEHIND_WORDS = re.compile(r"([^`]*[^`\s])[ \t]*(`{3,})([ \t]*python3?|[\w{][\w+#.:{}=-]*)?[ \t]*")
IN_ONE_LINE = re.compile(r"([^`]*)(`{3,})[ \t]*(?:python3?|py)[ \t]+([^`]+?)[ \t]*\2[ \t]*", re.I)
PROMPT = re.compile(r"[ \t]*(?:>>>|[.]{3})(?: (.*))?")
CODE_LINE = re.compile(r"(?:from|import|def|async def|class)[ \t]+\w|@\w")
WORDS = re.compile(r"[^\s\w]*\w+,?[ \t]+\w")
OPEN = " (never closed)"  # behind the label of such a block
PYTHON = re.compile(r"i?py(thon)?[0-9.]*|pycon|python-repl", re.I)
LABEL = re.compile(r"[{\s]*[.]?([\w+#.-]*)")
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
TRIES = 12  # closing fences that are tried for one block
warnings.filterwarnings("ignore", module="<answer>")  # what the parser thinks of a model's escapes is nobody's warning


@dataclass(frozen=True)
class Block:
    """A fenced block: its language ("python", "" where none is named, or another), its text, whether it was closed."""

    language: str
    code: str
    closed: bool


def read_program(text: str, entry: str, finished: bool) -> tuple[str, str]:
    """The program of a response, and why there is none: one of the two is empty.

    Args:
        text: the response.
        entry: the function or `Class.method` that is asked for; empty: a program that reads its input.
        finished: whether the response ended by itself; a block that the length limit cut counts only where it is a
            whole program.
    """
    text = _without_thoughts(text)
    found = blocks(text)
    name = entry.partition(".")[0]
    whole = [block for block in found if block.closed or finished or (_tree(block.code) and _defines(block.code, name))]
    chosen = _choose(whole, name)
    if chosen is not None:
        return _with_needed(chosen, [block for block in whole if block is not chosen]), ""
    if found and not finished and not found[-1].closed:
        return "", CUT
    code = _unfenced(text, name) if not found else ""
    if code:
        return code, ""
    return "", EMPTY if found and not any(block.code.strip() for block in found) else NONE if finished else CUT


def is_cut(text: str) -> bool:
    """Whether the last block of a response was never closed."""
    found = blocks(_without_thoughts(text))
    return bool(found) and not found[-1].closed


# -- choosing ------------------------------------------------------------------------------------------------------


def _choose(found: Sequence[Block], name: str) -> Block | None:
    filled = [block for block in found if block.code.strip()]
    if name:
        for imports in (False, True):  # "from add import add" is how to use it, unless nothing else defines it
            for block in reversed(filled):
                if _defines(block.code, name, imports):
                    return block
    python = [block for block in filled if block.language == "python"]
    plain = [block for block in filled if block.language == ""]
    programs = [block for block in python if _tree(block.code) is None or _acts(block.code)]
    programs = programs or [block for block in plain if _acts(block.code)]
    last = programs or python or plain
    return last[-1] if last else None


def _defines(code: str, name: str, imports: bool = True) -> bool:
    """Whether code binds a name at its top level, or, where it is no Python, looks as if it meant to."""
    tree = _tree(code)
    if tree is None:
        word = re.escape(name)
        return bool(name) and bool(re.search(rf"^[ \t]*(?:(?:async[ \t]+)?def|class)[ \t]+{word}\b", code, re.M))
    body = [s for s in tree.body if imports or not isinstance(s, ast.Import | ast.ImportFrom)]
    return any(name in _bound(statement) for statement in body)


def _acts(code: str) -> bool:
    """Whether code is a program: more than values and names, which is what an output looks like."""
    tree = _tree(code)
    return tree is not None and any(
        not isinstance(statement, ast.Expr)
        or any(isinstance(node, ast.Call | ast.Await) for node in ast.walk(statement))
        for statement in tree.body
    )


@lru_cache(maxsize=64)
def _tree(code: str) -> ast.Module | None:
    try:
        return ast.parse(code, "<answer>")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _bound(statement: ast.stmt) -> set[str]:
    """The names that a statement binds in its own scope."""
    names, rest = set(), [statement]
    while rest:
        node: ast.AST = rest.pop()
        if isinstance(node, SCOPES):
            names.add(node.name)
            continue
        if isinstance(node, ast.alias):
            names.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        rest += [] if isinstance(node, ast.Lambda) else list(ast.iter_child_nodes(node))  # type: ignore[arg-type]
    return names


# -- what the chosen block takes from others -----------------------------------------------------------------------


def _with_needed(chosen: Block, others: Sequence[Block]) -> str:
    """The block's code, behind the statements of other blocks that define names which it uses and does not bind."""
    tree = _tree(chosen.code)
    if tree is None or not others:
        return chosen.code
    sources = [statement for block in others if (found := _tree(block.code)) for statement in found.body]
    taken: set[int] = set()
    known = {name for statement in tree.body for name in _bound(statement)} | set(dir(builtins))
    wanted, missing = _used(tree) - known, False
    while wanted:
        name = wanted.pop()
        known.add(name)
        place = max((n for n, statement in enumerate(sources) if name in _bound(statement)), default=None)
        missing |= place is None
        if place is not None:
            taken.add(place)
            known |= _bound(sources[place])
            wanted = (wanted | _used(sources[place])) - known
    if missing:
        taken |= {n for n, statement in enumerate(sources) if "*" in _bound(statement)}
    parts = [ast.unparse(sources[place]) for place in sorted(taken)]
    return "".join(f"{part}\n" for part in parts) + chosen.code


def _used(tree: ast.AST) -> set[str]:
    """Names that are read anywhere and bound nowhere in it: those that have to come from outside."""
    read, bound = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, (*SCOPES, ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            bound.add(node.name)
        elif isinstance(node, ast.MatchMapping) and node.rest:
            bound.add(node.rest)
    return read - bound


# -- reading blocks ------------------------------------------------------------------------------------------------


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a text, in order."""
    mended, length = _mended(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    # Block structure alone is wanted; tags and indentation hide no fence.
    reader = MarkdownIt("commonmark").disable(["inline", "text_join", "html_block", "code", "reference", "lheading"])
    found = []
    for token in reader.parse(mended):
        if token.type == "fence" and len(token.markup) >= length:
            closed = not token.info.endswith(OPEN)
            code = _as_code(token.content)
            found.append(Block(_language(token.info.removesuffix(OPEN)), code if closed else _trimmed(code), closed))
    return found


@dataclass(frozen=True)
class Opening:
    """An opening fence: the words before it, its container's marks, its characters, what is written behind them."""

    words: str
    prefix: str
    run: str
    info: str


def _mended(lines: Sequence[str]) -> tuple[str, int]:
    """(the text with each block between fences that nothing within it can be taken for, the length of these fences)."""
    length = max((len(run) for line in lines for run in re.findall(r"`+|~+", line)), default=0) + 3
    out: list[str] = []
    place = 0
    while place < len(lines):
        line = lines[place]
        place += 1
        if len(line) < 2000 and (whole := IN_ONE_LINE.fullmatch(line)):
            out += [whole[1], "", "`" * length + "python", whole[3], "`" * length]
            continue
        opening = _opening(line)
        if opening is None:
            out.append(line)
            continue
        body, place, closed = _body(lines, place, opening)
        width = len(opening.prefix.expandtabs(4))
        inside = all(
            len(row.expandtabs(4)) - len(row.expandtabs(4).lstrip(" >")) >= width for row in body if row.strip()
        )
        prefix = opening.prefix if inside else ""  # lines that stand left of their list item would end it
        fence = opening.run[0] * length
        out += [opening.words, ""] if opening.words else []
        out += [f"{prefix}{fence}{opening.info}{'' if closed else OPEN}", *body, re.sub(r"[^>\s]", " ", prefix) + fence]
    return "\n".join(out), length


def _opening(line: str) -> Opening | None:
    if found := FENCE.fullmatch(line):
        return Opening("", *found.groups())
    if found := BEHIND_WORDS.fullmatch(line):
        return Opening(found[1], "", found[2], found[3] or "")
    return None


def _body(lines: Sequence[str], start: int, opening: Opening) -> tuple[list[str], int, bool]:
    """(the lines of a block, the line to go on from, whether it was closed).

    A program may hold fences, in its strings: the first fence up to which the block is Python closes it. Where it never
    is, the first closing fence does, or the line on which a new block of Python opens.
    """
    closing = re.compile(rf"(.*?)({re.escape(opening.run[0])}{{{len(opening.run)},}})[ \t]*")
    python, tries, first = _language(opening.info) in ("python", ""), 0, None
    for place in range(start, len(lines)):
        found = closing.fullmatch(lines[place])
        if found is None:
            new = FENCE.fullmatch(lines[place])
            if new and _language(new[3]) == "python":
                first, tries = first or (list(lines[start:place]), place, False), tries + 1
            if tries > TRIES and first:
                return first
            continue
        alone = not found[1].strip(" \t>")
        body = [*lines[start:place], *([] if alone else [found[1]])]
        if first is None and (not alone or len(found[1].expandtabs(4)) - len(opening.prefix.expandtabs(4)) < 4):
            first = body, place + 1, True
        tries += 1
        if first and (not python or tries > TRIES):
            return first
        if python and _tree(_as_code(_unquoted(body, opening.prefix))):
            return body, place + 1, True
    return first or (list(lines[start:]), len(lines), False)


def _unquoted(body: Sequence[str], prefix: str) -> str:
    rows = [re.sub(r"^[ \t]*>[ ]?", "", row) for row in body] if ">" in prefix else body
    return "\n".join(rows) + "\n"


def _language(info: str) -> str:
    """ "python" for every way to write it, "" where no language is named, else the name as it is written."""
    found = LABEL.match(info)
    label = found[1].casefold() if found else ""
    return "python" if PYTHON.fullmatch(label) else label


def _as_code(content: str) -> str:
    """A block's text without what its place has added: indentation, the prompts of an interactive session."""
    rows = content.split("\n")
    if next((row for row in rows if row.strip()), "").lstrip().startswith(">>>"):
        rows = [found[1] or "" for row in rows if (found := PROMPT.fullmatch(row))]
        content = "\n".join(rows) + "\n"
    if _tree(content) is None and _tree(dedented := textwrap.dedent(content)):
        return dedented
    return content


def _trimmed(code: str) -> str:
    """The code of a block that was never closed: without the words behind it, where an empty line parts them."""
    rows = code.split("\n")
    for place in [n for n, row in enumerate(rows) if not row.strip()][:TRIES]:
        if _tree(code) is not None:
            return code
        after = next((row for row in rows[place:] if row.strip()), "")
        if WORDS.match(after) and _tree("\n".join(rows[:place])) is not None:
            return "\n".join(rows[:place]) + "\n"
    return code


# -- around blocks -------------------------------------------------------------------------------------------------


def _without_thoughts(text: str) -> str:
    """The text without what stands between tags of thinking; a tag that was never closed goes alone."""
    kept, place, opened = [], 0, None
    for tag in TAG.finditer(text):
        if _in_quotes(text, tag):
            continue
        if tag[1]:  # a closing tag; templates may open the first thought themselves
            kept = kept if opened else []
            place, opened = tag.end(), None
        elif opened is None:
            kept.append(text[place : tag.start()])
            place, opened = tag.end(), tag
    return "\n".join([*kept, text[place:]])


def _in_quotes(text: str, tag: re.Match[str]) -> bool:
    """Whether a tag stands in a string of a program, or is spoken of."""
    before = text[max(text.rfind("\n", 0, tag.start()) + 1, tag.start() - 200) : tag.start()]
    after = text[tag.end() : tag.end() + 200].partition("\n")[0]
    return any(before.replace("```", "").count(mark) % 2 and mark in after.replace("```", "") for mark in "'\"`")


def _unfenced(text: str, name: str) -> str:
    """The code of a response without fences, from its first line of code; "" where it is no program."""
    rows = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    starts = [0, *[n for n, row in enumerate(rows) if CODE_LINE.match(row)][:1]]
    for start in starts:
        code = _as_code(_trimmed("\n".join(rows[start:]) + "\n"))
        if (_defines(code, name) and _tree(code)) if name else (start == starts[-1] and _acts(code)):
            return code
    return ""
