"""Running recorded cases: this machine, with these settings, against the reference implementations.

A case is a JSON head beside a safetensors file of inputs, weights and results (a few are JSON alone). A room
that can run some lists them in its own `parity.py` as `CASES`: (system, kind) to a function from the `Case`
to its named tensors.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from core.cli.parser import Parser
from core.errors import UserError, did_you_mean
from core.tables import text_table

if TYPE_CHECKING:
    from torch import Tensor, nn

    from core.checkpoints.keymap import KeyMap
    from core.checkpoints.sources import Weights

Network = TypeVar("Network", bound="nn.Module")

__all__ = ["Case", "CaseReport", "Check", "known_cases", "load_case", "main", "run_case"]

_FORMAT = "parity-1"
# what a case is run from; everything else in it is a result to compare
_GIVEN = ("state/", "input/", "target/")
_DEFAULT = {
    "output": {"rtol": 1e-4, "atol": 1e-5},
    "loss": {"rtol": 1e-4, "atol": 1e-6},
    "grad": {"rtol": 1e-3, "atol": 1e-5},
}


@dataclass
class Case:
    """One recorded case.

    Args:
        path: The head's file.
        head: The head as read.
        tensors: Every recorded tensor by its full name, `state/…`, `input/…`, `output/…` and so on, on
            `device`.
        device: Where the case is to run.
    """

    path: Path
    head: dict[str, Any]
    tensors: dict[str, Tensor]
    device: str = "cpu"

    @property
    def system(self) -> str:
        """Model family."""
        return str(self.head["system"])

    @property
    def kind(self) -> str:
        """Part of it."""
        return str(self.head["kind"])

    @property
    def name(self) -> str:
        """Name."""
        return str(self.head["case"])

    @property
    def config(self) -> dict[str, Any]:
        """Hyper-parameters under their official names."""
        return dict(self.head.get("config") or {})

    @property
    def training(self) -> bool:
        """Whether the case was recorded in training mode."""
        return str(self.head.get("mode", "eval")).startswith("train")

    def group(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of one group (`input`, `target`, `grad`, …) without its name in front."""
        return {key[len(name) + 1 :]: t for key, t in self.tensors.items() if key.startswith(f"{name}/")}

    def state(self) -> dict[str, Tensor]:
        """Return the weights under their official names, complex ones as complex tensors."""
        import torch

        weights = self.group("state")
        for key in self.head.get("complex_state") or ():
            weights[key] = torch.view_as_complex(weights[key].contiguous())
        return weights

    def weights(self) -> Weights:
        """Return what `core.checkpoints.weights.load_weights` fills a network from, as a run's."""
        from core.checkpoints.sources import Weights

        return Weights(self.name, self.path, "case", "official", self.state(), config=self.config)

    def filled(self, network: Network) -> Network:
        """Return the network with the recorded weights, on the case's device and in its mode."""
        from core.checkpoints.weights import load_weights

        load_weights(self.weights(), network)
        return network.to(self.device).train(self.training)

    @staticmethod
    def gradients(network: nn.Module, key_map: KeyMap, *, group: str = "grad") -> dict[str, Tensor]:
        """Return the gradients of all parameters that have one, under their official names in the group."""
        gradients = {key: p.grad.clone() for key, p in network.named_parameters() if p.grad is not None}
        return {f"{group}/{key}": grad for key, grad in key_map.to_official(gradients).items()}

    def expect(self, name: str, value: Any) -> None:
        """Add a result that stands in the head and not among the tensors, such as `output/cuts`."""
        import torch

        self.tensors[name] = torch.as_tensor(value)


@dataclass(frozen=True)
class Check:
    """One compared tensor: `|x - ref| <= atol + rtol * max|ref|` everywhere; integers and booleans exactly.

    Args:
        name: Full name, such as `output/prediction_outputs`.
        largest: Largest absolute error (for integers, the number of elements that differ).
        relative: The same, divided by the largest magnitude of the reference.
        tolerance: Relative and absolute, or None where equality is asked.
        passed: Whether it holds.
        remark: What else is wrong, such as another shape.
    """

    name: str
    largest: float
    relative: float
    tolerance: tuple[float, float] | None
    passed: bool
    remark: str = ""

    def __str__(self) -> str:
        if self.remark:
            return self.remark
        if self.tolerance is None:
            return f"{self.largest:.0f} differ  tolerance exact"
        rtol, atol = self.tolerance
        errors = f"abs {self.largest:.2e}  rel {self.relative:.2e}"
        return f"{errors}  tolerance {atol:.0e} + {rtol:.0e}*max|ref|"


@dataclass(frozen=True)
class CaseReport:
    """Checks of every recorded result of one case."""

    case: Case
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether there was something to compare and all of it holds."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    def __str__(self) -> str:
        case = self.case
        title = f"{case.system}/{case.name} ({case.kind}): {_verdict(self.passed)}"
        start = f"  {case.system} {case.name}"
        rows = [(f"{start} {check.name}", str(check), _verdict(check.passed)) for check in self.checks]
        nothing = "  nothing to compare: the case holds no outputs, losses or gradients"
        return f"{title}\n{text_table(rows) if rows else nothing}"


