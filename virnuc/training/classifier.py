"""The classifier that both sides of the experiment share.

Source of the architecture and of the attribute names: VirNucPro (Li et al.), whose version 2.0.0 checkpoints can be
read here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from virnuc.errors import DimensionError


class Classifier(nn.Module):
    """Linear, batch normalisation, ReLU, dropout, linear: a frame's vector to two logits, non-viral and viral."""

    def __init__(self, input_dim: int, hidden_dim: int = 512, num_class: int = 2, dropout: float = 0.5) -> None:
        """Draw Xavier-uniform weights from torch's global generator."""
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
