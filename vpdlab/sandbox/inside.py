"""The program that runs inside the wall, around the candidate's code.

Its source is passed to the interpreter inside, so it needs only Python 3.8 or newer, and imports as little as possible:
every import slows the start of every program. Nothing here is secret and nothing is decided here. A candidate can reach
all of it and can write to the channel itself, but all that it can gain is to send the answer that it would have had to
compute.

The host sends one job (`marshal`; only the host writes it) on one descriptor. The answers are lines of ASCII words on
another one:

    r                         the interpreter runs and the limits are set; the candidate's clock starts here
    v I WORDS                 call I returned this value (`encode`)
    x I REASON                call I returned a value that is not plain
    e I TYPE LINE MESSAGE     call I (or -1: the code itself) raised
    m                         the function was not defined
    d I                       test I completed (tests that run inside)
    f                         all calls were made

REASON, TYPE and MESSAGE are UTF-8 in hex.
"""

import marshal
import os
import sys

LONGEST = 4 * 2**20  # bytes of one encoded value
DEEPEST = 100  # containers around a value
CHANNEL = 3  # descriptor of the answers
SOURCE = "solution.py"  # name of the candidate's file in tracebacks
SETUP = "setup.py"  # the task's code that runs before it
TESTS = "tests.py"


class NotPlain(Exception):
    """A value cannot be sent: it is not plain, too deep or too large."""


def to_hex(text):
    """Text as one ASCII word; lone surrogates are allowed."""
    return text.encode("utf-8", "surrogatepass").hex() or "-"


def encode(value, longest=LONGEST, kin=False):
    """A plain value as one line of ASCII words that decode to exactly the same value and type.

    Plain types are None, bool, int, float, complex, str, bytes, list, tuple, set, frozenset and dict, but not their
    subclasses. Each word is a letter for the type, then the atom, or the number of items that follow.

    Args:
        longest: maximum length of the line in bytes.
        kin: whether values of other types are sent as the plain values that they equal (`_kin`).

    Raises:
        NotPlain: for anything else, for more than `DEEPEST` nested containers or more than `longest` bytes.
    """
    words, room = [], [longest]

    def add(word):
        room[0] -= len(word) + 1
        if room[0] < 0:
            raise NotPlain(f"a value that takes more than {longest >> 20} MiB")
        words.append(word)

    _walk(value, 0, kin, add)
    return " ".join(words)


def _walk(value, depth, kin, add):
    """Pass a value's words to `add`, in order."""
    kind = type(value)
    if kin and kind not in ATOMS and kind not in CONTAINERS:
        kind, value = _kin(kind, value)
    if kind in ATOMS:
        add(ATOMS[kind](value))
    elif kind not in CONTAINERS:
        raise NotPlain(f"a value of type {kind.__name__[:60]}")
    elif depth >= DEEPEST:
        raise NotPlain(f"a value nested more than {DEEPEST} deep")
    else:
        add(CONTAINERS[kind] + str(kind.__len__(value)))
        for item in dict.items(value) if kind is dict else kind.__iter__(value):
            if kind is dict:
                _walk(item[0], depth + 1, kin, add)
                item = item[1]
            _walk(item, depth + 1, kin, add)


def _kin(kind, value) -> tuple:
    """The (plain type, value) that a value of another type equals according to Python; else the value's own.

    A subclass that inherits the comparison of its plain type equals its plain content. A subclass with its own
    comparison could equal anything, and is not converted.
    """
    for base in (*ATOMS, *CONTAINERS):
        if issubclass(kind, base) and (kind.__eq__ is base.__eq__ or (base, kind.__module__) == (dict, "collections")):
            return base, value
    others = []
    if kind is bytearray:
        others = [bytes]
    elif issubclass(kind, (type({}.keys()), type({}.items()))):
        others = [set]
    elif kind.__module__ in ("decimal", "fractions", "numpy"):
        others = [int, float]
    for base in others:
        try:
            plain = base(value)
            if type(plain) is base and value == plain:
                return base, plain
        except (ArithmeticError, TypeError, ValueError):
            continue  # not convertible to this type
    return kind, value


# Unbound methods of the types themselves, which a subclass cannot override.
ATOMS = {
    type(None): lambda value: "N",
    bool: lambda value: "T" if value else "F",
    int: lambda value: "i" + int.__format__(value, "x"),  # decimal conversion is quadratic, and limited by Python
    float: lambda value: "f" + float.hex(value),
    complex: lambda value: "c" + complex.real.__get__(value).hex() + ";" + complex.imag.__get__(value).hex(),
    str: lambda value: "s" + str.encode(value, "utf-8", "surrogatepass").hex(),
    bytes: lambda value: "b" + bytes.hex(value),
}
CONTAINERS = {list: "l", tuple: "t", set: "S", frozenset: "Z", dict: "d"}
# What a test may apply to a result before the comparison. Applied here, because a generator, say, cannot be sent.
WRAPS = {
    "": lambda value: value,
    "bool": bool,
    "len": len,
    "list": list,
    "set": set,
    "sorted": sorted,
    "str": str,
    "sum": sum,
    "tuple": tuple,
}


