"""`dfm doctor`: versions, devices, memory, switches and optional packages; what is missing and how to get it.

Package versions come from the installed metadata, which takes milliseconds; only torch is imported, because
nothing else knows whether a device really answers.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from core.accelerators.presence import find_neuron, installed_version
from core.errors import UserError, did_you_mean
from core.files import data_folder

__all__ = ["examine", "how_to_install", "main", "requirements"]

SHOWN = ["torch", "torchvision", "torchaudio", "lightning", "timm", "monai", "xarray", "wandb", "numpy"]
SHOWN.append("jsonargparse")
HELP = """usage: dfm doctor [--json]

Shows versions, devices, memory, CPU switches and optional packages; says what is missing and how to get it.
  --json    one JSON object instead of lines, to attach to a report

Exit code 0 if training can start here, 1 if a package of the base is missing or broken."""
GIB = 2**30
_NEURON = ("NEURON_", "TORCH_NEURONX_")
_PROJECT = Path(__file__).parents[2] / "pyproject.toml"  # in a clone


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report and return 0, or 1 if the base is not whole.

    Raises:
        UserError: An option that does not exist.
    """
    words = list(argv or [])
    options = ["--json", "-h", "--help"]
    for word in words:
        if word not in options:
            raise UserError(
                f"'{word}' is no option of dfm doctor ({', '.join(options)}){did_you_mean(word, options)}"
            )
    if "-h" in words or "--help" in words:
        print(HELP)
        return 0
    report = examine()
    print(json.dumps(report, indent=2) if "--json" in words else _render(report))
    return 0 if report["healthy"] else 1


def examine() -> dict[str, Any]:
    """Return the report as plain containers; `advice` holds one sentence for each thing to mend."""
    advice: list[str] = []
    packages = _packages(advice)
    torch = _import_torch(advice)
    return {
        "versions": {
            "domainfm": installed_version("domainfm") or "not installed",
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            **{name: installed_version(name) or "missing" for name in SHOWN},
        },
        "devices": {
            "cpu": _cpu(torch),
            "cuda": _cuda(torch, advice),
            "mps": bool(torch is not None and torch.backends.mps.is_available()),
            "neuron": _neuron(torch, advice),
        },
        "accelerators": _order() if torch else {"order": [], "auto": None},
        "memory": _memory(),
        "disk": _disk(),
        "switches": _switches() if torch else {},
        "packages": packages,
        "tracking": _tracking(),
        "healthy": torch is not None and not packages["base"]["missing"],
        "advice": advice,
    }


def _import_torch(advice: list[str]) -> Any | None:
    try:
        return import_module("torch")
    except (ImportError, OSError, RuntimeError) as error:  # a shared library that is missing is an OSError
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        advice.append(
            f"torch cannot be imported ({first}): install it again, with `make install` in a clone."
        )
        return None


def _packages(advice: list[str]) -> dict[str, dict[str, Any]]:
    from packaging.specifiers import SpecifierSet

    report = {}
    for extra, bounds in requirements().items():
        states = {name: installed_version(name) for name in sorted(bounds, key=str.lower)}
        present = {name: version for name, version in states.items() if version}
        missing = [name for name in states if name not in present]
        unfit = [
            f"{name} {version} is not {bounds[name]}"
            for name, version in present.items()
            if not SpecifierSet(bounds[name]).contains(version, prereleases=True)
        ]
        report[extra] = {"present": present, "missing": missing, "unfit": unfit}
        if missing:
            what = "The base lacks" if extra == "base" else f"For {extra} this machine lacks"
            advice.append(f"{what} {', '.join(missing)}: {how_to_install(extra)}.")
        advice.extend(f"{sentence}: {how_to_install(extra)}." for sentence in unfit)
    return report


