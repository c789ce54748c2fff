"""What one function's own body does to the world around it, as its syntax and the analysis of its names tell."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from enum import StrEnum

from msgspec import Struct

from shardwright.sharding._scanned import MUTATORS
from shardwright.sharding._symbols import Bind, Ref, Resolver
from shardwright.sharding.callgraph._code import Function


class Effect(StrEnum):
    """Something a function does besides computing its result."""

    READS_GLOBAL = "reads global"
    WRITES_GLOBAL = "writes global"
    MUTATES_ARGUMENT = "changes argument"
    KEEPS_ARGUMENT = "keeps argument"
    WRITES_NONLOCAL = "writes nonlocal"
    CLOSURE = "uses variables around it"
    GENERATOR = "generator"
    ASYNC = "async"
    ENTERS = "enters"
    LOCKS = "holds lock"
    THREAD_LOCAL = "thread-local"
    CONTEXT_VARIABLE = "context variable"
    OPENS = "opens"
    PROCESS = "process setting"
    PATCHES = "patches"
    IDENTITY = "compares identity"
    DYNAMIC = "dynamic code"
    STARTS = "starts"
    CACHED = "cached"
    LOOPS = "runs event loop"
    CLASS_STATE = "writes class state"
    SELF_STATE = "writes own attribute"
    UNCOPYABLE_RESULT = "returns what cannot be copied"


class Fact(Struct, frozen=True):
    """One effect of a function: what it is about, where, and whether a callee does it (``through``)."""

    effect: Effect
    name: str
    line: int
    through: str = ""


_PROCESS = frozenset({
    "os.chdir", "os.getcwd", "os.umask", "os.putenv", "os.unsetenv", "os.getenv", "locale.setlocale", "locale.getlocale",
    "warnings.filterwarnings", "warnings.simplefilter", "decimal.getcontext", "decimal.setcontext",
    "logging.basicConfig", "logging.disable", "logging.config.dictConfig", "socket.setdefaulttimeout",
    "sys.setrecursionlimit", "sys.setswitchinterval",
})  # fmt: skip
_DYNAMIC = frozenset({
    "builtins.eval", "builtins.exec", "builtins.compile", "builtins.locals", "builtins.__import__", "sys._getframe",
    "inspect.currentframe", "inspect.stack", "os.fork", "os.forkpty", "signal.signal", "sys.settrace", "sys.setprofile",
    "inspect.getframeinfo", "traceback.walk_stack", "signal.setitimer", "os.execv", "os.execve", "gc.get_referrers",
})  # fmt: skip
_LOCKS = frozenset({
    "threading.Lock", "threading.RLock", "threading.Condition", "threading.Semaphore", "threading.BoundedSemaphore",
    "multiprocessing.Lock", "asyncio.Lock", "asyncio.Semaphore", "asyncio.Condition",
})  # fmt: skip
_OPENS = frozenset({
    "builtins.open", "io.open", "os.open", "os.fdopen", "socket.socket", "socket.create_connection", "sqlite3.connect",
    "tempfile.TemporaryFile", "tempfile.NamedTemporaryFile", "subprocess.Popen", "mmap.mmap", "codecs.open", "gzip.open",
    "zipfile.ZipFile", "tarfile.open", "ssl.create_default_context", "requests.Session", "http.client.HTTPConnection",
})  # fmt: skip
_STARTS = frozenset({
    "threading.Thread", "threading.Timer", "multiprocessing.Process", "multiprocessing.Pool", "subprocess.Popen",
    "subprocess.run", "concurrent.futures.ThreadPoolExecutor", "concurrent.futures.ProcessPoolExecutor", "os.fork",
    "_thread.start_new_thread", "atexit.register",
})  # fmt: skip
_LOOPS = frozenset(
    {
        "asyncio.run",
        "asyncio.get_event_loop",
        "asyncio.new_event_loop",
        "asyncio.run_coroutine_threadsafe",
        "trio.run",
        "anyio.run",
    }
)
_LOOP_METHODS = frozenset({"run_until_complete", "run_forever"})
_CACHES = frozenset({"functools.lru_cache", "functools.cache", "functools.cached_property"})
_UNCOPYABLE = _LOCKS | _OPENS | {"threading.local", "builtins.memoryview", "threading.Event", "importlib.import_module"}


class Reader:
    """Reads the facts of functions. ``holders`` are module globals by what made them: locks, thread-locals, ..."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._made: dict[tuple[str, str], str] = {}

    def made(self, module: str, name: str) -> str:
        """The dotted name of what was called to make a global; empty for all else."""
        key = (module, name)
        if key not in self._made:
            binding = self._resolver.binding(Ref(module, name))
            value = binding.value if binding is not None else None
            self._made[key] = self._dotted(module, value.func) if isinstance(value, ast.Call) else ""
        return self._made[key]

    def _dotted(self, module: str, node: ast.expr) -> str:
        ref = self._resolver.expression(module, node)
        return f"{ref.module}.{ref.name}" if ref is not None and ref.name else ""

    def of(self, function: Function) -> list[Fact]:
        """The facts of one function or module body, without what its callees do."""
        return list(dict.fromkeys(_Body(self, self._resolver, function).facts()))


