"""Extract the program that a response gives as its answer.

Selection rule for a problem with an entry point (a function or a class):

1. Reasoning (`<think>…</think>` and similar tags) is ignored.
2. The answer is the last fenced block that defines the entry point, whatever its label. A block that defines it but
   does not parse counts too, so that a correct draft never replaces a broken final answer. A block that only imports
   the entry point, or shows its signature without a body, counts only if there is no other.
3. Names that the block uses but does not define (imports, helpers) are taken from the other blocks.
4. If no block defines the entry point: the text before the first fence, from its first line of code, if that defines it
   (there may be no fence, or the prompt opened it).
5. Otherwise the last block labelled as Python, else the last unlabelled block that is a program; the verdict then says
   what is missing.

For a program that reads standard input (no entry point): the last block labelled as Python that is a program, else the
last unlabelled one; without fences, the response itself if all of it is a program.

Blocks are parsed by `tasks.markdown`.
"""

from __future__ import annotations

import ast
import builtins
import html
import re
from collections.abc import Sequence

from vpdlab.tasks.common.markdown import Block, as_code, blocks, indented, parsed, trimmed

CUT = "The response was cut at the length limit before a block of code was closed."
NONE = "The response holds no code: there is no block between ```python and ```."
EMPTY = "The response holds no code: its block is empty."
TAG = re.compile(r"<(/?)(?:think|thinking|thoughts?|reasoning|reflection|scratchpad)>", re.I)
CODE_STARTS = re.compile(r"(?:from|import|def|async def|class)[ \t]+\w|@\w")
FIRST_FENCE = re.compile(r"^[ \t>]*(?:`{3}|~{3})", re.M)
HTML = re.compile(r"<pre[^>\n]{0,80}>\s{0,9}<code[^>\n]{0,80}>", re.I)
MARKS = re.compile(r"\[/?(?:PYTHON|BEGIN|DONE|CODE)\]")  # delimiters of some prompt formats
SPAN = re.compile(r"(?<!`)(`{1,2})([^`]+)\1(?!`)")
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def read_program(text: str, entry: str, finished: bool) -> tuple[str, str]:
    """The program in a response and the reason why there is none; exactly one of the two is empty.

    Args:
        text: the response.
        entry: name of the requested function or `Class.method`; empty for a program that reads standard input.
        finished: whether the response ended by itself. If the length limit cut it, an unclosed block counts only if it
            is a complete program.
    """
    text = _without_thoughts(text)
    found = [inner for block in blocks(text) for inner in _unwrapped(block)]
    name = entry.partition(".")[0]
    whole = [block for block in found if block.closed or finished or _is_whole(block.code, name)]
    chosen = _choose(whole, name)
    if chosen is None or (name and not _defines(chosen.code, name)):  # unfenced code, or a fence opened by the prompt
        code = _unfenced(FIRST_FENCE.split(text, maxsplit=1)[0], name)
        if code:
            return code, ""
    if chosen is not None:
        return _with_needed(chosen, [block for block in whole if block is not chosen]), ""
    if found and not finished and not found[-1].closed:
        return "", CUT
    return "", EMPTY if found and not any(block.code.strip() for block in found) else NONE if finished else CUT


def _is_whole(code: str, name: str) -> bool:
    return parsed(code) is not None and (_defines(code, name) if name else _acts(code))


def _unwrapped(block: Block) -> list[Block]:
    """The blocks inside a block of Markdown; any other block as it is."""
    return (blocks(block.code) or [block]) if block.language in ("markdown", "md") else [block]


def is_cut(text: str) -> bool:
    """Whether a response that hit the length limit was cut inside its code rather than after it."""
    found = blocks(_without_thoughts(text))
    return not found or not found[-1].closed


# -- choosing ------------------------------------------------------------------------------------------------------


def _choose(found: Sequence[Block], name: str) -> Block | None:
    filled = [block for block in found if block.code.strip()]
    if name:
        defining = [block for block in filled if _defines(block.code, name)]
        # `from add import add` shows how to call it and `def add(a, b): ...` its signature: neither is the answer.
        real = [block for block in defining if not _is_mention(block.code, name)]
        if defining:
            return (real or defining)[-1]
    python = [block for block in filled if block.language == "python"]
    plain = [block for block in filled if block.language == ""]
    programs = [block for block in python if parsed(block.code) is None or _acts(block.code)]
    programs = programs or [block for block in plain if _acts(block.code)]
    last = programs or python or plain
    return last[-1] if last else None


