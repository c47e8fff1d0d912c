"""One optimiser step from a gradient, with fp16's scale, and one line on whatever is not finite on the way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fairtrial.core.errors import UserError
from fairtrial.nn import checkpoint
from fairtrial.nn.optim import clip, load_state_tensors, optimisers, set_rate, state_tensors
from fairtrial.nn.schedule import OptimConfig
from fairtrial.training.precision import Precision


class Updates:
    """The optimisers of what is trained of a model; a trainer is left with its data, its loss and its evaluation."""

    def __init__(self, precision: Precision, config: OptimConfig) -> None:
        """Raises UserError where nothing is trained."""
        trained = [(name, p) for name, p in precision.master.named_parameters() if p.requires_grad]
        self.names: dict[Tensor, str] = {parameter: name for name, parameter in trained}
        self.optimisers = optimisers(precision.master, config)
        self._precision, self._largest = precision, config.clip

    def clear(self) -> None:
        """Drop the gradients of the last step."""
        for parameter in self.names:
            parameter.grad = None

    def clipped(self) -> float:
        """The norm of the gradient, which is clipped."""
        return clip(self.names, self._largest)

    def step(self, number: int, norm: float, rate: float) -> bool:
        """One optimiser step; the forward copy of the weights is the caller's affair.

        Args:
            number: Of the step, for messages.
            norm: Of the gradient, as `clipped` gave it.
            rate: Share of each group's peak rate.

        Returns:
            False where the step was skipped (fp16 overflow).

        Raises:
            UserError: The gradient is not finite, and no smaller scale of the loss can mend that.
        """
        precision = self._precision
        if not math.isfinite(norm):
            name = precision.broken_gradient()
            if precision.kind != "fp16":
                raise self.stopped(number, f"the gradient of {name or 'the whole model'} is not finite")
            precision.scale.overflowed(number, name or "the whole")
            return False
        set_rate(self.optimisers, rate)
        for optimiser in self.optimisers:
            optimiser.step()
        if precision.kind == "fp16":
            precision.scale.passed()
        return True

    def refuse_weights(self, number: int) -> None:
        """Raises UserError that names a trained weight that is not finite."""
        checkpoint.refuse_broken({name: parameter for parameter, name in self.names.items()}, number, "weight")

    def refuse_loss(self, number: int, loss: float) -> None:
        """Raises UserError where the loss is not finite; the weight behind it says more, where there is one."""
        if math.isfinite(loss):
            return
        self.refuse_weights(number)
        raise self.stopped(number, f"the loss is {loss} although every trained weight is finite")

    def stopped(self, number: int, reason: str) -> UserError:
        """The error of a run that cannot go on."""
        other = "" if self._precision.kind == "fp32" else ", or use precision = fp32"
        return UserError(
            f"step {number}: {reason}; training stopped and the last good checkpoint stays (lower optim.lr{other})"
        )

    def row(self, norm: float, made: bool) -> dict[str, Any]:
        """What metrics.jsonl says of a step; `made` as `step` gave it."""
        scale = self._precision.scale
        fp16 = {"loss_scale": scale.value, "skipped": scale.skipped} if self._precision.kind == "fp16" else {}
        rate = self.optimisers[-1].param_groups[0]["lr"] if made else 0.0
        return {"grad_norm": norm if math.isfinite(norm) else None, "lr": rate} | fp16

    def state(self) -> dict[str, Tensor]:
        """The optimisers' state, for a checkpoint."""
        return state_tensors(self.optimisers, self.names)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        load_state_tensors(self.optimisers, self.names, tensors)
