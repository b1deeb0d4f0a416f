"""LLVM through llvmlite: IR text to an object file, and an object file into this process.

`Compiler` is a pure function of (target, text) and safe to call from many threads, which then compile side
by side; `Library` is a loaded object that goes when its last reference goes. No C compiler is involved.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import llvmlite.binding as llvm

from petaflop.plugin_api import CompileError, Target

__all__ = ["Compiler", "Library", "compiler_version"]

llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
llvm.initialize_native_asmparser()

# IR comes explicitly vectorised and unrolled, so there is little left to do: no vectoriser, no unroller.
_PASSES = (
    "always_inliner",
    "sroa",
    "instruction_combine",
    "simplify_cfg",
    "dead_code_elimination",
    "global_dead_code_eliminate",
)


def compiler_version() -> str:
    """The version of LLVM, for cache keys."""
    return "LLVM " + ".".join(map(str, llvm.llvm_version_info))


def _unlocked(name: str) -> Callable[..., Any]:
    """An entry of llvmlite's library without llvmlite's global lock.

    LLVM itself is thread-safe as long as contexts and target machines are not shared, and the three calls
    that take all of the time are given those of their own thread. A llvmlite without such a wrapper is used
    as it is.
    """
    wrapper = getattr(llvm.ffi.lib, name)
    function: Callable[..., Any] = getattr(wrapper, "_cfn", wrapper)
    return function


class Compiler:
    """Compiles IR text for one target."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._local = threading.local()

    def compile(self, source: str) -> bytes:
        """IR text as an object file."""
        return self._emit(source, use_object=True)

    def assembly(self, source: str) -> str:
        """IR text as the target's assembly."""
        return self._emit(source, use_object=False).decode()

    def _machine(self) -> tuple[Any, Any, str]:
        """This thread's target machine, pass builder and data layout."""
        if not hasattr(self._local, "machine"):
            target = self.target
            machine = llvm.Target.from_triple(target.triple).create_target_machine(
                cpu=target.cpu, features=target.features, opt=3, reloc="pic", codemodel="small"
            )
            options = llvm.create_pipeline_tuning_options(speed_level=1)
            builder = llvm.create_pass_builder(machine, options)
            self._local.machine = (machine, builder, options, str(machine.target_data))
        machine, builder, _, layout = self._local.machine
        return machine, builder, layout

    def _emit(self, source: str, use_object: bool) -> bytes:
        machine, builder, layout = self._machine()
        context = llvm.create_context()
        module = _parse(source, context)
        module.triple = self.target.triple
        module.data_layout = layout
        passes = llvm.create_new_module_pass_manager()
        for name in _PASSES:
            getattr(passes, f"add_{name}_pass")()
        _unlocked("LLVMPY_RunNewModulePassManager")(passes, module, builder)
        with llvm.ffi.OutputString() as message:
            memory = _unlocked("LLVMPY_TargetMachineEmitToMemory")(machine, module, int(use_object), message)
            if not memory:
                raise CompileError(f"compile: LLVM for {self.target.name} refused it: {message}\n{source}")
        try:
            start = llvm.ffi.lib.LLVMPY_GetBufferStart(memory)
            return ctypes.string_at(start, llvm.ffi.lib.LLVMPY_GetBufferSize(memory))
        finally:
            llvm.ffi.lib.LLVMPY_DisposeMemoryBuffer(memory)


def _parse(source: str, context: Any) -> llvm.ModuleRef:
    with llvm.ffi.OutputString() as message:
        pointer = _unlocked("LLVMPY_ParseAssembly")(context, source.encode(), message)
        if not pointer or message:
            raise CompileError(f"compile: expected valid LLVM IR, got: {message}\n{_numbered(source)}")
        return llvm.ModuleRef(pointer, context)


def _numbered(source: str) -> str:
    return "\n".join(f"{number:5} {line}" for number, line in enumerate(source.splitlines(), 1))


class _Engine:
    """The one JIT of this process; every library that it loads has a namespace of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._serial = itertools.count()
        self._jit: Any = None

    def link(self, binary: bytes, names: Iterable[str], imports: Mapping[str, int]) -> Any:
        builder = llvm.JITLibraryBuilder().add_object_img(binary).add_current_process()
        for name, address in imports.items():
            builder.import_symbol(name, address)
        for name in names:
            builder.export_symbol(name)
        with self._lock:
            if self._jit is None:
                self._jit = llvm.create_lljit_compiler(use_jit_link=True, suppress_errors=True)
            try:
                return builder.link(self._jit, f"petaflop_{next(self._serial)}")
            except RuntimeError as error:
                raise CompileError(f"load: expected an object file for this machine, got: {error}") from error


_engine = _Engine()


class Library:
    """An object file in executable memory; `library[name]` is the address of a symbol.

    What the object calls and does not define comes from `imports` (name to address) or from this process.
    """

    def __init__(self, binary: bytes, names: Iterable[str], imports: Mapping[str, int] | None = None) -> None:
        self._tracker = _engine.link(binary, names, imports or {})

    def __getitem__(self, name: str) -> int:
        return int(self._tracker[name])