class _Body:
    def __init__(self, reader: Reader, resolver: Resolver, function: Function) -> None:
        self.reader, self.resolver, self.function = reader, resolver, function
        self.module = function.module.name
        self.parameters = set(function.named) if function.node is not None else set()
        table = function.scope.table if function.scope is not None and function.node is not None else None
        self.local: set[str] = set()
        self.outer: set[str] = set()
        self.declared: set[str] = set()
        self.entered: set[ast.expr] = set()  # opened and closed by one `with`
        if table is not None:
            for symbol in table.get_symbols():
                if symbol.is_local():
                    self.local.add(symbol.get_name())
                if symbol.is_free():
                    self.outer.add(symbol.get_name())
                if symbol.is_declared_global():
                    self.declared.add(symbol.get_name())

    def facts(self) -> Iterator[Fact]:
        function, node = self.function, self.function.node
        if function.is_generator:
            yield Fact(Effect.GENERATOR, function.name, function.line)
        if function.is_async:
            yield Fact(Effect.ASYNC, function.name, function.line)
        for decorator in getattr(node, "decorator_list", []):
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            if self._dotted(called) in _CACHES:
                yield Fact(Effect.CACHED, self._dotted(called), decorator.lineno)
        own = list(_own(function))
        for item in own:
            if isinstance(item, ast.With | ast.AsyncWith):
                self.entered |= {each.context_expr for each in item.items}
        for item in own:
            yield from self._node(item)

    def _dotted(self, node: ast.expr) -> str:
        root = node
        while isinstance(root, ast.Attribute):
            root = root.value
        if not isinstance(root, ast.Name) or root.id in self.local or root.id in self.outer:
            return ""
        return self.reader._dotted(self.module, node)

    def _global(self, node: ast.expr) -> Ref | None:
        """The module global that an expression names."""
        root: ast.expr = node
        while isinstance(root, ast.Attribute):
            root = root.value
        if not isinstance(root, ast.Name) or root.id in self.local or root.id in self.outer:
            return None
        ref = self.resolver.expression(self.module, node)
        if ref is None or not ref.name or self.resolver.tree.locate(ref.module) is None:
            return None
        binding = self.resolver.binding(ref)
        if binding is None or binding.kind in (Bind.FUNCTION, Bind.CLASS, Bind.IMPORT) or "." in ref.name:
            return None
        return ref

    def _is_parameter(self, node: ast.expr) -> str:
        while isinstance(node, ast.Attribute | ast.Subscript):
            node = node.value
        return node.id if isinstance(node, ast.Name) and node.id in self.parameters else ""

    def _node(self, node: ast.AST) -> Iterator[Fact]:
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                yield from self._read(node, name)
            case ast.Attribute(ctx=ast.Load()):
                ref = self._global(node)
                if ref is not None and ref.module != self.module:
                    yield Fact(Effect.READS_GLOBAL, str(ref), node.lineno)
                elif self._dotted(node) == "os.environ":
                    yield Fact(Effect.PROCESS, "os.environ", node.lineno)
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()) if name in self.declared:
                yield Fact(Effect.WRITES_GLOBAL, f"{self.module}:{name}", node.lineno)
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()) if name in self.outer:
                yield Fact(Effect.WRITES_NONLOCAL, name, node.lineno)
            case ast.Attribute(ctx=ast.Store() | ast.Del()) | ast.Subscript(ctx=ast.Store() | ast.Del()):
                yield from self._stored(node)
            case ast.Call():
                yield from self._called(node)
            case ast.With() | ast.AsyncWith():
                for item in node.items:
                    yield from self._entered(item.context_expr)
            case ast.Compare(left=left, ops=operators, comparators=others):
                for operator, other in zip(operators, others, strict=True):
                    if isinstance(operator, ast.Is | ast.IsNot):
                        yield from self._identical(left, other, node.lineno)
                    left = other
            case ast.Return(value=ast.Call(func=called)) if self._dotted(called) in _UNCOPYABLE:
                yield Fact(Effect.UNCOPYABLE_RESULT, self._dotted(called), node.lineno)
            case ast.Return(value=ast.Lambda()):
                yield Fact(Effect.UNCOPYABLE_RESULT, "lambda", node.lineno)
            case _:
                return

    def _read(self, node: ast.Name, name: str) -> Iterator[Fact]:
        if name in self.outer:
            yield Fact(Effect.CLOSURE, name, node.lineno)
            return
        if self.function.node is None:
            return
        ref = self._global(node)
        if ref is None:
            return
        made = self.reader.made(ref.module, ref.top)
        if made == "contextvars.ContextVar":
            yield Fact(Effect.CONTEXT_VARIABLE, str(ref), node.lineno)
        elif made == "threading.local":
            yield Fact(Effect.THREAD_LOCAL, str(ref), node.lineno)
        elif made not in _LOCKS:
            yield Fact(Effect.READS_GLOBAL, str(ref), node.lineno)

    def _stored(self, node: ast.Attribute | ast.Subscript) -> Iterator[Fact]:
        """``x.name = ...``, ``x[key] = ...``, and ``del`` of both."""
        base = node.value
        ref = self._global(base)
        if ref is not None and self.function.node is not None:
            if self.reader.made(ref.module, ref.top) == "threading.local":
                yield Fact(Effect.THREAD_LOCAL, str(ref), node.lineno)
            else:
                yield Fact(Effect.WRITES_GLOBAL, str(ref), node.lineno)
            return
        if self._dotted(base) == "os.environ":
            yield Fact(Effect.PROCESS, "os.environ", node.lineno)
            return
        parameter = self._is_parameter(base)
        positional = self.function.positional
        if parameter and self.function.owner is not None and positional and parameter == positional[0]:
            if (
                self.function.name not in ("__init__", "__new__", "__post_init__", "__setstate__")
                and self.function.plain
            ):
                name = node.attr if isinstance(node, ast.Attribute) else ast.unparse(base)[:40]
                yield Fact(Effect.SELF_STATE, name, node.lineno)
        elif parameter:
            yield Fact(Effect.MUTATES_ARGUMENT, parameter, node.lineno)

    def _called(self, node: ast.Call) -> Iterator[Fact]:
        dotted = self._dotted(node.func)
        line = node.lineno
        if dotted in _DYNAMIC:
            yield Fact(Effect.DYNAMIC, dotted, line)
        elif dotted in ("builtins.getattr", "builtins.setattr", "builtins.delattr") and len(node.args) > 1:
            if not isinstance(node.args[1], ast.Constant):
                yield Fact(Effect.DYNAMIC, f"{dotted.rpartition('.')[2]} with a computed name", line)
        elif dotted == "builtins.id":
            yield Fact(Effect.IDENTITY, "id()", line)
        if dotted in _PROCESS or (dotted.startswith("random.") and dotted.rpartition(".")[2].islower()):
            yield Fact(Effect.PROCESS, "random" if dotted.startswith("random.") else dotted, line)
        if dotted in _OPENS and node not in self.entered:
            yield Fact(Effect.OPENS, dotted, line)
        if dotted in _STARTS:
            yield Fact(Effect.STARTS, dotted, line)
        if dotted in _LOOPS or (isinstance(node.func, ast.Attribute) and node.func.attr in _LOOP_METHODS):
            yield Fact(Effect.LOOPS, dotted or ast.unparse(node.func)[-40:], line)
        if not isinstance(node.func, ast.Attribute):
            return
        base, method = node.func.value, node.func.attr
        ref = self._global(base)
        made = self.reader.made(ref.module, ref.top) if ref is not None else ""
        if method == "acquire":
            yield Fact(Effect.LOCKS, ast.unparse(base)[:40], line)
        if method not in MUTATORS or (ref is not None and made in ("contextvars.ContextVar", "logging.getLogger")):
            return
        if ref is not None:
            if self.function.node is not None and not made.startswith(("re.", "struct.")):
                yield Fact(Effect.WRITES_GLOBAL, str(ref), line)
            return
        parameter = self._is_parameter(base)
        positional = self.function.positional
        if parameter and self.function.owner is not None and positional and parameter == positional[0]:
            if self.function.name not in ("__init__", "__new__", "__post_init__"):
                yield Fact(Effect.SELF_STATE, ast.unparse(base)[:40], line)
        elif parameter:
            yield Fact(Effect.MUTATES_ARGUMENT, parameter, line)

    def _entered(self, node: ast.expr) -> Iterator[Fact]:
        ref = self._global(node)
        made = self.reader.made(ref.module, ref.top) if ref is not None else ""
        text = ast.unparse(node)[:60]
        name = text.partition("(")[0].rpartition(".")[2].lower()
        if made in _LOCKS or "lock" in name or "mutex" in name or self._dotted(getattr(node, "func", node)) in _LOCKS:
            yield Fact(Effect.LOCKS, text, node.lineno)
        else:
            yield Fact(Effect.ENTERS, text, node.lineno)

    def _identical(self, left: ast.expr, right: ast.expr, line: int) -> Iterator[Fact]:
        """``is`` between things that a copy would be different from; None, types and Enum members are the same anywhere."""
        for side in (left, right):
            if isinstance(side, ast.Constant) or (
                isinstance(side, ast.Call) and self._dotted(side.func) == "builtins.type"
            ):
                return
        for side in (left, right):
            dotted = self._dotted(side) if isinstance(side, ast.Name | ast.Attribute) else ""
            if dotted.startswith(("builtins.", "inspect.", "dataclasses.", "typing.")):
                return
            ref = self.resolver.expression(self.module, side) if dotted else None
            binding = self.resolver.binding(ref) if ref is not None and ref.name else None
            if binding is not None and (
                binding.kind in (Bind.CLASS, Bind.FUNCTION) or "." in (ref.name if ref else "")
            ):
                return
        yield Fact(Effect.IDENTITY, f"{ast.unparse(left)[:30]} is {ast.unparse(right)[:30]}", line)


def _own(function: Function) -> Iterator[ast.AST]:
    """The nodes of a body, without nested functions; class bodies belong to what is around them."""
    node = function.node
    todo: list[ast.AST]
    if node is None:
        todo = list(function.module.source.tree.body)
    elif isinstance(node, ast.Lambda):
        todo = [node.body]
    else:
        todo = list(node.body)
    while todo:
        item = todo.pop()
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            todo.extend(getattr(item, "decorator_list", []))
            todo.extend(default for default in (*item.args.defaults, *item.args.kw_defaults) if default is not None)
            continue
        yield item
        todo.extend(ast.iter_child_nodes(item))
