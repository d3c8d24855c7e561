"""What a chain of stages costs, as plain numbers: the one description that planners, simulator and
executor share.

A chain is a forward pass cut into stages in sequence. Stage k turns the state x_k into x_{k+1}; after
the last stage, the loss turns x_L into a number. The backward pass carries d_k, the cotangent of x_k.
A taped run of stage k also gives its tape t_k, which is what its backward needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Update = Literal["after backward", "during backward"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What one stage costs. Bytes are those of arrays of its own; what is shared is said by a flag.

    Attributes:
        name: what the person calls it.
        output: bytes of x_{k+1}; 0 where it is a view of x_k.
        cotangent: bytes of d_{k+1}, which the loss or the next stage's backward gives.
        tape: bytes of t_k beyond x_k, x_{k+1} and the parameters.
        view: x_{k+1} lives in the memory of x_k, which stays as long as either is held.
        holds_input: the tape keeps the memory of x_k alive by itself.
        holds_output: the tape keeps the memory of x_{k+1} alive by itself, and x_{k+1} can be taken
            from there.
        needs_input: the backward needs x_k beside the tape, which does not keep it.
        gradient: bytes of the parameter gradients that first appear in its backward.
        released: bytes of the parameter gradients that are complete after its backward. They differ
            from `gradient` where several stages share a parameter.
        forward_extra, tape_extra, backward_extra, update_extra: bytes that a plain run, a taped run, a
            backward, and the update of its parameters hold at their worst beyond what they were given
            and what they give. That of a backward may be negative: the tape is freed along the way.
        backward_saving: how much less the backward holds at its worst where nothing but the tape still
            holds x_k, so that this is freed along the way as well.
        forward_seconds, tape_seconds, backward_seconds, update_seconds: how long these take.
    """

    name: str = ""
    output: int
    cotangent: int
    tape: int = 0
    view: bool = False
    holds_input: bool = False
    holds_output: bool = True
    needs_input: bool = False
    gradient: int = 0
    released: int = 0
    forward_extra: int = 0
    tape_extra: int = 0
    backward_extra: int = 0
    backward_saving: int = 0
    update_extra: int = 0
    forward_seconds: float = 1.0
    tape_seconds: float = 1.0
    backward_seconds: float = 1.0
    update_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Stages in sequence, the loss behind them, and what is held all the while.

    Attributes:
        stages: stage 0 to L−1.
        loss_extra: bytes that the loss holds at its worst beyond x_L and d_L.
        loss_seconds: how long the loss takes, forward and backward together.
        input: bytes of x_0, where it is a state that a schedule may drop. For a training step it is
            part of the batch: 0 here, and counted in `fixed`.
        input_cotangent: bytes of d_0; 0 where nobody asks for the gradient of the input.
        fixed: bytes held from beginning to end, by kind: parameters, optimiser state, batch.
        update: when parameters are updated: with all gradients there after the backward pass, or each
            stage's right after its backward, which then frees them.
        write, read: seconds a byte to and from disk.
    """

    stages: tuple[Stage, ...]
    loss_extra: int = 0
    loss_seconds: float = 0.0
    input: int = 0
    input_cotangent: int = 0
    fixed: Mapping[str, int] = field(default_factory=dict)
    update: Update = "after backward"
    write: float = 0.0
    read: float = 0.0

    def __len__(self) -> int:
        return len(self.stages)

    def state(self, i: int) -> int:
        """Return the bytes of x_i that are its own."""
        return self.stages[i - 1].output if i else self.input

    def size(self, i: int) -> int:
        """Return the bytes of the buffer that x_i lives in, be it the one of a state before it."""
        while i and self.stages[i - 1].view:
            i -= 1
        return self.state(i)

    def cotangent(self, i: int) -> int:
        """Return the bytes of d_i."""
        return self.stages[i - 1].cotangent if i else self.input_cotangent


def homogeneous(
    length: int, stage: Stage | None = None, *, write: float = 0.0, read: float = 0.0
) -> Chain:
    """Return a chain of equal stages, x_0 like every other state: what the theory is written for.

    Args:
        length: L, the number of stages.
        stage: what each of them costs; by default a second for each run, a byte for each state
            and cotangent, and nothing for a tape beyond them.
        write: seconds a byte to disk.
        read: seconds a byte from disk.

    Example:
        >>> chain = homogeneous(100, Stage(output=4096, cotangent=4096, tape=8192))
        >>> len(chain), chain.state(0), chain.state(100)
        (100, 4096, 4096)
    """
    stage = Stage(output=1, cotangent=1) if stage is None else stage
    return Chain(
        stages=(stage,) * length,
        input=stage.output,
        input_cotangent=stage.cotangent,
        write=write,
        read=read,
    )