def serve(job, channel):
    """Do one job, sending lines to the descriptor `channel`; exits the process after calls."""
    write = os.write
    if channel != CHANNEL:  # the same number in every run, so that descriptors the candidate opens are the same too
        os.dup2(channel, CHANNEL, inheritable=False)
        os.close(channel)

    def say(*words):
        line = (" ".join(words) + "\n").encode("ascii")
        while line:
            line = line[write(CHANNEL, line) :]

    sys.path[:] = [path for path in sys.path if path]  # "" is the working folder, which the candidate can write
    _limit(job["limits"])
    say("r")
    if job["mode"] == "program":
        _program(job["setup"], job["code"], say)
    else:
        leave = os._exit
        if _calls(job, say):
            say("f")
        leave(0)  # without running the candidate's threads and exit handlers


def _limit(limits):
    import resource

    for name, value in limits.items():
        number = getattr(resource, name)
        hard = resource.getrlimit(number)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (value, value))


def _program(setup, code, say):
    """Run `setup` and `code` as a script: `__main__`, its own traceback, exit handlers, threads joined."""
    with open(SOURCE, "w", encoding="utf-8", errors="surrogatepass") as file:
        file.write(code)  # tracebacks quote from it
    module = type(sys)("__main__")
    module.__dict__.update(__builtins__=__builtins__, __file__=SOURCE)
    sys.modules["__main__"] = module
    sys.argv[:] = [SOURCE]
    try:
        exec(compile(setup, SETUP, "exec", dont_inherit=True), module.__dict__)
        exec(compile(code, SOURCE, "exec", dont_inherit=True), module.__dict__)
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 - the candidate's code may raise anything
        _report(say, -1, error)
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename != SOURCE:
            trace = trace.tb_next
        error.__context__ = error.__context__ if trace is not None else None
        sys.__excepthook__(type(error), error.with_traceback(trace), trace)
        raise SystemExit(1) from None


def _calls(job, say):
    """Run the code and make the calls; returns whether the calls were reached."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):  # the candidate's output is discarded, its input is empty
        os.dup2(nothing, number)
    space = {"__name__": "solution", "__builtins__": __builtins__}
    try:
        exec(compile(job["setup"], SETUP, "exec", dont_inherit=True), space)
        exec(compile(job["code"], SOURCE, "exec", dont_inherit=True), space)
        find = _finder(space, job["entry"])
    except BaseException as error:  # noqa: BLE001 - SystemExit too
        _report(say, -1, error)
        return False
    if find is None:
        say("m")
        return False
    for index, call in enumerate(job["calls"]):
        try:
            if job["mode"] == "function":
                args, keywords, wrap, kin = call
                value = encode(WRAPS[wrap](find()(*args, **keywords)), job.get("longest", LONGEST), kin)
                say("v", str(index), value)
            else:
                exec(compile(call, TESTS, "exec", dont_inherit=True), space)
                say("d", str(index))
        except NotPlain as why:
            say("x", str(index), to_hex(str(why)))
        except BaseException as error:  # noqa: BLE001
            _report(say, index, error)
    return True


def _finder(space, entry):
    """A function that returns the callable: a function, or a method of a fresh object ("Solution.twoSum")."""
    owner, _, name = entry.rpartition(".")
    if not owner:
        return (lambda: space[entry]) if entry in space else None
    if owner not in space or not hasattr(space[owner], name):
        return None
    return lambda: getattr(space[owner](), name)


def _report(say, index, error):
    """Send an exception: its type, the last line of the candidate in its traceback, and its message."""
    line, trace = 0, error.__traceback__
    if isinstance(error, SyntaxError) and error.filename == SOURCE:
        line = error.lineno or 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == SOURCE:
            line = trace.tb_lineno
        trace = trace.tb_next
    try:
        message = error.msg if isinstance(error, SyntaxError) else str(error)
        say("e", str(index), to_hex(type(error).__name__[:60]), str(line), to_hex(message[:500]))
    except BaseException:  # noqa: BLE001 - its __str__ is the candidate's own
        say("e", str(index), to_hex(type(error).__name__[:60]), str(line), "-")


def read_job(number):
    """Read the job from descriptor `number` and close it."""
    with open(number, "rb") as file:
        return marshal.load(file)
