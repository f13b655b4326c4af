"""Fail when a file in git's index holds a download address of a package registry.

Registries differ from machine to machine, so an address that works here is a broken link
elsewhere. What is read is the index, that is, what the next commit will hold: in uv.lock no
address at all may stand; elsewhere none of a package file or a package index, nor the host
of an index that this machine uses. Findings name the file and the line, not the address.
"""

import configparser
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

ADDRESS = re.compile(rb"[a-z][a-z0-9+.-]*://[^\s\"'<>`)\]}]*", re.IGNORECASE)
PACKAGE_FILE = re.compile(rb"\.(?:whl|tar\.gz)(?:[?#]|[.,;:]*$)", re.IGNORECASE)
PACKAGE_INDEX = re.compile(rb"/\+?simple(?![\w-])|/packages/")
REGISTRY_IN_LOCK = re.compile(r'\bregistry = "([^"]*)"')
INDEX_VARIABLES = (
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_DEFAULT_INDEX",
    "UV_EXTRA_INDEX_URL",
)
PIP_OPTIONS = ("index-url", "extra-index-url")
# Too common a word to be called an address: README.md speaks of TensorBoard on it.
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def index_files() -> Iterator[tuple[str, bytes]]:
    """Path and content of every file in the index of the repository we stand in."""
    listing = _git("ls-files", "--stage", "-z").decode(errors="surrogateescape")
    entries = [entry.split("\t", 1) for entry in listing.split("\0") if entry]
    blobs = [(path, facts.split()[1]) for facts, path in entries if not facts.startswith("160000")]
    output = _git("cat-file", "--batch", stdin="".join(f"{name}\n" for _, name in blobs).encode())
    start = 0
    for path, name in blobs:
        header_end = output.index(b"\n", start)
        header = output[start:header_end].split()
        if len(header) != 3:
            raise ValueError(f"git has no content for {path} ({name}): {header!r}")
        start = header_end + 1 + int(header[2]) + 1
        yield path, output[header_end + 1 : start - 1]


def index_hosts(environ: Iterable[tuple[str, str]], files: Iterable[Path], lock: Path) -> set[str]:
    """Hosts of the package indexes in use: by environment, pip's files and uv's last lock."""
    environment = dict(environ)
    values = [environment.get(name, "") for name in INDEX_VARIABLES]
    for file in files:
        values += _pip_options(file)
    if lock.is_file():
        values += REGISTRY_IN_LOCK.findall(lock.read_text(encoding="utf-8"))
    hosts = {_host(word) for value in values for word in value.split()}
    return hosts - LOOPBACK - {""}


def pip_files(environment: dict[str, str]) -> list[Path]:
    """Where pip would look for its settings, whether or not the files exist."""
    home = Path.home()
    files = [Path("/etc/pip.conf"), home / ".pip/pip.conf", home / ".config/pip/pip.conf"]
    if "PIP_CONFIG_FILE" in environment:
        files.append(Path(environment["PIP_CONFIG_FILE"]))
    if "VIRTUAL_ENV" in environment:
        files.append(Path(environment["VIRTUAL_ENV"]) / "pip.conf")
    return files


def find_addresses(path: str, content: bytes, hosts: set[str]) -> Iterator[tuple[int, str]]:
    """Line number and reason of each line with an address; binary files have no lines."""
    if b"\0" in content:
        return
    is_lock = Path(path).name == "uv.lock"
    names = _any_host(hosts)
    for number, line in enumerate(content.split(b"\n"), start=1):
        if is_lock and b"://" in line:
            yield number, "an address in the lock; run tools/setup, then git add it again"
        elif names and names.search(line):
            yield number, "the host of a package index that this machine uses"
        elif b"://" in line:
            for address in ADDRESS.findall(line):
                if PACKAGE_FILE.search(address):
                    yield number, "the address of a package file"
                elif PACKAGE_INDEX.search(address):
                    yield number, "the address of a package index"


def main() -> int:
    """Report every finding on standard error; the exit status is 1 if there are any."""
    environment = dict(os.environ)
    lock = Path(_git("rev-parse", "--show-toplevel").decode().rstrip("\n")) / "uv.lock"
    hosts = index_hosts(environment.items(), pip_files(environment), lock)
    findings = [
        f"{path}:{number}: {reason}"
        for path, content in index_files()
        for number, reason in find_addresses(path, content, hosts)
    ]
    print(*findings, sep="\n", end="\n" if findings else "", file=sys.stderr)
    return 1 if findings else 0


def _git(*arguments: str, stdin: bytes = b"") -> bytes:
    return subprocess.run(
        ["git", *arguments], input=stdin, stdout=subprocess.PIPE, check=True
    ).stdout


def _pip_options(file: Path) -> list[str]:
    # Percent signs in a password are no interpolation.
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.read(file, encoding="utf-8")
    return [
        value
        for section in parser.values()
        for option, value in section.items()
        if option.replace("_", "-") in PIP_OPTIONS
    ]


def _host(word: str) -> str:
    # uv also takes `name=address`.
    _, separator, rest = word.partition("://")
    return urlsplit(f"//{rest}").hostname or "" if separator else ""


def _any_host(hosts: set[str]) -> re.Pattern[bytes] | None:
    if not hosts:
        return None
    choices = "|".join(re.escape(host) for host in sorted(hosts))
    return re.compile(rf"(?<![\w.-])(?:{choices})(?![\w-]|\.\w)".encode(), re.IGNORECASE)


if __name__ == "__main__":
    sys.exit(main())
