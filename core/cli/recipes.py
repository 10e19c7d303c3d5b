"""Recipes: YAML files under `configs/<domain>/<system>/<recipe>.yaml`, listed and named without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from core.errors import UserError, did_you_mean
from core.files import configs_folder
from core.tables import text_table

__all__ = ["Recipe", "all_recipes", "domains", "example", "find_config", "main", "recipe_names"]


@dataclass(frozen=True)
class Recipe:
    """A recipe's file, and the name that it is typed by."""

    domain: str
    name: str
    path: Path

    @property
    def summary(self) -> str:
        """The first comment line of the file, and the next ones up to the end of its sentence."""
        with self.path.open(encoding="utf-8") as lines:
            comments = [line.strip("# \n") for line in takewhile(lambda line: line.startswith("#"), lines)]
        text = comments[0] if comments else ""
        for line in comments[1:] if text[-1:] not in ".:" else ():
            sentence, end, _ = f"{line} ".partition(". ")
            text += f" {sentence.strip()}{end.strip()}"
            if end or line.endswith(":"):
                break
        return text.removesuffix(":")


def domains() -> list[str]:
    """Return the names of the domains: the packages under `apps` that have tasks."""
    apps = configs_folder().parent / "apps"
    return sorted({tasks.parent.name for tasks in apps.glob("*/tasks*") if tasks.suffix in (".py", "")})


def all_recipes(domain: str | None = None) -> list[Recipe]:
    """Return the recipes of one domain, or of all."""
    names = [domain] if domain else domains()
    return [
        Recipe(name, f"{path.parent.name}/{path.stem}", path)
        for name in names
        for path in sorted((configs_folder() / name).glob("*/*.yaml"))
    ]


def example(domain: str) -> str:
    """Return the recipe that sentences name: the domain's demo, else its first."""
    names = [recipe.name for recipe in all_recipes(domain)]
    return next((name for name in names if name.endswith("/demo")), names[0] if names else "SYSTEM/RECIPE")


def recipe_names(domain: str) -> list[str]:
    """Return what `--config` takes in a domain: its recipes, and the hardware files."""
    hardware = [f"trainer/{path.stem}" for path in _hardware()]
    return [*(recipe.name for recipe in all_recipes(domain)), *hardware]


def find_config(domain: str, text: str) -> Path:
    """Return the file that `--config text` means: a path, `<system>/<recipe>`, or `trainer/<hardware>`.

    Raises:
        UserError: If there is none, with the nearest name.
    """
    path = Path(text)
    if path.is_file():
        return path
    if path.is_dir():
        raise UserError(
            f"--config {text} is a folder; give a recipe file in it or a name such as {example(domain)}"
        )
    for folder in (configs_folder() / domain, configs_folder()):
        for candidate in (folder / f"{text}.yaml", folder / text):
            if candidate.is_file():
                return candidate
    names = recipe_names(domain)
    spoken = domain.replace("_", "-")
    raise UserError(
        f"recipe '{text}' is neither a file nor one of {spoken}'s recipes{did_you_mean(text, names)};"
        f" `dfm recipes {spoken}` lists them"
    )


def main(argv: Sequence[str]) -> int:
    """Print the recipes of all domains, or of the one named."""
    words = [word for word in argv if word not in ("-h", "--help")]
    if len(words) < len(argv):
        print("usage: dfm recipes [domain]\n\nList the recipes of all domains, or of one.")
        return 0
    if len(words) > 1:
        raise UserError(f"`dfm recipes` takes at most one domain, and {len(words)} words were given")
    domain = words[0].replace("-", "_") if words else None
    if domain and domain not in domains():
        names = [name.replace("_", "-") for name in domains()]
        raise UserError(f"'{words[0]}' is no domain ({', '.join(names)}){did_you_mean(words[0], names)}")
    recipes = all_recipes(domain)
    recipes += [Recipe("hardware (a second --config)", f"trainer/{path.stem}", path) for path in _hardware()]
    lines = text_table((f"  {recipe.name}", recipe.summary) for recipe in recipes).splitlines()
    heading = ""
    for recipe, line in zip(recipes, lines, strict=True):
        if recipe.domain != heading:
            heading = recipe.domain
            print(heading.replace("_", "-"))
        print(line)
    return 0


def _hardware() -> list[Path]:
    return sorted((configs_folder() / "trainer").glob("*.yaml"))
