"""Shared by the pretraining of all shipped encoders: learning rate, optimizer, and a state on disk."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from tqdm import trange

from virnuc.storage.files import atomic_path

STATE_SECONDS = 120  # between two states on disk


class Recipe(Protocol):
    """Length and learning rate of a training."""

    steps: int
    lr: float
    warmup: int  # steps
    decay: float  # share of the steps in which the learning rate falls to 0
    weight_decay: float  # of matrices


def learning_rate(recipe: Recipe, step: int) -> float:
    """Return the learning rate of `step`: linear warm-up, constant, linear decay."""
    return recipe.lr * min(1.0, (step + 1) / recipe.warmup, (recipe.steps - step) / (recipe.decay * recipe.steps))


class Training(ABC):
    """The training of a network by a recipe; a run that is stopped continues from the state that it last wrote."""

    def __init__(self, net: nn.Module, recipe: Any, state: Path, watch_steps: int) -> None:
        """Begin, or continue from the file `state`; `watch` is called every `watch_steps` steps."""
        self.net, self.recipe, self.state, self.watch_steps = net, recipe, state, watch_steps
        groups = [
            {"params": [p for p in net.parameters() if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in net.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)
        self.step, self.seconds, self.history = 0, 0.0, list[dict[str, float]]()
        if state.exists():
            known = torch.load(state, weights_only=True)
            self.net.load_state_dict(known["net"])
            self.optimizer.load_state_dict(known["optimizer"])
            self.step, self.seconds, self.history = known["step"], known["seconds"], known["history"]

    @abstractmethod
    def learn(self) -> None:
        """Compute the gradients of one step."""

    @abstractmethod
    def watch(self) -> dict[str, float]:
        """Return metrics on held-out crops."""

    def save(self) -> None:
        """Write the state, whole or not at all."""
        state = {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}
        with atomic_path(self.state) as temporary:
            torch.save(state | {"step": self.step, "seconds": self.seconds, "history": self.history}, temporary)

    def advance(self) -> None:
        """Make one step."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, self.step)
        self.optimizer.zero_grad()
        self.learn()
        self.optimizer.step()
        self.step += 1

    def finish(self) -> None:
        """Train to the last step; save the state every `STATE_SECONDS`."""
        began = saved = time.monotonic()
        steps = trange(self.step, self.recipe.steps, initial=self.step, total=self.recipe.steps, unit="step")
        for _ in steps:
            self.advance()
            last = self.step == self.recipe.steps
            if self.step % self.watch_steps == 0 or last:
                self.history.append({"step": self.step, **self.watch()})
                steps.write(json.dumps(self.history[-1]))
            now = time.monotonic()
            self.seconds, began = self.seconds + now - began, now
            if now - saved > STATE_SECONDS or last:
                self.save()
                saved = now
