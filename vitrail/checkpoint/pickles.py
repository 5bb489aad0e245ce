"""Pickles read as data: a machine for their opcodes that never imports or calls what they name.

A class that a pickle names becomes an inert `Made`, whatever it is; only what weights are made of
(tensors, arrays, ordered mappings) gets a value. A pickle that calls what runs code is refused,
since other programs would run it.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

STEPS = 5_000_000  # more than any file of weights needs; a second of reading for each million
_RUNNING = {
    "os", "posix", "nt", "sys", "subprocess", "shutil", "runpy", "importlib", "ctypes", "socket",
    "pty", "code", "codeop", "webbrowser", "pdb", "timeit",
}  # fmt: skip
_BUILTINS = {"eval", "exec", "compile", "__import__", "open", "input", "breakpoint", "execfile"}


class Unsafe(Exception):
    """A pickle that would run code in a program that trusts it."""


class Name(NamedTuple):
    """What a pickle refers to by module and name; it is never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, repr=False)
class Made:
    """An object of a class that is not weights: what it was made from, inert."""

    kind: Any
    arguments: Any = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)


class Saved(NamedTuple):
    """What a pickle keeps outside of itself: the arguments of a persistent identifier."""

    arguments: Any


Build = Callable[..., Any]


def unpickled(stream: Any, builders: Mapping[Name, Build], persistent: Build | None = None) -> Any:
    """Return the value of the pickle at a stream's position, which is then behind it.

    `builders` make values from the arguments of the names that they know, `persistent` from those
    of persistent identifiers; all else becomes `Made`. Raises Unsafe for a pickle that runs
    code, ValueError (and what damaged data raises in Python) for one that is not whole.
    """
    return _Machine(builders, persistent or Saved).run(stream)


class _Machine:
    def __init__(self, builders: Mapping[Name, Build], persistent: Build) -> None:
        self.builders, self.persistent = builders, persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, stream: Any) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count > STEPS:
                raise ValueError(f"its pickle has more than {STEPS} steps")
            name = opcode.name
            if name == "STOP":
                return self.stack.pop()
            if name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name](argument))
            else:
                step = _STEPS.get(name)
                if step is None:
                    raise ValueError(f"its pickle has the step {name}, which no weights need")
                step(self, argument)
        raise ValueError("its pickle has no end")

    # ---- the stack -------------------------------------------------------------------------

    def above(self) -> list[Any]:
        """Take what lies above the last mark."""
        at = self.marks.pop()
        taken = self.stack[at:]
        del self.stack[at:]
        return taken

    def discard(self) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def tuple_of(self, count: int) -> None:
        taken = self.stack[len(self.stack) - count :]
        if len(taken) != count:
            raise ValueError("its pickle takes more than it has")
        self.stack[len(self.stack) - count :] = [tuple(taken)]

    def get(self, key: Any) -> None:
        self.stack.append(self.memo[int(key)])

    def put(self, key: Any) -> None:
        self.memo[int(key)] = self.stack[-1]

    # ---- containers ------------------------------------------------------------------------

    def extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Made):
            target = target.elements
        if not isinstance(target, list):
            raise ValueError(f"its pickle appends to a {type(target).__name__}")
        target.extend(values)

    def update(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Made):
            target = target.items
        if not isinstance(target, dict):
            raise ValueError(f"its pickle sets items of a {type(target).__name__}")
        target.update(_mapping(pairs))

    # ---- objects ---------------------------------------------------------------------------

    def name(self, module: Any, name: Any) -> None:
        self.stack.append(Name(str(module), str(name)))

    def call(self, function: Any, arguments: Any) -> None:
        if isinstance(function, Name):
            _refuse_code(function)
            build = self.builders.get(function)
            if build is not None and isinstance(arguments, tuple):
                self.stack.append(build(*arguments))
                return
        self.stack.append(Made(function, arguments))

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.call(function, arguments)

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Made):
            target.state = state
        elif hasattr(target, "restored"):
            target.restored(state)


