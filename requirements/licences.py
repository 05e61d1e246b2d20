"""The licences of all locked packages that are installed, from their own metadata, as a page: requirements/licences.md.

python requirements/licences.py > requirements/licences.md
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageMetadata, PackageNotFoundError, distribution
from pathlib import Path

HERE = Path(__file__).parent
LOCKS = ("torch-cpu.txt", "lock-cpu.txt", "lock-test.txt")
UNSAID = "not said"
_LONGEST = 60
"""Characters: a longer field holds the licence's text and not its name."""


def pins() -> Iterator[tuple[str, str]]:
    """Name and version of each locked package, in the order of the names."""
    found = {}
    for lock in LOCKS:
        for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", (HERE / lock).read_text(), re.MULTILINE):
            found[name.lower().replace("_", "-")] = version
    yield from sorted(found.items())


def licence(package: Distribution) -> str:
    """What the package says: the expression, else a short field, its classifiers, or the first line of its licence."""
    metadata: PackageMetadata = package.metadata
    for field in ("License-Expression", "License"):
        said = str(metadata.get(field) or "").strip()
        if said and said != "UNKNOWN" and len(said) <= _LONGEST and "\n" not in said:
            return said
    told = [str(one) for one in metadata.get_all("Classifier") or [] if str(one).startswith("License ::")]
    return "; ".join(one.rpartition(":: ")[2] for one in told) or _first_line(package) or UNSAID


def _first_line(package: Distribution) -> str:
    texts = [file for file in package.files or [] if file.name.upper().startswith(("LICENSE", "LICENCE", "COPYING"))]
    lines = [line.strip() for file in texts[:1] for line in file.read_text().splitlines()]
    return next((f"its licence begins: {line[:_LONGEST].strip()}" for line in lines if line), "")


def installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def main() -> None:
    print("# Licences\n")
    print("Of the packages in `torch-cpu.txt`, `lock-cpu.txt` and `lock-test.txt`, as their own metadata say.")
    print("Made by `python requirements/licences.py`. What `lock-gpu.txt` holds beyond them, NVIDIA's libraries for")
    print("the most part, is not installed where this was made, and not listed.\n")
    print("| package | version | licence |\n| --- | --- | --- |")
    for name, version in pins():
        found = installed(name)
        print(f"| {name} | {version} | {licence(found) if found else 'not installed here'} |")


if __name__ == "__main__":
    main()
