"""AWS Neuron software and chips of this machine, told from metadata and device files without torch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

__all__ = ["NeuronPresence", "find_neuron", "installed_version"]

Package = Literal["none", "placeholder", "xla", "other_torch", "native"]
_WHERE = "install it from the package index that the AWS Neuron documentation names"


@dataclass(frozen=True)
class NeuronPresence:
    """Neuron's packages, driver and chips on a machine.

    Attributes:
        package: `none`; `placeholder`, the empty version 1.0 of the public index; `xla`, the old generation;
            `other_torch`, the native backend made for another torch; `native`, the one that fits.
        version: Of torch-neuronx; None if it is not installed.
        torch: Version of torch; empty if it is not installed.
        xla: Version of torch-xla, which must not lie beside the native backend.
        driver: Whether the kernel module is loaded.
        chips: Number of Neuron devices that the driver shows.
    """

    package: Package
    version: str | None
    torch: str
    xla: str | None
    driver: bool
    chips: int

    def problems(self) -> list[str]:
        """Return a sentence for each thing that must be mended before Neuron works here, if it is wanted."""
        package, wrong = (
            f"torch-neuronx {self.version}",
            f"no native Neuron backend: uninstall it and {_WHERE}.",
        )
        missing = f"This machine has {self.chips} Neuron chips but no torch-neuronx: {_WHERE}."
        made_for = f"is made for torch {_minor(self.version or '')}, not {self.torch}"
        sentences = {
            "none": [missing] if self.chips else [],
            "placeholder": [f"{package} is the public index's empty placeholder, {wrong}"],
            "xla": [f"{package} is of the old XLA generation, {wrong}"],
            "other_torch": [f"{package} {made_for}: install a matching pair."],
            "native": [],
        }[self.package]
        if self.package == "native" and self.xla:
            sentences.append("torch-xla and torch-neuronx cannot share an environment: uninstall torch-xla.")
        if self.package == "native" and not self.driver:
            sentences.append(
                "The Neuron driver is not loaded: install aws-neuronx-dkms and the runtime on a Trn2 or Trn3"
                " machine, as the AWS Neuron documentation says."
            )
        return sentences

    def why_absent(self) -> str:
        """Return the one sentence for a run that asks for Neuron where it does not answer."""
        hardware = f"{self.chips} Neuron chips are found" if self.chips else "no Trn2 or Trn3 chip is found"
        driver = "the driver is loaded" if self.driver else "the driver aws-neuronx-dkms is not loaded"
        packages = {
            "none": "torch-neuronx is not installed",
            "placeholder": f"torch-neuronx {self.version} is the public index's empty placeholder",
            "xla": f"torch-neuronx {self.version} is of the old XLA generation",
            "other_torch": f"torch-neuronx {self.version} is made for another torch than {self.torch}",
            "native": f"torch-neuronx {self.version} fits",
        }
        return (
            "trainer.accelerator neuron: this machine offers no Neuron device; look at the hardware "
            f"({hardware}), the package ({packages[self.package]}) and the driver ({driver}), or give "
            "--trainer.accelerator=cpu"
        )


def find_neuron(*, root: Path = Path("/")) -> NeuronPresence:
    """Return what this machine has; `root` is the folder that `dev` and `sys` lie in."""
    version, torch = installed_version("torch-neuronx"), installed_version("torch") or ""
    package: Package
    if version is None:
        package = "none"
    elif version in ("1.0", "1.0.0"):
        package = "placeholder"
    # The XLA generation counted 1.x and, later, as torch did up to 2.9, always with torch-xla beside it.
    elif version.split(".")[0] == "1" or (installed_version("torch-xla") and _pair(version) <= (2, 9)):
        package = "xla"
    else:
        package = "native" if _minor(version) == _minor(torch) else "other_torch"
    return NeuronPresence(
        package=package,
        version=version,
        torch=torch,
        xla=installed_version("torch-xla"),
        driver=(root / "sys/module/neuron").exists() or (root / "proc/driver/neuron").exists(),
        chips=len(list((root / "dev").glob("neuron[0-9]*"))) if (root / "dev").is_dir() else 0,
    )


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _minor(version: str) -> str:
    return ".".join(version.split("+")[0].split(".")[:2])


def _pair(version: str) -> tuple[int, int]:
    words = [word for word in version.split(".")[:2] if word.isdigit()]
    return (int(words[0]), int(words[1])) if len(words) == 2 else (0, 0)
