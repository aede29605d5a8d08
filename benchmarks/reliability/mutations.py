"""Small changes of Python source, one at a time, that a test of its behaviour should notice.

An operator or comparison becomes its neighbour, a number one more, a flag the other one; a
condition is turned round; a statement or a result is left out. What says nothing about behaviour is
left alone: annotations, decorators, texts, the words of an error, ``strict`` of ``zip``.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
# numbers and flags of these arguments change no answer by their meaning
ALIKE = ("strict", "stacklevel")


@dataclass(frozen=True)
class Mutation:
    """One change.

    Args:
        start: First byte of the source that is replaced.
        end: The byte after the last one.
        text: What stands there instead.
        old: What stood there.
        lines: First and last line whose execution makes a difference possible.
        function: The function it lies in, empty at the top of the module.
        kind: What is changed.
        imported: Whether it is done when the module is imported, and not when something is called.
    """

    start: int
    end: int
    text: str
    old: str
    lines: tuple[int, int]
    function: str
    kind: str
    imported: bool

    @property
    def name(self) -> str:
        """The change in one line, without numbers of lines, which wander."""
        old, new = (" ".join(text.split())[:120] for text in (self.old, self.text))
        return f"{self.function or 'module'}: {old} -> {new}"


class _Finder(ast.NodeVisitor):
    """Walks a module and notes what may be changed."""

    def __init__(self, source: str) -> None:
        self.bytes = source.encode()
        self.starts = [0]
        for line in self.bytes.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.found: list[Mutation] = []
        self.scope: list[str] = []
        self.span = (1, 1)
        self.imported = True

    def note(self, node: ast.expr | ast.stmt, new: ast.AST | str, kind: str) -> None:
        """Keep a change of a node."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = self.starts[node.lineno - 1] + node.col_offset
        end = self.starts[node.end_lineno - 1] + node.end_col_offset
        text = new if isinstance(new, str) else f"({ast.unparse(ast.fix_missing_locations(new))})"
        old = self.bytes[start:end].decode()
        function = ".".join(self.scope)
        self.found.append(Mutation(start, end, text, old, self.span, function, kind, self.imported))

    def visit(self, node: ast.AST) -> None:
        """Notes the lines of the statement, and turns conditions round."""
        before = self.span
        compound = isinstance(node, ast.stmt) and hasattr(node, "body")
        if isinstance(node, ast.stmt) and not compound:
            self.span = (node.lineno, node.end_lineno or node.lineno)
        elif compound:  # its first lines; each statement of its body has its own
            self.span = (node.lineno, max(node.lineno, node.body[0].lineno - 1))
        test = getattr(node, "test", None)
        if test is not None and ast.unparse(test) != "TYPE_CHECKING":
            self.note(test, f"(not ({ast.unparse(test)}))", "condition")
        for condition in getattr(node, "ifs", ()):
            self.note(condition, f"(not ({ast.unparse(condition)}))", "condition")
        super().visit(node)
        self.span = before

    def _scoped(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        self.scope.append(node.name)
        # onnxscript reads a function's text as soon as it is there
        is_read = any(ast.unparse(each).startswith("script(") for each in node.decorator_list)
        is_class = isinstance(node, ast.ClassDef)
        before, self.imported = self.imported, is_read or (self.imported and is_class)
        for child in node.body:
            self.visit(child)
        self.imported = before
        if not isinstance(node, ast.ClassDef):  # a default: whoever calls the function sees it
            self.span = (node.body[0].lineno, node.end_lineno or node.lineno)
            for value in [*node.args.defaults, *node.args.kw_defaults]:
                if value is not None:
                    self.visit(value)
        self.scope.pop()

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _scoped  # noqa: N815

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """A text: left alone, and what lies in it has no place of its own before Python 3.12."""

    def visit_Raise(self, node: ast.Raise) -> None:
        """A refusal is left out; its words are left alone."""
        if node.exc is not None:
            self.note(node, "pass", "refusal")

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """The value alone."""
        if node.value is not None:
            self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        """A call whose result nobody takes is left out."""
        if isinstance(node.value, ast.Call):
            self.note(node, "pass", "call")
            self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        """Nothing is returned."""
        if node.value is not None and ast.unparse(node.value) != "None":
            self.note(node, "return None", "result")
            self.generic_visit(node)

    def visit_Break(self, node: ast.Break) -> None:
        """The loop goes on."""
        self.note(node, "continue", "loop")

    def visit_Continue(self, node: ast.Continue) -> None:
        """The loop ends."""
        self.note(node, "break", "loop")

    def visit_BinOp(self, node: ast.BinOp) -> None:
        """Another operator; not that of paths, texts and types."""
        other = OPERATORS.get(type(node.op))
        sides = (node.left, node.right)
        plain = not any(_is_text(side) or ast.unparse(side) == "None" for side in sides)
        if other is not None and plain:
            self.note(node, ast.BinOp(node.left, other(), node.right), "operator")  # type: ignore[arg-type]
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """Another operator."""
        other = OPERATORS.get(type(node.op))
        if other is not None and not _is_text(node.value):
            new = ast.unparse(ast.AugAssign(node.target, other(), node.value))  # type: ignore[arg-type]
            self.note(node, new, "operator")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """``and`` for ``or``."""
        self.note(node, ast.BoolOp(OPERATORS[type(node.op)](), node.values), "operator")  # type: ignore[arg-type]
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        """Each comparison becomes its neighbour."""
        for place, op in enumerate(node.ops):
            ops = [*node.ops]
            ops[place] = OPERATORS[type(op)]()  # type: ignore[call-overload]
            self.note(node, ast.Compare(node.left, ops, node.comparators), "comparison")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        """A ``not`` or a sign is dropped."""
        if isinstance(node.op, ast.Not | ast.USub):
            self.note(node, node.operand, "sign")
        self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        """Arguments that change no answer are left alone."""
        if node.arg not in ALIKE:
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """A number is one more, a flag the other one."""
        if isinstance(node.value, bool):
            self.note(node, str(not node.value), "constant")
        elif isinstance(node.value, int | float):
            self.note(node, repr(node.value + 1), "constant")


def _is_text(node: ast.expr) -> bool:
    """Whether an operand is a literal text."""
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    )


def mutations(source: str) -> Iterator[Mutation]:
    r"""All changes of a module, in the order of its text.

    Args:
        source: Text of the module.

    Returns:
        The changes; each alone leaves source that compiles.

    Example:
        >>> [each.name for each in mutations("def half(x):\n    return x / 2\n")]
        ['half: return x / 2 -> return None', 'half: x / 2 -> (x * 2)', 'half: 2 -> 3']
    """
    finder = _Finder(source)
    finder.visit(ast.parse(source))
    yield from sorted(finder.found, key=lambda each: (each.start, -each.end))


def mutated(source: str, mutation: Mutation) -> str:
    """The source with a change; all else stays in its line."""
    text, new = source.encode(), mutation.text
    lines = "\n" * (mutation.old.count("\n") - new.count("\n"))
    new = f"{new[:-1]}{lines})" if new.endswith(")") else new + lines
    return (text[: mutation.start] + new.encode() + text[mutation.end :]).decode()
