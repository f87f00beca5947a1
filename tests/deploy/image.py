"""What the Dockerfile makes, without Docker: its own steps, and its processes, in Linux namespaces on this machine.

`scripts/image` runs the steps to the letter. In tests uv installs instead of pip, from the same locks and with hashes
checked, and bytecode is taken from the environment of the tests, where that has the same files.

Everything outside of Python, `/opt` and `/build` is this machine's and not the base image's. Python is bound where
the base image has it, at `/usr/local`. What is made here is no image, and nobody has pulled or pushed one.

A process runs as it would in a container without any right: number 1 of its own process namespace, as the USER of the
Dockerfile, without capabilities, on file systems that are all read-only. Needs Linux and root.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.deploy.dockerfile import Stage, stages

ROOT = Path(__file__).resolve().parents[2]
CLEAN = {"HOME": "/root", "PATH": "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
FOUND = {"LD_LIBRARY_PATH": "/usr/local/lib"}
"""Python may be linked with a library in a directory that only root may read; in the base image all may read it."""
INSTALL_PATIENCE = 300
"""Seconds: it may have to download some 30 MB."""
READ_ONLY = r"""
awk '$5 !~ "^/(proc|sys|dev)(/|$)" {print $5}' /proc/self/mountinfo | while read -r point; do
    mount -o remount,bind,ro "$point" 2>/dev/null || true
done
"""


def quicker(step: str) -> str:
    """A step with uv instead of pip, and with no bytecode compiled."""
    uv = shutil.which("uv") or str(ROOT / ".venv" / "bin" / "uv")
    step = re.sub(
        r"python -m pip --python (\S+)/bin/python install", rf"{uv} pip install --quiet --python \1/bin/python", step
    )
    return re.sub(r"\S+ -m compileall .*", "rm -f /opt/trunkline/.lock", step.replace("--no-compile", ""))


def why_not() -> str:
    """Why this cannot be done here; empty if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "making the image's tree takes Linux and root"
    if not shutil.which("unshare") or not shutil.which("setpriv"):
        return "making the image's tree takes util-linux: unshare, setpriv"
    tried = subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True)
    return "" if tried.returncode == 0 else f"no namespaces here: {tried.stderr.strip()}"


