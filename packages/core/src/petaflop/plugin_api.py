"""Exactly what a plugin may import from petaflop; these names keep their meaning within one API version.

A backend that interprets reads Kernel, its blocks and `Expr`s; one that renders takes Target, `lower` and a
renderer, and reads Loops; one that tunes also writes Plans and MatrixInstructions. A format subclasses
QuantScheme and writes its dequantization with `petaflop.Tensor`. An exporter reads the Nodes that
`petaflop.recording` gives it. All else may change.
"""

from petaflop.codegen.lower import lower
from petaflop.codegen.planner import default_plan, naive_plan
from petaflop.config import Config, config
from petaflop.device.backend import Backend, Capabilities, DeviceInfo, Launch, Replay
from petaflop.device.cache import DiskCache
from petaflop.dtype import DTYPES, DType, promote, to_dtype
from petaflop.errors import (
    ArgumentError,
    CompileError,
    DeviceError,
    DeviceMemoryError,
    DTypeError,
    FileFormatError,
    PetaflopError,
    PluginError,
    ShapeError,
)
from petaflop.graph.node import Node, Reduce, Scan, Scatter
from petaflop.graph.ops import OP_SPEC_VERSION, SPEC, Native, Op, OpSpec
from petaflop.graph.symbolic import (
    FALSE,
    TRUE,
    Dim,
    Expr,
    Leaf,
    constant,
    evaluate,
    linear_terms,
    substitute,
    topological,
)
from petaflop.graph.view import source_index
from petaflop.ir import loops, plan
from petaflop.ir.kernel import (
    Argument,
    Block,
    Kernel,
    Reduction,
    State,
    Store,
    Temporary,
    axes_of,
    axis,
    axis_size,
    common_axes,
    load,
    loads_of,
    operations,
    reduction,
    value,
)
from petaflop.ir.loops import Loops, Signature
from petaflop.ir.plan import Plan
from petaflop.ir.target import MatrixInstruction, Target, TileRegisters
from petaflop.plugins.command import Command
from petaflop.plugins.hookspecs import API_VERSION, hookimpl
from petaflop.plugins.importer import ImportedModel, Importer, TensorSpec, check_inputs
from petaflop.plugins.scheme import Encoder, Packed, Plane, QuantScheme, SchemeFile
from petaflop.profile import CompileRecord
from petaflop.render.c import render as render_c
from petaflop.render.c_dialect import C11, CDialect, CNumber
from petaflop.render.llvm import render as render_llvm

__all__ = [
    "API_VERSION",
    "C11",
    "DTYPES",
    "FALSE",
    "OP_SPEC_VERSION",
    "SPEC",
    "TRUE",
    "Argument",
    "ArgumentError",
    "Backend",
    "Block",
    "CDialect",
    "CNumber",
    "Capabilities",
    "Command",
    "CompileError",
    "CompileRecord",
    "Config",
    "DType",
    "DTypeError",
    "DeviceError",
    "DeviceInfo",
    "DeviceMemoryError",
    "Dim",
    "DiskCache",
    "Encoder",
    "Expr",
    "FileFormatError",
    "ImportedModel",
    "Importer",
    "Kernel",
    "Launch",
    "Leaf",
    "Loops",
    "MatrixInstruction",
    "Native",
    "Node",
    "Op",
    "OpSpec",
    "Packed",
    "PetaflopError",
    "Plan",
    "Plane",
    "PluginError",
    "QuantScheme",
    "Reduce",
    "Reduction",
    "Replay",
    "Scan",
    "Scatter",
    "SchemeFile",
    "ShapeError",
    "Signature",
    "State",
    "Store",
    "Target",
    "Temporary",
    "TensorSpec",
    "TileRegisters",
    "axes_of",
    "axis",
    "axis_size",
    "check_inputs",
    "common_axes",
    "config",
    "constant",
    "default_plan",
    "evaluate",
    "hookimpl",
    "linear_terms",
    "load",
    "loads_of",
    "loops",
    "lower",
    "naive_plan",
    "operations",
    "plan",
    "promote",
    "reduction",
    "render_c",
    "render_llvm",
    "source_index",
    "substitute",
    "to_dtype",
    "topological",
    "value",
]
