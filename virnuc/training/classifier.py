"""The classifier that both sides of the experiment share.

Architecture and attribute names are those of VirNucPro (Li et al.), whose version 2.0.0 checkpoints can be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from virnuc.errors import DimensionError

AT_ONCE = 4096  # vectors classified in one batch


class Classifier(nn.Module):
    """Linear, batch norm, ReLU, dropout, linear: maps a frame's vector to two logits, non-viral and viral."""

    def __init__(self, input_dim: int, hidden_dim: int = 512, num_class: int = 2, dropout: float = 0.5) -> None:
        """Make the layers, with Xavier-uniform weights drawn by torch's global generator."""
        super().__init__()
        self.input_dim = input_dim
        self.hidden_layer = nn.Linear(input_dim, hidden_dim)
        self.bn1 = nn.BatchNorm1d(hidden_dim)
        self.output_layer = nn.Linear(hidden_dim, num_class)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.hidden_layer.weight)
        nn.init.xavier_uniform_(self.output_layer.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits `[n, num_class]` of vectors `[n, input_dim]`, both float32.

        Raises:
            DimensionError: the vectors have another width.
        """
        if features.shape[-1] != self.input_dim:
            raise DimensionError(f"the classifier takes {self.input_dim} values a frame, not {features.shape[-1]}")
        hidden = torch.relu(self.bn1(self.hidden_layer(features)))
        return self.output_layer(self.dropout(hidden))


@torch.inference_mode()
def classify(
    classifier: Callable[[Tensor], Tensor], batches: Iterable[Tensor], rows: int, device: str | torch.device = "cpu"
) -> Tensor:
    """Return the logits of `rows` vectors, which come in `batches` `[m, d]`, as `[rows, ...]` float64 on the CPU.

    Memory for all of them is allocated first: lists of small results between freed hidden layers fragmented the heap by
    350 MB at 200,000 frames in some runs.
    """
    logits, done = torch.empty(0, 2, dtype=torch.float64), 0
    for vectors in batches:
        found = classifier(vectors.to(device))
        if not done:
            logits = torch.empty(rows, *found.shape[1:], dtype=torch.float64)
        logits[done : done + len(found)] = found.cpu()
        done += len(found)
    return logits
