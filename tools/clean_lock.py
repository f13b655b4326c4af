"""Write the address-free form of a uv.lock: lock on standard input, result on standard output.

Git runs this as the clean filter of uv.lock (`tools/setup` configures it), so that the
committed lock holds names and versions but no addresses of one machine's package index.
uv resolves such a lock again with its versions as preferences, and writes it back whole.
"""

import re
import sys
from collections.abc import Iterator

REGISTRY = re.compile(r'\bregistry = "[^"]*"')


def clean(lock: str) -> str:
    """The lock without addresses; a lock that is clean already comes back as it is."""
    return "".join(_kept_lines(lock))


def _kept_lines(lock: str) -> Iterator[str]:
    in_wheels = in_metadata = False
    for line in re.findall(r"[^\n]*\n|[^\n]+", lock):
        if in_wheels:
            in_wheels = not line.startswith("]")
            continue
        if line.startswith("["):
            # uv holds the root package's requirements against pyproject.toml; where they are
            # missing it resolves, and that is what brings the addresses back.
            in_metadata = line.startswith(("[package.metadata]", "[package.metadata."))
        if in_metadata or line.startswith("sdist = "):
            continue
        if line.startswith("wheels = ["):
            in_wheels = not line.rstrip().endswith("]")
            continue
        yield REGISTRY.sub('registry = "."', line)


def main() -> None:
    """Filter standard input to standard output, bytes in and bytes out."""
    lock = sys.stdin.buffer.read().decode()
    sys.stdout.buffer.write(clean(lock).encode())


if __name__ == "__main__":
    main()