Handler = Callable[[Case], "Mapping[str, Any]"]


def known_cases() -> dict[tuple[str, str], Handler]:
    """Return what can be run: the `CASES` of every `parity.py` in a room of core or a domain of apps.

    Raises:
        ValueError: If two rooms claim the same (system, kind).
    """
    root = Path(__file__).parents[1]
    handlers: dict[tuple[str, str], Handler] = {}
    for package in ("core", "apps"):
        for file in sorted((root / package).glob("*/parity.py")):
            module = importlib.import_module(f"{package}.{file.parent.name}.parity")
            for key, handler in module.CASES.items():
                if key in handlers:
                    raise ValueError(f"{module.__name__} claims {key}, which another room has")
                handlers[key] = handler
    return handlers


def load_case(path: str | Path, *, device: str = "cpu") -> Case:
    """Read a head and the tensors beside it.

    Raises:
        UserError: If a file is missing, unreadable, or not a recorded case of a format we know.
    """
    head = _head(Path(path))
    tensors: dict[str, Tensor] = {}
    beside, promised = Path(path).with_suffix(".safetensors"), head.get("tensors") or {}
    if beside.is_file():
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors = load_file(beside, device=device)
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"The tensors '{beside}' cannot be read ({error}); copy the file anew.") from None
    elif promised:
        raise UserError(f"The case '{path}' has no tensors beside it: '{beside}' is missing.")
    if short := sorted(set(promised) - set(tensors)):
        raise UserError(f"The tensors '{beside}' lack {', '.join(short[:5])}; copy the file anew.")
    return Case(path=Path(path), head=head, tensors=tensors, device=device)


