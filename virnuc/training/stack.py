"""Several classifiers that differ only in their seed, trained in one pass over the same rows.

Their weights are stacked, so that one matrix product computes the hidden layers of all and each operation is launched
once. The parameters of each classifier are views of the stack, updated by its own optimizer, and its state dict is that
of a classifier trained alone. Each draws dropout from a generator of its own. On the CPUs tried, a classifier gets the
same bits as alone; for batches with fewer than 400 products (rows x hidden units x 2), for which torch has another
kernel, it agrees within rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from virnuc.errors import DimensionError
from virnuc.training.classifier import Classifier


class Stack:
    """Classifiers of the same sizes whose parameters and statistics share storage, each with its optimizer."""

    def __init__(self, models: Sequence[Classifier], optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Stack the tensors of all `models` and make those of each a view of its part."""
        self.models, self.optimizers = list(models), list(optimizers)
        self.device = next(models[0].parameters()).device
        self.generators = [torch.Generator(self.device) for _ in models]  # of dropout
        self._dropout = models[0].dropout.p
        self._whole: dict[str, Tensor] = {}  # [replicates, ...], by name in the state dict
        self._views: list[list[Tensor]] = []  # for each parameter, that of each classifier
        for name, first in models[0].state_dict(keep_vars=True).items():
            views = [model.state_dict(keep_vars=True)[name] for model in models]
            whole = torch.stack([view.detach() for view in views])
            for view, own in zip(views, whole.unbind(), strict=True):
                view.data = own
            if isinstance(first, nn.Parameter):
                whole.requires_grad_()
                self._views.append(views)
            self._whole[name] = whole

    def __len__(self) -> int:
        return len(self.models)

    def release(self) -> None:
        """Give each classifier its own tensors again."""
        for model in self.models:
            for tensor in model.state_dict(keep_vars=True).values():
                tensor.data = tensor.data.clone()

    def seed_dropout(self, seeds: Sequence[int]) -> None:
        """Set the seed of each classifier's dropout."""
        for generator, seed in zip(self.generators, seeds, strict=True):
            generator.manual_seed(seed)

    def step(self, features: Tensor, labels: Tensor) -> Tensor:
        """Make one step of gradient descent on vectors `[n, d]` float32 and labels `[n]` int64.

        Returns:
            Each classifier's mean loss over the batch, `[replicates]` float32 on the device, which is not waited for.

        Raises:
            DimensionError: the vectors have another width.
        """
        self._whole["bn1.num_batches_tracked"].add_(1)
        logits = self._logits(features, training=True)
        losses = torch.stack([functional.cross_entropy(own, labels) for own in logits.unbind()])
        gradients = torch.autograd.grad(losses.sum(), [w for w in self._whole.values() if w.requires_grad])
        for views, gradient in zip(self._views, gradients, strict=True):
            # A fused optimizer ignores the strides of a gradient and reads it in the order of the parameter.
            for view, own in zip(views, gradient.contiguous().unbind(), strict=True):
                view.grad = own
        for optimizer in self.optimizers:
            optimizer.step()
        return losses.detach()

    @torch.inference_mode()
    def logits(self, features: Tensor) -> Tensor:
        """Return the logits `[replicates, n, 2]` of vectors `[n, d]`, both float32, without dropout."""
        return self._logits(features, training=False)

    def _logits(self, features: Tensor, training: bool) -> Tensor:
        whole, norm = self._whole, self.models[0].bn1
        if features.shape[-1] != self.models[0].input_dim:
            wanted, given = self.models[0].input_dim, features.shape[-1]
            raise DimensionError(f"the classifiers take {wanted} values a frame, not {given}")
        flat = {name: tensor.flatten(0, 1) for name, tensor in whole.items() if tensor.dim() > 1}
        hidden = functional.linear(features, flat["hidden_layer.weight"], flat["hidden_layer.bias"])
        hidden = functional.batch_norm(  # each column is a unit of one classifier
            hidden,
            flat["bn1.running_mean"],
            flat["bn1.running_var"],
            flat["bn1.weight"],
            flat["bn1.bias"],
            training,
            norm.momentum or 0.0,
            norm.eps,
        )
        hidden = torch.relu(hidden).unflatten(1, (len(self), -1)).transpose(0, 1)  # [replicates, n, hidden]
        if training and self._dropout:
            hidden = hidden * self._noise(len(features), hidden.shape[2])
        return torch.baddbmm(
            whole["output_layer.bias"].unsqueeze(1), hidden, whole["output_layer.weight"].transpose(1, 2)
        )

    def _noise(self, rows: int, width: int) -> Tensor:
        """Return dropout's factors, `[replicates, rows, width]` float32: 0, or 1 / (1 - dropout).

        Every 64 random bits decide four of them, which is six times as fast on a CPU as `bernoulli_` and rounds the
        probability to multiples of 1 / 65,536.
        """
        bits = torch.empty(len(self), -(-rows * width // 4), dtype=torch.int64, device=self.device)
        for own, generator in zip(bits.unbind(), self.generators, strict=True):
            own.random_(-(2**63), None, generator=generator)
        drawn = bits.view(torch.int16)[:, : rows * width].view(len(self), rows, width)
        kept = drawn >= round(self._dropout * 2**16) - 2**15
        return kept.float().mul_(1 / (1 - self._dropout))