def _is_mention(code: str, name: str) -> bool:
    """Whether code only imports the name, or defines it without a body."""
    tree = parsed(code)
    if tree is None:
        return bool(re.fullmatch(rf"\s*(?:async[ \t]+)?def[ \t]+{re.escape(name)}\b[^\n]*:?\s*", code))
    last = [statement for statement in tree.body if name in _bound(statement)][-1]
    if isinstance(last, ast.FunctionDef | ast.AsyncFunctionDef):
        return all(
            isinstance(part, ast.Pass) or (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
            for part in last.body
        )
    return isinstance(last, ast.Import | ast.ImportFrom)


def _defines(code: str, name: str) -> bool:
    """Whether code binds the name at top level; code that does not parse is searched for its `def` or `class`."""
    tree = parsed(code)
    if tree is None:
        word = re.escape(name)
        return bool(name) and bool(re.search(rf"^[ \t]*(?:(?:async[ \t]+)?def|class)[ \t]+{word}\b", code, re.M))
    return any(name in _bound(statement) for statement in tree.body)


def _acts(code: str) -> bool:
    """Whether code is a program rather than printed output, which parses as literals and names."""
    tree = parsed(code)
    return tree is not None and any(
        not isinstance(statement, ast.Expr)
        or any(isinstance(node, ast.Call | ast.Await) for node in ast.walk(statement))
        for statement in tree.body
    )


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
    """The block's code, preceded by the statements of other blocks that define names it uses but does not bind."""
    tree = parsed(chosen.code)
    if tree is None or not others:
        return chosen.code
    sources = [statement for block in others if (found := parsed(block.code)) for statement in found.body]
    taken: set[int] = set()
    known = {name for statement in tree.body for name in _bound(statement)} | set(dir(builtins))
    wanted, missing = _used(tree) - known, False
    while wanted:
        name = wanted.pop()
        known.add(name)
        position = max((n for n, statement in enumerate(sources) if name in _bound(statement)), default=None)
        missing |= position is None
        if position is not None:
            taken.add(position)
            known |= _bound(sources[position])
            wanted = (wanted | _used(sources[position])) - known
    if missing:
        taken |= {n for n, statement in enumerate(sources) if "*" in _bound(statement)}
    parts = [ast.unparse(sources[position]) for position in sorted(taken)]
    return "".join(f"{part}\n" for part in parts) + chosen.code


def _used(tree: ast.AST) -> set[str]:
    """Names that are read but bound nowhere in the tree."""
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


# -- around blocks -------------------------------------------------------------------------------------------------


def _without_thoughts(text: str) -> str:
    """Remove tagged reasoning; of an unclosed tag, only the tag itself is removed."""
    kept, position, opened = [], 0, None
    for tag in TAG.finditer(text):
        if _in_quotes(text, tag):
            continue
        if tag[1]:  # a closing tag; the chat template may have emitted the opening one
            kept = kept if opened else []
            position, opened = tag.end(), None
        elif opened is None:
            kept.append(text[position : tag.start()])
            position, opened = tag.end(), tag
    return "\n".join([*kept, text[position:]])


def _in_quotes(text: str, tag: re.Match[str]) -> bool:
    """Whether a tag is inside a string literal or quoted in prose."""
    before = text[max(text.rfind("\n", 0, tag.start()) + 1, tag.start() - 200) : tag.start()]
    after = text[tag.end() : tag.end() + 200].partition("\n")[0]
    before, after = (re.sub(r"```|(?<=\w)'(?=\w)", "", part) for part in (before, after))  # not fences, not "don't"
    return any(before.count(mark) % 2 and mark in after for mark in "'\"`")


def _unfenced(text: str, name: str) -> str:
    """The code in text without fences, from its first line of code; "" if that is not a program."""
    for opened in HTML.finditer(text):
        text = html.unescape(text[opened.end() :].partition("</code>")[0])
        break
    rows = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    starts = [0, *[n for n, row in enumerate(rows) if CODE_STARTS.match(row)][:1]]
    for start in starts:
        code = as_code(MARKS.sub("\n", trimmed("\n".join(rows[start:]) + "\n")))
        if (_defines(code, name) and parsed(code)) if name else (start == starts[-1] and _acts(code)):
            return code
    spans = [indented("\n".join(rows)), *(found[2] for found in SPAN.finditer(text))]
    return next((f"{code.strip()}\n" for code in reversed(spans) if _is_whole(code.strip(), name)), "")