@dataclass(frozen=True)
class Image:
    """The file tree of the last stage, below a directory of ours."""

    directory: Path
    to_the_letter: bool = True
    dockerfile: Path = ROOT / "Dockerfile"

    @cached_property
    def stages(self) -> list[Stage]:
        return stages(self.dockerfile)

    @property
    def last(self) -> Stage:
        return self.stages[-1]

    @property
    def tree(self) -> Path:
        """What is at /opt."""
        return self.directory / "opt"

    @property
    def user(self) -> tuple[int, int]:
        """USER, by its numbers."""
        uid, _, gid = self.last.one("USER").text.partition(":")
        return int(uid), int(gid)

    def build(self) -> None:
        """Run every step of every stage, in order, as the Dockerfile has it.

        Raises:
            subprocess.CalledProcessError: a step failed; its output went to standard error.
        """
        for name in ("opt", "build", "etc"):
            (self.directory / name).mkdir(parents=True)
        subprocess.run(["cp", "--archive", "/etc/.", self.directory / "etc"], check=True)  # for useradd
        steps = [step for stage in self.stages for step in self._steps(stage)]
        script = "\n".join(["set -eu", *self._mounts(), *steps])
        subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
            env=CLEAN
            | {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "UV_"))},
            check=True,
            stdout=sys.stderr,
            timeout=INSTALL_PATIENCE,
        )
        if not self.to_the_letter:
            self._take_bytecode()

    def _take_bytecode(self) -> None:
        """Of files of the same size, with their times, by which Python tells; without any, processes start slowly."""
        ours = Path(sysconfig.get_path("purelib"))
        theirs = self.tree / "trunkline" / ours.relative_to(sys.prefix)
        for folder, _, names in os.walk(theirs):
            there = Path(folder).relative_to(theirs)
            source = (ROOT / "src" if there.parts[:1] == ("trunkline",) else ours) / there
            if not (source / "__pycache__").is_dir():
                continue
            for name in names:
                same = source / name
                if same.is_file() and same.stat().st_size == (Path(folder) / name).stat().st_size:
                    os.utime(Path(folder) / name, ns=(same.stat().st_atime_ns, same.stat().st_mtime_ns))
            shutil.copytree(source / "__pycache__", Path(folder) / "__pycache__", dirs_exist_ok=True)

    def _mounts(self) -> list[str]:
        """Python where the base image has it; ours at /opt, /build and /etc."""
        build = self.directory / "build"
        return [
            f"mount --bind {sys.base_prefix} /usr/local",
            f"mount --bind {self.tree} /opt",
            f"mount --bind {self.directory / 'etc'} /etc",
            # There is no /build on this machine: what the steps call so is below /opt while they run.
            f"mkdir -p /opt/.build && mount --bind {build} /opt/.build",
        ]

    def _steps(self, stage: Stage) -> list[str]:
        directory, steps = "/", []
        for each in stage.instructions:
            if each.name == "WORKDIR" and stage is not self.last:
                directory = each.text.replace("/build", "/opt/.build")
            elif each.name == "ENV":
                steps += [f'export {name}="{value}"' for name, value in (word.split("=", 1) for word in each.words)]
            elif each.name == "RUN":
                steps.append(f"(cd {directory} && {each.text if self.to_the_letter else quicker(each.text)})")
            elif each.name == "COPY" and "from" not in each.options:
                *sources, target = each.words
                steps.append(self._copy(sources, target, directory))
        return steps

    def _copy(self, sources: Sequence[str], target: str, directory: str) -> str:
        """COPY: of a folder what is in it, of a file the file."""
        commands = []
        for source in sources:
            origin = shlex.quote(str(ROOT / source))
            if (ROOT / source).is_dir():
                commands.append(f"mkdir -p {target} && cp -R {origin}/. {target}")
            else:
                commands.append(f"cp {origin} {target}")
        return f"(cd {directory} && {' && '.join(commands)})"

    def run(
        self, command: Sequence[str], environment: dict[str, str], output: int | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process of a container; what is given is its parent, which ends as it does."""
        uid, gid = self.user
        # Engines take HOME from /etc/passwd.
        variables = CLEAN | FOUND | {"HOME": "/nonexistent"} | self.last.variables | environment
        variables["PATH"] = self.last.variables["PATH"].replace("$PATH", CLEAN["PATH"])
        inner = shlex.join(
            [
                *("setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--no-new-privs"),
                # Another user: the kernel forgets what unshare had set, and the process would outlive its parent.
                *("--pdeathsig=KILL", "--inh-caps=-all", "--bounding-set=-all", "env", "-i"),
                *(f"{name}={value}" for name, value in variables.items()),
                *command,
            ]
        )
        script = "\n".join(["set -eu", *self._mounts()[:3], READ_ONLY, "cd /", f"exec {inner}"])
        return subprocess.Popen(
            [
                *(
                    "unshare",
                    "--mount",
                    "--propagation",
                    "private",
                    "--pid",
                    "--fork",
                    "--kill-child",
                    "--mount-proc",
                ),
                *("sh", "-c", script),
            ],
            env=CLEAN,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )

    def exec(self, process: subprocess.Popen[bytes], command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command beside a process, in its namespaces, as its user."""
        uid, gid = self.user
        return subprocess.run(
            [
                *("nsenter", f"--target={inside(process)}", "--mount", "--pid", "setpriv", f"--reuid={uid}"),
                *(f"--regid={gid}", "--clear-groups", "--no-new-privs", *command),
            ],
            env=environment_of(process),
            capture_output=True,
            text=True,
            timeout=30,
        )


def inside(process: subprocess.Popen[bytes]) -> int:
    """The number that process 1 of a container has on this machine; 0 while there is none."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0]) if children else 0


def environment_of(process: subprocess.Popen[bytes]) -> dict[str, str]:
    """The variables of process 1 of a container: docker exec has the same."""
    text = Path(f"/proc/{inside(process)}/environ").read_text()
    return dict(line.split("=", 1) for line in text.split("\0") if line)