def requirements() -> dict[str, dict[str, str]]:
    """Map `base` and each extra to its distributions and their version bounds.

    In a clone the project file is newer than what was recorded when it was installed, so it is asked first.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    if _PROJECT.is_file():
        import tomllib

        table = tomllib.loads(_PROJECT.read_text(encoding="utf-8"))["project"]
        texts = {"base": table["dependencies"], **table["optional-dependencies"]}
        distributions = {extra: [Requirement(text) for text in lines] for extra, lines in texts.items()}
    else:
        recorded = [Requirement(text) for text in metadata.requires("domainfm") or []]
        distributions = {"base": [line for line in recorded if line.marker is None]}
        for extra in metadata.metadata("domainfm").get_all("Provides-Extra") or []:
            own = {"extra": extra}
            distributions[extra] = [line for line in recorded if line.marker and line.marker.evaluate(own)]
    return {
        extra: {canonicalize_name(line.name): str(line.specifier) for line in lines}
        for extra, lines in distributions.items()
        if extra not in ("all", "dev")
    }


def how_to_install(extra: str) -> str:
    """Return the command that brings the packages of an extra: in a clone another than for a wheel."""
    if _PROJECT.is_file():
        return "`make install` brings everything"
    return f"pip install 'domainfm[{extra}]'" if extra != "base" else "pip install domainfm"


def _cpu(torch: Any | None) -> dict[str, Any]:
    report: dict[str, Any] = {"model": _cpu_model(), "cores": os.cpu_count(), "usable_cores": _usable_cores()}
    if torch is not None:
        report["instructions"] = torch.backends.cpu.get_cpu_capability()
        report["torch_threads"] = torch.get_num_threads()
        report["onednn"] = bool(torch.backends.mkldnn.is_available())
    return report


def _cpu_model() -> str:
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _usable_cores() -> float:
    """Return the cores this process may use: its affinity, cut by a container's quota."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    quota, _, period = "".join(_lines("/sys/fs/cgroup/cpu.max")).partition(" ")
    return round(min(cores, int(quota) / int(period)) if quota.isdigit() else cores, 2)


