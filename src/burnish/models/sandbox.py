"""The sandbox chat templates run in: no way out of it, and an end to what one rendering may do.

A model's owner writes the template, anybody writes the messages. One budget for each rendering pays for every step of
a loop, every call and filter, and every character or item that they, ``+``, ``~`` and blocks produce, so that neither
nested loops nor doubling in a loop go on. What multiplies sizes (``*``, ``replace``, ``center``) is refused before it
happens. Not bounded: printing or comparing lists that hold each other many times over, which only a template can build,
never a message.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from functools import wraps
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_WORK = 2**27  # characters or items all operations of one rendering may produce together
STEP = 2**10  # what a loop's step or a call costs beside that
MAX_PRODUCT = 10**6
WIDE = re.compile(r"%.*\*|\d{5}")  # a printf or str.format width


class Budget:
    """What is left of the work one rendering may do."""

    def __init__(self) -> None:
        self._left = MAX_WORK

    def spend(self, amount: int) -> None:
        """Raise ``SecurityError`` when there is not that much left."""
        self._left -= amount
        if self._left < 0:
            raise SecurityError("more work than any conversation needs")


_budget: ContextVar[Budget] = ContextVar("budget")


def begin() -> None:
    """Give this thread or task a new budget."""
    _budget.set(Budget())


def _spend(amount: int) -> None:
    _budget.get(Budget()).spend(amount)  # constants are computed while compiling, outside any rendering


class Sandbox(ImmutableSandboxedEnvironment):
    """An environment whose templates pay for what they do."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        self.filters = {name: measured(function) for name, function in self.filters.items()}
        self.filters |= {"_counted": _counted, "_joined": _joined}
        self.globals["range"] = _range
        del self.globals["lipsum"]

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = _Measure().visit(super()._parse(source, name, filename))
        assert isinstance(tree, nodes.Template)
        tree.set_environment(self)
        return tree

    @staticmethod
    def concat(pieces: Iterable[str]) -> str:
        """What macros and set blocks are joined by."""
        return _joined(pieces)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - as jinja2 does
        """Call a function, macro or method, which pays for its operands and its result."""
        owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)  # jinja2 wraps str.format
        if isinstance(owner, str):
            _pay(__obj.__name__, (owner, *args, *kwargs.values()))
        else:
            _spend(STEP + sum(map(_size, args)))  # a recursive loop goes through its argument
        return _paid(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Refuse products and widths that would fill the memory."""
        if operator == "%" and isinstance(left, str):
            _refuse_width(left)
        elif operator in ("*", "**"):
            sizes = [len(v) if isinstance(v, (str, list, tuple)) else abs(v) for v in (left, right)]
            if (operator == "**" and max(sizes) > 1000) or sizes[0] * sizes[1] > MAX_PRODUCT:
                raise SecurityError(f"operator {operator} makes too large a value")
        return _paid(super().call_binop(context, operator, left, right))


class _Measure(NodeTransformer):
    """Sends loops and ``~`` through filters of ours."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - named after the node
        self.generic_visit(node)
        node.iter = _filter(node.iter, "_counted")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), "_joined")


def _filter(node: nodes.Node, name: str) -> nodes.Filter:
    assert isinstance(node, nodes.Expr)
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _counted(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        _spend(STEP)
        yield item


def _joined(pieces: Iterable[Any]) -> str:
    texts = [str(piece) for piece in pieces]
    _spend(sum(map(len, texts)))
    return "".join(texts)


def _range(*bounds: int) -> range:
    steps = range(*bounds)
    _spend(len(steps) * STEP)
    return steps


def measured(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that pays for its operands and its result."""

    @wraps(function)  # with the marks by which jinja2 knows what a filter wants to be given
    def paying(*args: Any, **kwargs: Any) -> Any:
        _pay(function.__name__, (*args, *kwargs.values()))
        return _paid(function(*args, **kwargs))

    return paying


def _pay(name: str, operands: tuple[Any, ...]) -> None:
    sizes = sorted(map(_size, operands))
    _spend(STEP + sum(sizes))
    # Padding, replacing and joining make at most the product of two of their operands; searching is let through.
    widths = [abs(v) for v in operands[1:] if isinstance(v, int)]
    if "format" in name:
        _refuse_width(str(operands[0]))
    if max(sizes[-1:] + widths, default=0) * max(sizes[-2:-1] + widths, default=1) > MAX_WORK:
        raise SecurityError(f"{name} makes too large a value")


def _paid(value: Any) -> Any:
    _spend(_size(value))
    return value


def _size(value: Any) -> int:
    return len(value) if isinstance(value, (str, list, tuple, dict)) else 0


def _refuse_width(form: str) -> None:
    if WIDE.search(form):
        raise SecurityError(f"a width in {form[:40]!r} makes too large a value")