def run_case(
    path: str | Path, *, device: str = "cpu", known: Mapping[tuple[str, str], Handler] | None = None
) -> CaseReport:
    """Run one case and compare every recorded result.

    Args:
        path: The head's file.
        device: Where to run it.
        known: What can be run; None is what `known_cases` finds.

    Raises:
        UserError: If the case cannot be read, or no room knows its (system, kind).
    """
    case = load_case(path, device=device)
    known = known_cases() if known is None else known
    key = (case.system, case.kind)
    if key not in known:
        raise UserError(_unknown({key: case.path}, known))
    produced = known[key](case)
    recorded = {name: ref for name, ref in case.tensors.items() if not name.startswith(_GIVEN)}
    checks = tuple(_compare(name, ref, produced.get(name), case.head) for name, ref in recorded.items())
    return CaseReport(case, checks)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `dfm parity`; return 0 if all pass, 1 if any fails, 2 for a mistake or an unknown case."""
    try:
        return _main(_parser().parse_args(argv))
    except UserError as error:
        print(f"dfm parity: {error}", file=sys.stderr)
        return 2


def _main(options: argparse.Namespace) -> int:
    paths = [file for given in options.cases for file in _files(Path(given))]
    heads = {path: _head(path) for path in paths}  # before torch is imported: mistakes answer at once

    if options.cpu is not None and options.device == "cpu":
        from dataclasses import replace

        from core.accelerators.cpu import CPUSwitches, apply

        on = options.cpu == "all-on"
        # Without a network nothing is asked about its size: the small products of a case take oneDNN's way
        # too.
        switches = CPUSwitches(allocator=on, onednn_matmul=on, fast_dropout=on, fused_optimizer=on)
        state = apply(replace(switches, threads=options.threads))
        print("cpu switches: " + ", ".join(f"{k} {'on' if v['on'] else 'off'}" for k, v in state.items()))
    known = known_cases()
    unknown: dict[tuple[str, str], Path] = {}
    passed = failed = mistakes = 0
    for path, head in heads.items():
        key = (str(head["system"]), str(head["kind"]))
        if key not in known:
            unknown.setdefault(key, path)
            continue
        # One case that breaks does not keep the others from running.
        try:
            report = run_case(path, device=options.device, known=known)
        except UserError as error:
            print(f"dfm parity: {error}", file=sys.stderr)
            mistakes += 1
        except Exception:
            traceback.print_exc()
            print(f"{head['system']}/{head['case']} ({head['kind']}): FAIL")
            failed += 1
        else:
            print(report)
            passed, failed = passed + report.passed, failed + (not report.passed)
    if passed or failed:
        print(f"{passed} of {passed + failed} cases passed")
    if unknown:
        print(f"dfm parity: {_unknown(unknown, known)}", file=sys.stderr)
    return 1 if failed else 2 if unknown or mistakes else 0


def _compare(name: str, reference: Tensor, value: Any, head: Mapping[str, Any]) -> Check:
    import torch

    floating = reference.is_floating_point() or reference.is_complex()
    tolerance = _tolerance(name, head) if floating else None

    def wrong(remark: str) -> Check:
        return Check(name, math.inf, math.inf, tolerance, False, remark)

    if value is None:
        return wrong("not computed")
    value, reference = torch.as_tensor(value).detach().cpu(), reference.detach().cpu()
    if value.is_complex() and not reference.is_complex():
        value = torch.view_as_real(value)  # recorded as real views, last axis (real, imaginary)
    if value.shape != reference.shape:
        return wrong(f"shape {tuple(value.shape)}, recorded {tuple(reference.shape)}")
    if tolerance is None:
        different = int((value != reference).sum())
        return Check(name, different, different / max(reference.numel(), 1), None, different == 0)
    wide = torch.complex128 if reference.is_complex() else torch.float64
    value, reference = value.to(wide), reference.to(wide)
    # Where the reference is not a finite number the value must be the same one.
    odd = ~torch.isfinite(reference)
    same = (value == reference) | (value.isnan() & reference.isnan())
    if not bool(same[odd].all()):
        return wrong("differs where the reference is not finite")
    difference, size = (value - reference)[~odd].abs(), reference[~odd].abs()
    largest = float(difference.max()) if difference.numel() else 0.0
    most = float(size.max()) if size.numel() else 0.0
    relative = largest / most if most else (0.0 if largest == 0 else math.inf)
    rtol, atol = tolerance
    return Check(name, largest, relative, tolerance, largest <= atol + rtol * most)


def _tolerance(name: str, head: Mapping[str, Any]) -> tuple[float, float]:
    """Return (rtol, atol) of one result: its group's, loosened where the case's note says so."""
    group, _, bare = name.partition("/")
    family = next((known for known in _DEFAULT if group.startswith(known)), "output")
    rule = {**_DEFAULT[family], **(head["tolerance"].get(family) or {})}
    rtol, atol = float(rule["rtol"]), float(rule["atol"])
    note = head.get("tolerance_note")
    if not isinstance(note, dict):
        return rtol, atol
    for key, entry in note.items():
        stem, _, which = key.rpartition("_")
        named = key == bare
        if which in ("rel", "abs") and not named:
            named = stem == bare or stem in (family, f"{family}s") or bare.startswith(f"{stem}_")
        else:
            which = "abs"
        if isinstance(entry, str) and entry.endswith(" relative"):
            with suppress(ValueError):
                entry, which = float(entry.removesuffix(" relative")), "rel"
        if not named or isinstance(entry, bool) or not isinstance(entry, int | float):
            continue
        rtol, atol = (max(rtol, entry), atol) if which == "rel" else (rtol, max(atol, entry))
    return rtol, atol


def _files(given: Path) -> Iterator[Path]:
    if given.is_dir():  # which may hold other JSON files
        texts = {path: path.read_bytes() for path in sorted(given.rglob("*.json"))}
        heads = [path for path, text in texts.items() if b'"parity-' in text]
        if not heads:
            raise UserError(f"The folder '{given}' holds no recorded case ({_FORMAT} JSON files).")
        yield from heads
    else:
        yield given.with_suffix(".json") if given.suffix == ".safetensors" else given


def _head(path: Path) -> dict[str, Any]:
    try:
        head = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = did_you_mean(path.name, (p.name for p in path.parent.glob("*.json")))
        hint = near or "; give a JSON file or a folder of them."
        raise UserError(f"There is no case '{path}'{hint}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"The case '{path}' cannot be read ({error}); copy the file anew.") from None
    if not isinstance(head, dict) or "format" not in head:
        raise UserError(f"'{path}' is no recorded case: its head must be a JSON object with a 'format'.")
    if head["format"] != _FORMAT:
        raise UserError(f"The case '{path}' has the format '{head['format']}'; only '{_FORMAT}' is known.")
    missing = [key for key in ("system", "kind", "case", "tolerance") if key not in head]
    if missing:
        raise UserError(f"The head of the case '{path}' lacks {', '.join(missing)}; copy the file anew.")
    return head


def _unknown(cases: Mapping[tuple[str, str], Path], known: Mapping[tuple[str, str], Handler]) -> str:
    def names(keys: Any) -> str:
        return ", ".join(f"({system}, {kind})" for system, kind in sorted(keys))

    more = f" (for instance '{next(iter(cases.values()))}')"
    return f"No room runs the (system, kind) {names(cases)}{more}; known are {names(known)}."


def _verdict(passed: bool) -> str:
    return "PASS" if passed else "FAIL"


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="dfm parity", description="Run recorded cases and compare every result.")
    parser.add_argument("cases", nargs="+", metavar="CASE", help="a case's JSON file, or a folder of cases")
    parser.add_argument("--cpu", choices=("all-on", "all-off"), help="turn every CPU switch on or off first")
    parser.add_argument("--threads", type=int, help="threads within an operation, with --cpu")
    parser.add_argument("--device", default="cpu", help="where to run: cpu, cuda, neuron (default: cpu)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