def _cuda(torch: Any | None, advice: list[str]) -> dict[str, Any]:
    if torch is None:
        return {"available": False, "devices": []}
    from core.tracking.peaks import peak_flops

    available = bool(torch.cuda.is_available())
    report: dict[str, Any] = {"available": available, "torch_built_for": torch.version.cuda, "devices": []}
    driver = Path("/proc/driver/nvidia/version").is_file()
    if driver and not available:
        built = f"torch is built for CUDA {torch.version.cuda}"
        why = built if torch.version.cuda else "this torch is a CPU-only build"
        advice.append(f"An NVIDIA driver is loaded but torch sees no GPU; {why}: compare it with nvidia-smi.")
    for index in range(torch.cuda.device_count() if available else 0):
        facts = torch.cuda.get_device_properties(index)
        peak = peak_flops(facts.name, "bf16")
        device = {"name": facts.name, "memory_gib": round(facts.total_memory / GIB, 1)}
        device |= {"capability": f"{facts.major}.{facts.minor}", "bf16": bool(torch.cuda.is_bf16_supported())}
        report["devices"].append({**device, "peak_tflops_bf16": peak and peak / 1e12})
    if available:
        report["cudnn"] = torch.backends.cudnn.version()
        report["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    return report


def _neuron(torch: Any | None, advice: list[str]) -> dict[str, Any]:
    """Describe AWS Neuron; on the public package index `torch-neuronx` 1.0 is an empty placeholder."""
    software = find_neuron()
    advice.extend(software.problems())
    backend = getattr(torch, "neuron", None)
    report: dict[str, Any] = {
        "torch_neuronx": software.version,
        "package": software.package,
        "torch_xla": software.xla,
        "driver": software.driver,
        "chips": software.chips,
        "available": bool(backend is not None and backend.is_available()),
        "environment": {
            name: value
            for name, value in os.environ.items()
            if name.startswith(("NEURON_", "TORCH_NEURONX_"))
        },
    }
    if backend is not None and report["available"]:
        report["devices"] = int(backend.device_count())
    return report


def _order() -> dict[str, Any]:
    """Return which device `trainer.accelerator: auto` takes here, and in which order it looks."""
    from core.accelerators.choice import ORDER, choose

    return {"order": list(ORDER), "auto": choose("auto")}


def _switches() -> dict[str, Any]:
    """Turn every switch on, as a run on the CPU does, and tell what this machine made of it."""
    from core.accelerators import cpu

    return cpu.apply(cpu.CPUSwitches())


def _memory() -> dict[str, float]:
    pairs = (line.partition(":") for line in _lines("/proc/meminfo"))
    kib = {name: int(rest.split()[0]) for name, _, rest in pairs}
    if "MemTotal" in kib:
        sizes = {"total_gib": kib["MemTotal"] * 1024, "available_gib": kib.get("MemAvailable", 0) * 1024}
    else:
        pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
        sizes = {"total_gib": pages * os.sysconf("SC_PAGE_SIZE")} if pages else {}
    limit = "".join(_lines("/sys/fs/cgroup/memory.max")).strip()
    if limit.isdigit():
        sizes["container_limit_gib"] = int(limit)
    return {name: round(size / GIB, 1) for name, size in sizes.items()}


def _disk() -> dict[str, dict[str, Any]]:
    import tempfile

    folders = {"here": Path.cwd(), "temporary": Path(tempfile.gettempdir()), "data": data_folder()}
    report = {}
    for name, folder in folders.items():
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        free = round(shutil.disk_usage(existing).free / GIB, 1)
        report[name] = {"folder": str(folder), "exists": folder.is_dir(), "free_gib": free}
    return report


def _tracking() -> dict[str, Any]:
    """Say whether a W&B key is known, and never which."""
    from core.tracking.settings import has_wandb_key

    return {
        "wandb": installed_version("wandb") or "missing",
        "wandb_key": has_wandb_key(),
        "wandb_mode": os.environ.get("WANDB_MODE", "") or "not set",
        "tensorboard": installed_version("tensorboard") or "missing",
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _render(report: Mapping[str, Any]) -> str:
    cpu, cuda, neuron = (report["devices"][name] for name in ("cpu", "cuda", "neuron"))
    memory = {name.removesuffix("_gib").replace("_", " "): size for name, size in report["memory"].items()}
    cores = f"{cpu['usable_cores']:g} of {cpu['cores']} cores usable"
    instructions = [cpu["instructions"]] if "instructions" in cpu else []
    devices = {"cpu": ", ".join([cpu["model"], cores, *instructions])}
    devices["memory"] = ", ".join(f"{name} {size} GiB" for name, size in memory.items())
    for index, gpu in enumerate(cuda["devices"]):
        peak = f", {gpu['peak_tflops_bf16']:g} TFLOP/s bf16" if gpu["peak_tflops_bf16"] else ""
        text = f"{gpu['name']}, {gpu['memory_gib']} GiB, capability {gpu['capability']}{peak}"
        devices[f"cuda:{index}"] = text
    if not cuda["devices"]:
        devices["cuda"] = "none"
    devices["mps"] = "yes" if report["devices"]["mps"] else "none"
    kinds = {"placeholder": " (the empty placeholder)", "xla": " (of the XLA generation)"}
    kind = {**kinds, "other_torch": " (for another torch)"}.get(neuron["package"], "")
    driver = "driver loaded" if neuron["driver"] else "no driver"
    package = f"torch-neuronx {neuron['torch_neuronx'] or 'not installed'}{kind}"
    devices["neuron"] = f"{package}, {driver}, {neuron['chips']} chips"
    order = report["accelerators"]
    devices["auto"] = f"{order['auto']}, the first that answers of {', '.join(order['order'])}"
    disks = {
        name: f"{disk['folder']}, {disk['free_gib']} GiB free{'' if disk['exists'] else ', not made yet'}"
        for name, disk in report["disk"].items()
    }
    switches = {
        name: f"{state.get('value', 'on' if state['on'] else 'off')} ({state['reason']})"
        for name, state in report["switches"].items()
    }
    packages = {}
    for extra, state in report["packages"].items():
        gaps = [*(f"{name} missing" for name in state["missing"]), *state["unfit"]]
        packages[extra] = "; ".join(gaps) if gaps else f"complete ({len(state['present'])})"
    key = "key found" if report["tracking"]["wandb_key"] else "no key, runs are kept offline"
    tracking = {
        "wandb": f"{report['tracking']['wandb']}, {key}",
        "tensorboard": report["tracking"]["tensorboard"],
    }
    sections = {"Versions": report["versions"], "Devices": devices, "Disk": disks, "CPU switches": switches}
    lines = []
    for heading, rows in {**sections, "Packages": packages, "Tracking": tracking}.items():
        lines += [heading, *(f"  {name:<16}{text}" for name, text in rows.items())]
    lines.append("To do" if report["advice"] else "Nothing is missing.")
    lines += [f"  - {sentence}" for sentence in report["advice"]]
    if sys.version_info[:2] != (3, 11):
        lines.append("  - The pinned packages were tried with Python 3.11; this is another.")
    return "\n".join(lines)
