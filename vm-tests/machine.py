"""A QEMU guest as a context manager: started on entry, ended on every path, judged by what it says."""

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

PROGRAM = "qemu-system-x86_64"
RESULT_PORT = "org.bound-images.result"
RESULT_END = "RESULT-END"
CONSOLE = "console=ttyS0"
_ALIVE = "GUEST-IS-ALIVE"
_PROBE_SECONDS = 8
_CONSOLE_LINES = 25
# Of two processors under emulation, QEMU 7 panics one guest in twelve, and of its newer vector
# instructions the C library's string functions return nonsense.
_GOOD_EMULATION = (8, 0)
# The kernel counts ticks of the timer in a loop of instructions, and panics when there are too few of
# them: so it is where the emulator gets no processor for a moment. With KVM it knows to leave that.
_NO_COUNTING = "no_timer_check"
# The first whose machines can be built without a keyboard controller.
_OLDEST = (7, 0)

Accelerator = Literal["kvm", "tcg"]


class QemuError(Exception):
    """There is no QEMU here that the cases can use; the message says what to do."""


class GuestError(AssertionError):
    """The guest has not come to the end of what it was to say; the message has its last words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """What QEMU starts, in the place of a boot loader."""

    image: Path
    initramfs: Path
    arguments: str


@dataclass(frozen=True, slots=True)
class Drive:
    """A disk image; the guest sees them in this order as /dev/vda, /dev/vdb, ..."""

    image: Path
    writable: bool = False
    """Whether what the guest writes is in the image afterwards, and not dropped."""

    @property
    def format(self) -> str:
        """QEMU's name for it."""
        return "qcow2" if self.image.suffix == ".qcow2" else "raw"


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """What a machine consists of. It has no network card."""

    kernel: Kernel
    drives: Sequence[Drive] = ()
    credentials: Sequence[str] = ()
    """System credentials for systemd, `io.systemd.credential...:NAME=VALUE`."""
    mebibytes: int = 1024


class Machine:
    """A running guest. Its console and what it reported stay behind in a directory."""

    def __init__(self, guest: Guest, accelerator: Accelerator, artefacts: Path) -> None:
        """Prepare only; `artefacts` is made when the guest starts."""
        self._guest = guest
        self._accelerator = accelerator
        self.console = artefacts / "console.log"
        self.result = artefacts / "result.txt"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start the guest."""
        self.console.parent.mkdir(parents=True, exist_ok=True)
        self.result.write_text("")
        argv = qemu_argv(self._guest, self._accelerator, self.result)
        # The signal ends the guest even if the test run itself is killed.
        with self.console.open("wb") as console:
            self._process = subprocess.Popen(
                ("setpriv", "--pdeathsig", "KILL", *argv),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the guest, if it has not ended by itself."""
        self.cut_power()

    def cut_power(self) -> None:
        """End the guest at once, with everything that it has not written yet."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    def finish(self, seconds: float) -> str:
        """Wait for the guest to power off; return what it reported, raise GuestError if not all."""
        self._wait(seconds, "")
        text = self.said()
        if not text.rstrip().endswith(RESULT_END):
            raise GuestError(f"the guest ended without {RESULT_END}{self._last_words()}")
        return text

    def await_line(self, beginning: str, seconds: float) -> None:
        """Wait until the guest has reported a whole line; raises GuestError if it ends first."""
        self._wait(seconds, beginning)
        if not self._has_line(beginning):
            raise GuestError(f"the guest ended without {beginning}{self._last_words()}")

    def _has_line(self, beginning: str) -> bool:
        return f"\n{beginning}" in f"\n{self.said()}".rpartition("\n")[0]

    def said(self) -> str:
        """What the guest has reported so far."""
        return self.result.read_text(errors="replace")

    def _wait(self, seconds: float, line: str) -> None:
        if self._process is None:
            raise GuestError("the guest was not started")
        deadline = time.monotonic() + seconds
        while self._process.poll() is None:
            if line and self._has_line(line):
                return
            if time.monotonic() > deadline:
                raise GuestError(f"the guest is not done after {seconds:.0f} s{self._last_words()}")
            time.sleep(0.05)

    def _last_words(self) -> str:
        lines = self.console.read_text(errors="replace").splitlines()[-_CONSOLE_LINES:]
        shown = "\n".join((*self.said().splitlines()[-_CONSOLE_LINES:], "console:", *lines))
        return f"; it said:\n{shown}\n(all of it: {self.console})"


def qemu_argv(guest: Guest, accelerator: Accelerator, result: Path) -> tuple[str, ...]:
    """The command line; nothing is taken from the machine's own QEMU settings."""
    words = [
        PROGRAM, "-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
        "-nic", "none", "-machine", "q35,sata=off,smbus=off,vmport=off,i8042=off",
        *_processor(accelerator), "-m", str(guest.mebibytes), "-serial", "stdio",
        "-kernel", str(guest.kernel.image), "-initrd", str(guest.kernel.initramfs),
        "-append", guest.kernel.arguments + (f" {_NO_COUNTING}" if accelerator == "tcg" else ""),
        "-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
        "-chardev", f"file,id=result,path={_quoted(result)}",
        "-device", f"virtserialport,chardev=result,name={RESULT_PORT}",
    ]  # fmt: skip
    for drive in guest.drives:
        snapshot = "off" if drive.writable else "on"
        image = _quoted(drive.image)
        words += ["-drive", f"if=virtio,format={drive.format},snapshot={snapshot},file={image}"]
    for credential in guest.credentials:
        words += ["-smbios", f"type=11,value={credential.replace(',', ',,')}"]
    return tuple(words)


def _quoted(path: Path) -> str:
    return str(path).replace(",", ",,")


def _processor(accelerator: Accelerator) -> tuple[str, ...]:
    if accelerator == "kvm":
        return ("-accel", "kvm", "-cpu", "host", "-smp", "2")
    count = "2" if _version() >= _GOOD_EMULATION else "1"
    return ("-accel", "tcg,thread=multi", "-cpu", "qemu64,-cx16,-svm", "-smp", count)


def _require_qemu() -> None:
    try:
        version = _version()
    except (OSError, subprocess.CalledProcessError) as error:
        raise QemuError(f"{PROGRAM} does not run ({error}): install qemu-system-x86") from error
    if version < _OLDEST:
        found, oldest = (".".join(map(str, each)) for each in (version, _OLDEST))
        raise QemuError(f"{PROGRAM} is version {found}: install {oldest} or newer")


def _version() -> tuple[int, ...]:
    told = subprocess.check_output((PROGRAM, "--version"), text=True)
    found = re.search(r"version (\d+)\.(\d+)", told)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def find_accelerator(image: Path, initramfs: Path, artefacts: Path) -> Accelerator:
    """KVM if a guest really lives with it: inside of virtual machines it is often there and broken.

    The initramfs needs nothing but /bin/busybox. Raises QemuError.
    """
    _require_qemu()
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    words = f'rdinit=/bin/busybox -- sh -c "echo {_ALIVE}; busybox poweroff -f"'
    kernel = Kernel(image=image, initramfs=initramfs, arguments=f"{CONSOLE} quiet {words}")
    with Machine(Guest(kernel=kernel), "kvm", artefacts) as machine:
        with contextlib.suppress(GuestError):  # it has nothing to report: its console tells
            machine.finish(_PROBE_SECONDS)
        return "kvm" if _ALIVE in machine.console.read_text(errors="replace") else "tcg"
