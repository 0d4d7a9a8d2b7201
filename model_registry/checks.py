"""The checks of `doctor`: Python, torch and its device, attention, encoders and their weights, store and champion."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
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
    """Make all checks, whether or not others fail."""
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
        checks += _guarded(check, settings)
    return checks


def _guarded(check: Callable[[DoctorSettings], list[Check]], settings: DoctorSettings) -> list[Check]:
    """Return the results of a check; an error in the check itself counts as a failure."""
    try:
        return check(settings)
    except Exception as error:  # any error is a finding
        name = check.__name__.removeprefix("_")
        unknown = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return [Check(name, FAIL, cause_outside(error) or unknown)]


def _python(settings: DoctorSettings) -> list[Check]:
    outcome = PASS if sys.version_info >= (3, 11) else FAIL
    return [Check("Python", outcome, f"{platform.python_version()} (3.11 or newer is needed)")]


def _torch(settings: DoctorSettings) -> list[Check]:
    release = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    return [Check("torch", PASS if release >= MIN_TORCH else FAIL, f"{torch.__version__} (2.5 or newer is needed)")]


def _device(settings: DoctorSettings) -> list[Check]:
    device = choose_device(settings.device)
    precision = choose_precision("auto", device.name)
    detail = f"{device.name} ({device.reason}); precision {precision.name} ({precision.reason})"
    if torch.device(device.name).type == "cpu":
        return [Check("device", WARN, f"{detail}; enough for the demo, but the published encoders would take weeks")]
    return [
        Check("device", PASS, f"{detail}; {torch.cuda.get_device_properties(device.name).total_memory / 2**30:.0f} GiB")
    ]


def _attention(settings: DoctorSettings) -> list[Check]:
    """Compare SDPA with attention written out, on the device: results and time."""
    device = choose_device(settings.device).name
    q, k, v = torch.randn(3, 8, 16, 256, 64, generator=torch.Generator().manual_seed(0)).to(device)

    def plain() -> torch.Tensor:
        return (q @ k.transpose(-1, -2) / 64**0.5).softmax(-1) @ v

    def fused() -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    fused(), plain()
    taken = [seconds(lambda attend=attend: [attend() for _ in range(5)], device) for attend in (fused, plain)]
    distance = (fused() - plain()).abs().max().item()
    if distance > 1e-4:
        return [Check("SDPA", FAIL, f"differs from plain attention by {distance:.1e}; install another torch build")]
    ratio = taken[1] / taken[0]
    return [
        Check("SDPA", PASS if ratio > 1 else WARN, f"equal within {distance:.0e}; {ratio:.1f} times as fast as plain")
    ]


def _transformers(settings: DoctorSettings) -> list[Check]:
    checks = [Check("transformers", PASS, metadata.version("transformers"))]
    if util.find_spec("esm"):
        checks.append(Check("fair-esm", WARN, "installed but not needed: weights are loaded from the hub's layout"))
    return checks


def _encoders(settings: DoctorSettings) -> list[Check]:
    checks = []
    for name in settings.encoders:
        try:
            facts = load_encoder(name, weights=settings.weights, revisions=settings.revisions).provenance
            origin = f"{facts.weights} weights" + (f" of revision {facts.revision}" if facts.revision else "")
            detail = f"{origin}, {facts.dimension} values, {facts.parameters:,} parameters"
            checks.append(Check(f"encoder {facts.name}", PASS, detail))
        except VirnucError as error:
            checks.append(Check(f"encoder {name}", FAIL, " ".join(str(error).split())))
    return checks


def _verification(settings: DoctorSettings) -> list[Check]:
    """Compare encoders with a second implementation, on the CPU and on the chosen GPU."""
    device = choose_device(settings.device).name
    precision = choose_precision("auto", device).name
    checks = []
    for name in settings.verify:
        try:
            found = verify_source(name, settings.weights, settings.revisions, device, precision)
        except VirnucError as error:
            checks.append(Check(f"verify {name}", FAIL, " ".join(str(error).split())))
            continue
        checks += [Check(f"verify {one.encoder}", PASS if one.passed else FAIL, str(one)) for one in found]
    return checks


def _store(settings: DoctorSettings) -> list[Check]:
    open_store()  # which writes a tag of the experiment
    checks = [Check("MLflow store", PASS, f"{store_uri()} is writable")]
    if left := [f"{run.data.tags['virnuc.stage']} {run.info.run_id}" for run in abandoned_runs()]:
        detail = f"RUNNING, but their process was killed: {', '.join(left)}; the next run of the same stage ends them"
        checks.append(Check("runs", WARN, detail))
    return checks


def _champion(settings: DoctorSettings) -> list[Check]:
    return check_champion(weights=settings.weights)


def _storage(settings: DoctorSettings) -> list[Check]:
    """List the contents of --data, and what would be lost by deleting them."""
    return [
        Check("storage", PASS, f"{found.directory}: {found.kind}, {found.bytes / 1e9:.3g} GB; {found.lost}")
        for found in usage(Path(settings.data))
    ]
