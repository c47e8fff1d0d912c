"""Precision as one explicit choice: fp32 master weights, a forward copy in the chosen type, loss scaling for fp16.

No autocast: what type a number has is what its tensor says. bf16 and fp16 keep a second copy of the weights for the
forward and backward pass; gradients are added up in fp32 on the master weights, which alone are updated. Parameters
marked `no_decay` (A_log, dt_bias) and all buffers stay fp32 in the copy: their type does not reach the activations.
Source of dynamic loss scaling: Micikevicius et al. 2018 (1710.03740), section 3.2.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from fairtrial.core.errors import UserError
from fairtrial.nn.checkpoint import first_broken

Kind = Literal["fp32", "bf16", "fp16"]
DTYPES: Mapping[Kind, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class LossScale:
    """A power of two: halved where a gradient overflows (the step is skipped), doubled after `patience` good steps."""

    def __init__(self, start: float = 65536.0, patience: int = 200) -> None:
        self.value, self.patience, self.good, self.skipped = start, patience, 0, 0

    def passed(self) -> None:
        """A step was made."""
        self.good += 1
        if self.good == self.patience:
            self.value, self.good = min(self.value * 2, 2.0**24), 0

    def overflowed(self, step: int, tensor: str) -> None:
        """A step is skipped. Raises UserError where even a scale of 1 overflows."""
        if self.value <= 1:
            raise UserError(
                f"step {step}: the fp16 gradient of {tensor} overflows even without a loss scale; training stopped "
                "(use bf16 or fp32, or lower the learning rate)"
            )
        self.value, self.good, self.skipped = self.value / 2, 0, self.skipped + 1

    def state(self) -> dict[str, float]:
        """For a checkpoint."""
        return {"value": self.value, "good": self.good, "skipped": self.skipped}

    def restore(self, state: Mapping[str, float]) -> None:
        """The inverse of `state`."""
        self.value, self.good, self.skipped = float(state["value"]), int(state["good"]), int(state["skipped"])


class Precision:
    """A model in its two copies. `forward` computes, `master` is updated; in fp32 both are the same object."""

    def __init__(self, master: nn.Module, kind: Kind, *, copied: bool = True) -> None:
        """`master` must be fp32. Raises UserError naming a parameter that is not.

        `copied` = False: what is frozen has the type of the pass already, and there is one copy, whatever the kind.
        """
        for name, parameter in master.named_parameters():
            if parameter.dtype != torch.float32 and (copied or parameter.requires_grad):
                raise UserError(f"master weights are fp32; {name} is {parameter.dtype}")
        self.master, self.kind = master, kind
        self.scale = LossScale() if kind == "fp16" else LossScale(1.0, patience=0)
        self._single = kind == "fp32" or not copied
        self.forward = master if self._single else _copy(master, DTYPES[kind])
        self._pairs = list(zip(master.named_parameters(), self.forward.parameters(), strict=True))

    def freeze(self, trained: set[str]) -> None:
        """Let only the parameters named in `trained` have gradients, in both copies."""
        for (name, parameter), computed in self._pairs:
            parameter.requires_grad_(name in trained)
            computed.requires_grad_(name in trained)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of an fp32 `loss` to the master weights' `grad`, in fp32 and without the scale."""
        if self._single:
            self._backward_single(loss)
            return
        (loss * self.scale.value if self.kind == "fp16" else loss).backward()
        for (_, parameter), computed in self._pairs:
            if computed.grad is None:
                continue
            grad = computed.grad.float().div_(self.scale.value)
            parameter.grad = grad if parameter.grad is None else parameter.grad.add_(grad)
            computed.grad = None

    def _backward_single(self, loss: Tensor) -> None:
        if self.kind != "fp16":
            loss.backward()
            return
        trained = [parameter for parameter in self.master.parameters() if parameter.requires_grad]
        before = [parameter.grad for parameter in trained]
        for parameter in trained:
            parameter.grad = None
        (loss * self.scale.value).backward()
        for parameter, old in zip(trained, before, strict=True):
            if parameter.grad is not None:
                parameter.grad.div_(self.scale.value)
            if old is not None:
                parameter.grad = old if parameter.grad is None else old.add_(parameter.grad)

    def broken_gradient(self) -> str | None:
        """The name of the first parameter whose gradient is not finite."""
        return first_broken({name: p.grad for (name, p), _ in self._pairs if p.grad is not None})

    @torch.no_grad()
    def updated(self) -> None:
        """After the master weights changed: bring the forward copy up to date."""
        if self._single:
            return
        for (_, parameter), computed in self._pairs:
            computed.copy_(parameter)
        for buffer, computed in zip(self.master.buffers(), self.forward.buffers(), strict=True):
            computed.copy_(buffer)


def _copy(master: nn.Module, dtype: torch.dtype) -> nn.Module:
    forward = copy.deepcopy(master)
    with torch.no_grad():
        for parameter, computed in zip(master.parameters(), forward.parameters(), strict=True):
            if not getattr(parameter, "no_decay", False):
                computed.data = computed.data.to(dtype)
    return forward


def usable_device(name: str) -> torch.device:
    """The device of this name. Raises UserError where this machine cannot use it."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f'"device" is "{name}", which this machine cannot use ({reason}); "cpu" always works') from None
    return device
