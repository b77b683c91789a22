"""The files of deploy/: each is read by what reads it, and starts what is there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from blemish.cli.commands.backup import BackupOptions
from blemish.cli.commands.serve import ServeOptions
from blemish.cli.commands.token import TokenOptions
from blemish.cli.parser import parse

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
OPTIONS: dict[str, type] = {"serve": ServeOptions, "backup": BackupOptions, "token": TokenOptions}


def read(name: str) -> str:
    return (DEPLOY / name).read_text()


def options_of(words: Sequence[str]) -> Any:
    """What a command line means; one that `blemish` would refuse fails."""
    command, *arguments = words
    return parse(command, OPTIONS[command], [word for word in arguments if not word.startswith("$")])


def test_the_units_of_systemd_are_valid_and_start_what_is_there(tmp_path: Path):
    for name in ("blemish.service", "blemish-backup.service", "blemish-backup.timer"):
        text = read(name).replace("/opt/blemish/bin/blemish", sys.executable)  # which is there
        (tmp_path / name).write_text(re.sub(r"^(User|Group)=.*\n", "", text, flags=re.M))
    if shutil.which("systemd-analyze"):
        units = sorted(map(str, tmp_path.iterdir()))
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert not [line for line in done.stderr.splitlines() if "blemish" in line]
    starts = [
        shlex.split(line)[1:]
        for name in ("blemish.service", "blemish-backup.service")
        for line in re.findall(r"^ExecStart=(.*)$", read(name), re.M)
    ]
    serve, copy, check = map(options_of, starts)
    assert serve.log == "json"
    assert serve.folder == copy.folder
    assert copy.to == check.to
    assert check.check


def instructions(text: str) -> list[tuple[str, str]]:
    lines = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", text, flags=re.M)).splitlines()
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines if line.strip()]


def test_the_containerfile_copies_what_is_there_and_starts_the_station():
    steps = instructions(read("Containerfile"))
    known = "FROM WORKDIR COPY RUN USER VOLUME EXPOSE STOPSIGNAL HEALTHCHECK ENTRYPOINT CMD"
    assert {name for name, _ in steps} <= set(known.split())
    for name, rest in steps:
        if name == "COPY" and "--from" not in rest:
            *sources, _ = rest.split()
            assert all((ROOT / source).exists() for source in sources), rest
    extras = re.search(r"'\.\[([\w,]+)\]'", read("Containerfile"))
    assert extras is not None
    declared = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.M)
    assert set(extras[1].split(",")) <= set(declared)
    by_name = dict(steps)
    assert yaml.safe_load(by_name["ENTRYPOINT"]) == ["/opt/blemish/bin/blemish"]
    options = options_of(yaml.safe_load(by_name["CMD"]))
    assert str(options.folder).startswith(by_name["VOLUME"])
    assert int(by_name["EXPOSE"]) == options.port
    assert f":{options.port}/healthz" in by_name["HEALTHCHECK"]
    user = [rest for name, rest in steps if name == "USER"]
    assert user == ["10001"]  # never root
    made = next(rest for name, rest in steps if name == "RUN" and "useradd" in rest)
    assert "--uid 10001" in made


def test_compose_names_what_it_has():
    compose = yaml.safe_load(read("compose.yaml"))
    assert set(compose) == {"services", "volumes"}
    station, database = compose["services"]["station"], compose["services"]["database"]
    options = options_of(station["command"])
    user, host, name = re.fullmatch(r"postgresql://(\w+)@(\w+)/(\w+)", options.database or "").groups()  # type: ignore[union-attr]
    assert host in compose["services"]
    assert (database["environment"]["POSTGRES_USER"], database["environment"]["POSTGRES_DB"]) == (user, name)
    assert station["environment"]["PGPASSWORD"] == database["environment"]["POSTGRES_PASSWORD"]
    assert station["ports"] == [f"127.0.0.1:{options.port}:{options.port}"]  # a proxy brings https
    mounted = dict(place.split(":")[:2] for place in (*station["volumes"], *database["volumes"]))
    named = {source for source in mounted if not source.startswith(".")}
    assert named == set(compose["volumes"])
    assert options.model[0].is_relative_to(mounted["./models"])
    assert options.folder.is_relative_to(mounted["station"])
    assert (DEPLOY / station["build"]["context"] / station["build"]["dockerfile"]).exists()
    assert set(station["depends_on"]) == {"database"}
    token = re.search(r"run --rm station (token .*)$", read("compose.yaml"), re.M)
    assert token is not None
    assert options_of(token[1].split()).folder == options.folder


def test_the_service_of_windows_starts_the_station():
    service = ElementTree.fromstring(read("blemish-windows.xml"))
    assert service.tag == "service"
    arguments = service.findtext("arguments") or ""
    options = options_of(arguments.split())
    assert (str(options.folder), options.log) == ("C:\\blemish\\station", "json")
    executable = service.findtext("executable") or ""
    assert executable.startswith(service.findtext("workingdirectory") or "?")


@pytest.mark.parametrize("name", [file.name for file in DEPLOY.iterdir()])
def test_each_file_is_named_in_the_page(name: str):
    assert f"deploy/{name}" in (ROOT / "docs" / "operating.md").read_text()
