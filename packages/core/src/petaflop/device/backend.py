"""The backend contract, at three depths: interpret a Kernel, render its loops, or also tune the plan.

A backend is an object; its last lines name its parts. Opening one must not compile anything; a backend whose
device is missing raises DeviceError from its factory, in words that say what to install.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from petaflop.errors import DeviceError

if TYPE_CHECKING:
    from petaflop.ir.kernel import Kernel
    from petaflop.ir.loops import Loops, Signature
    from petaflop.ir.plan import Plan
    from petaflop.ir.target import Target

__all__ = ["Backend", "Capabilities", "DeviceInfo", "Launch", "Replay"]


class Launch(Protocol):
    """A compiled kernel: buffers in the order of `kernel.arguments`, then the values of `kernel.variables`.

    A buffer is the (handle, byte offset) that the backend's `allocate` and the memory plan gave.
    """

    def __call__(self, buffers: Sequence[tuple[Any, int]], variables: Sequence[int]) -> None: ...


class Replay(Protocol):
    """A captured sequence of launches, run on these buffer locations with these values of variables."""

    def __call__(self, buffers: Sequence[tuple[Any, int]], variables: Sequence[int]) -> None: ...


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend declares, and is then held to by the conformance suite.

    `dtypes` maps a dtype's name to "native" or "emulated"; what is absent is not supported.
    """

    dtypes: Mapping[str, str] = field(default_factory=dict)
    unified_memory: bool = False  # host_view works, so copies in and out can be avoided
    local_memory: bool = False
    images: bool = False
    replay: bool = False  # `capture` gives one native call for many launches
    denormals: bool = True
    # false: sums of products of narrow floats (bfloat16 and smaller) may take denormals for zero
    denormal_products: bool = True
    correctly_rounded_division: bool = True
    concurrent_streams: bool = False


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """One line of `petaflop devices`."""

    name: str
    description: str
    status: str = "ok"
    details: Mapping[str, str] = field(default_factory=dict)


class Backend:
    """What a backend package subclasses. Override `interpret`, or give `target`, `render`, `compile` and
    `load`.

    name          what the user types: "cpu", "mychip"
    target        the device as data; None means that kernels are interpreted
    version       part of every cache key, with the target: change it when generated code changes
    """

    name: str = ""
    version: str = "0"
    capabilities: Capabilities = Capabilities()
    target: Target | None = None

    # ---- memory ----

    def allocate(self, size: int) -> Any:
        """A handle for `size` bytes, aligned to 64; raises DeviceMemoryError."""
        raise NotImplementedError(f"{self.name}: allocate")

    def free(self, handle: Any) -> None:
        """Give back what `allocate` gave."""

    def copy_in(self, handle: Any, offset: int, data: memoryview) -> None:
        """Host bytes to the device."""
        raise NotImplementedError(f"{self.name}: copy_in")

    def copy_out(self, data: memoryview, handle: Any, offset: int) -> None:
        """Device bytes to the host, finished on return."""
        raise NotImplementedError(f"{self.name}: copy_out")

    def host_view(self, handle: Any, offset: int, size: int) -> memoryview | None:
        """The memory itself where host and device share it; None elsewhere."""
        return None

    def borrow(self, data: memoryview) -> Any | None:
        """A handle over host memory without a copy, where that is possible; the caller keeps `data` alive."""
        return None

    def synchronize(self) -> None:
        """Return once every launch has finished."""

    # ---- depth 1: interpret ----

    def interpret(self, kernel: Kernel) -> Launch:
        """Run a Kernel any way you like."""
        raise DeviceError(
            f"{self.name}: expected `interpret` or a `target` with `render`, `compile` and `load`"
        )

    # ---- depth 2: render ----

    def render(self, loops: Loops) -> str:
        """Loops as source text; no compiler or driver is touched."""
        raise NotImplementedError(f"{self.name}: render")

    def compile(self, source: str) -> bytes:
        """Source as a binary that the disk cache keeps; raises CompileError."""
        raise NotImplementedError(f"{self.name}: compile")

    def load(self, binary: bytes, signature: Signature) -> Launch:
        """A binary, compiled now or kept on disk, as something to launch; the signature says how."""
        raise NotImplementedError(f"{self.name}: load")

    def assembly(self, binary: bytes) -> str:
        """Readable machine code, for PETAFLOP_DEBUG=5 and `petaflop explain`."""
        return ""

    # ---- depth 3: tune ----

    def plan(self, kernel: Kernel, default: Callable[[Kernel, Any], Plan]) -> Plan:
        """The plan of a kernel; `default(kernel, target)` is the planner of core."""
        return default(kernel, self.target)

    def capture(self, launches: Sequence[tuple[Launch, Sequence[int], Sequence[int]]]) -> Replay | None:
        """Many launches as one call; None where that is not supported.

        The buffers and variables of each launch are positions in the two lists that every replay passes.
        """
        return None
