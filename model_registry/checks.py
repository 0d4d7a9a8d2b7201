"""The checks of `doctor`: Python, torch and its device, attention, encoders and their weights, store and champion."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path

import torch

from model_registry.health import FAIL, PASS, WARN, Check, check_champion
from virnuc.encoders import load_encoder
from virnuc.encoders.precision import choose_precision
from virnuc.encoders.timing import seconds
from virnuc.encoders.verification import verify_source
from virnuc.errors import VirnucError, cause_outside
from virnuc.runtime import choose_device
from virnuc.settings import DoctorSettings
from virnuc.storage.usage import usage
from virnuc.tracking import abandoned_runs, open_store, store_uri

MIN_TORCH = (2, 5)  # scaled_dot_product_attention with the backends used here


def examine(settings: DoctorSettings) -> list[Check]:
    """Make all checks, whether or not others fail; an error in a check itself counts as a failure."""
    checks: list[Check] = []
    for check in (
        _python,
        _torch,
        _device,
        _attention,
        _transformers,
        _encoders,
        _verification,
        _store,
        _champion,
        _storage,
    ):
        try:
            checks.extend(check(settings))
        except Exception as error:  # any error is a finding
            unknown = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            checks.append(Check(check.__name__.removeprefix("_"), FAIL, cause_outside(error) or unknown))
    return checks


def _python(settings: DoctorSettings) -> Iterator[Check]:
    outcome = PASS if sys.version_info >= (3, 11) else FAIL
    yield Check("Python", outcome, f"{platform.python_version()} (3.11 or newer is needed)")


def _torch(settings: DoctorSettings) -> Iterator[Check]:
    release = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    yield Check("torch", PASS if release >= MIN_TORCH else FAIL, f"{torch.__version__} (2.5 or newer is needed)")


def _device(settings: DoctorSettings) -> Iterator[Check]:
    device = choose_device(settings.device)
    precision = choose_precision("auto", device.name)
    detail = f"{device.name} ({device.reason}); precision {precision.name} ({precision.reason})"
    if torch.device(device.name).type == "cpu":
        yield Check("device", WARN, f"{detail}; enough for the demo, but the published encoders would take weeks")
    else:
        memory = torch.cuda.get_device_properties(device.name).total_memory
        yield Check("device", PASS, f"{detail}; {memory / 2**30:.0f} GiB")


def _attention(settings: DoctorSettings) -> Iterator[Check]:
    """Compare SDPA with attention written out, on the device: results and time."""
    device = choose_device(settings.device).name
    q, k, v = torch.randn(3, 8, 16, 256, 64, generator=torch.Generator().manual_seed(0)).to(device)

    def plain() -> torch.Tensor:
        return (q @ k.transpose(-1, -2) / 64**0.5).softmax(-1) @ v

    def fused() -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    distance = (fused() - plain()).abs().max().item()
    ratio = seconds(lambda: [plain() for _ in range(5)], device) / seconds(lambda: [fused() for _ in range(5)], device)
    if distance > 1e-4:
        yield Check("SDPA", FAIL, f"differs from plain attention by {distance:.1e}; install another torch build")
    else:
        shown = f"equal within {distance:.0e}; {ratio:.1f} times as fast as plain"
        yield Check("SDPA", PASS if ratio > 1 else WARN, shown)


def _transformers(settings: DoctorSettings) -> Iterator[Check]:
    yield Check("transformers", PASS, metadata.version("transformers"))
    if util.find_spec("esm"):
        yield Check("fair-esm", WARN, "installed but not needed: weights are loaded from the hub's layout")


def _encoders(settings: DoctorSettings) -> Iterator[Check]:
    for name in settings.encoders:
        try:
            facts = load_encoder(name, weights=settings.weights, revisions=settings.revisions).provenance
            origin = f"{facts.weights} weights" + (f" of revision {facts.revision}" if facts.revision else "")
            detail = f"{origin}, {facts.dimension} values, {facts.parameters:,} parameters"
            yield Check(f"encoder {facts.name}", PASS, detail)
        except VirnucError as error:
            yield Check(f"encoder {name}", FAIL, " ".join(str(error).split()))


def _verification(settings: DoctorSettings) -> Iterator[Check]:
    """Compare encoders with a second implementation, on the CPU and on the chosen GPU."""
    device = choose_device(settings.device).name
    precision = choose_precision("auto", device).name
    for name in settings.verify:
        try:
            found = verify_source(name, settings.weights, settings.revisions, device, precision)
        except VirnucError as error:
            yield Check(f"verify {name}", FAIL, " ".join(str(error).split()))
            continue
        yield from (Check(f"verify {one.encoder}", PASS if one.passed else FAIL, str(one)) for one in found)


def _store(settings: DoctorSettings) -> Iterator[Check]:
    open_store()  # which writes a tag of the experiment
    yield Check("MLflow store", PASS, f"{store_uri()} is writable")
    if left := [f"{run.data.tags['virnuc.stage']} {run.info.run_id}" for run in abandoned_runs()]:
        detail = f"RUNNING, but their process was killed: {', '.join(left)}; the next run of the same stage ends them"
        yield Check("runs", WARN, detail)


def _champion(settings: DoctorSettings) -> Iterator[Check]:
    yield from check_champion(weights=settings.weights)


def _storage(settings: DoctorSettings) -> Iterator[Check]:
    """List the contents of --data, and what would be lost by deleting them."""
    for found in usage(Path(settings.data)):
        yield Check("storage", PASS, f"{found.directory}: {found.kind}, {found.bytes / 1e9:.3g} GB; {found.lost}")