def _refuse_code(function: Name) -> None:
    root = function.module.partition(".")[0]
    builtin = root in ("builtins", "__builtin__") and function.name in _BUILTINS
    if builtin or root in _RUNNING:
        raise Unsafe(
            f"it calls {function}, which would run in a program that trusts it: ask for a "
            ".safetensors file"
        )


def _mapping(pairs: list[Any]) -> dict[Any, Any]:
    """Pair keys and values in turn into a mapping; a key that is not a
    plain value is left inert.
    """
    if len(pairs) % 2:
        raise ValueError("its pickle has a key without a value")
    return {_key(k): v for k, v in zip(pairs[::2], pairs[1::2], strict=True)}


def _key(key: Any) -> Any:
    # The hash of nested tuples that share their parts takes for ever.
    return key if isinstance(key, str | int | float | bytes | None) else Made(key)


_PLAIN = (
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
    "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
)  # fmt: skip
_CONSTANTS: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(_PLAIN, lambda argument: argument),
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_LIST": lambda _: [],
    "EMPTY_SET": lambda _: [],
    "EMPTY_DICT": lambda _: {},
    "EMPTY_TUPLE": lambda _: (),
}


def _instance(machine: _Machine, argument: Any) -> None:
    module, _, name = str(argument).partition(" ")
    machine.call(Name(module, name), tuple(machine.above()))


def _object(machine: _Machine, _: Any) -> None:
    kind, *arguments = machine.above()
    machine.call(kind, tuple(arguments))


def _with_keywords(machine: _Machine, _: Any) -> None:
    machine.stack.pop()
    machine.reduce()


def _stack_global(machine: _Machine, _: Any) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.name(module, name)


def _pop_mark(machine: _Machine, _: Any) -> None:
    machine.above()


def _setitem(machine: _Machine, _: Any) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.update([key, value])


_STEPS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda m, a: None,
    "FRAME": lambda m, a: None,
    "MARK": lambda m, a: m.marks.append(len(m.stack)),
    "POP": lambda m, a: m.discard(),
    "POP_MARK": _pop_mark,
    "DUP": lambda m, a: m.stack.append(m.stack[-1]),
    "GET": lambda m, a: m.get(a),
    "BINGET": lambda m, a: m.get(a),
    "LONG_BINGET": lambda m, a: m.get(a),
    "PUT": lambda m, a: m.put(a),
    "BINPUT": lambda m, a: m.put(a),
    "LONG_BINPUT": lambda m, a: m.put(a),
    "MEMOIZE": lambda m, a: m.put(len(m.memo)),
    "TUPLE": lambda m, a: m.stack.append(tuple(m.above())),
    "TUPLE1": lambda m, a: m.tuple_of(1),
    "TUPLE2": lambda m, a: m.tuple_of(2),
    "TUPLE3": lambda m, a: m.tuple_of(3),
    "LIST": lambda m, a: m.stack.append(m.above()),
    "FROZENSET": lambda m, a: m.stack.append(m.above()),
    "DICT": lambda m, a: m.stack.append(_mapping(m.above())),
    "APPEND": lambda m, a: m.extend([m.stack.pop()]),
    "APPENDS": lambda m, a: m.extend(m.above()),
    "ADDITEMS": lambda m, a: m.extend(m.above()),
    "SETITEM": _setitem,
    "SETITEMS": lambda m, a: m.update(m.above()),
    "GLOBAL": lambda m, a: m.name(*str(a).split(" ", 1)),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": lambda m, a: m.reduce(),
    "NEWOBJ": lambda m, a: m.reduce(),
    "NEWOBJ_EX": _with_keywords,
    "INST": _instance,
    "OBJ": _object,
    "BUILD": lambda m, a: m.build(),
    "PERSID": lambda m, a: m.stack.append(m.persistent(a)),
    "BINPERSID": lambda m, a: m.stack.append(m.persistent(m.stack.pop())),
}
