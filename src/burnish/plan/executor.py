"""What runs a plan, and the choice between the two that can."""

from typing import Literal, Protocol

from burnish.core.errors import BadSettings
from burnish.kernels.native import native
from burnish.plan.ops import Arena, Floats, Plan, StepInputs

Backend = Literal["auto", "native", "reference"]


class Executor(Protocol):
    """Computes a batch. Owns the keys and values between batches."""

    def __call__(self, inputs: StepInputs) -> Floats:
        """Logits of the last rows (last rows, V), float32; the array is the caller's."""
        ...

    def profile(self, on: bool) -> None:
        """Count the seconds of every operation from zero, or no more."""
        ...

    def seconds(self) -> list[float]:
        """Of every operation in their order, since ``profile``."""
        ...


def make_executor(plan: Plan, arena: Arena, backend: Backend = "auto") -> Executor:
    """The native executor where it is built, else the reference interpreter.

    Raises ``BadSettings`` when native kernels are asked for and not there.
    """
    module = None if backend == "reference" else native()
    if module is not None:
        from burnish.plan.native import NativeExecutor

        return NativeExecutor(plan, arena, module)
    if backend == "native":
        raise BadSettings("this installation has no native kernels", remedy="Install again with a C++ compiler")
    import torch

    from burnish.plan.interpreter import Interpreter

    torch.set_num_threads(arena.threads)
    return Interpreter(plan, arena.num_blocks, arena.block_size, keys=arena.keys)
