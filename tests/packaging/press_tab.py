"""Types a line and the tab key into a real shell on a terminal, and looks at what it shows.

`press_tab.py SHELL`, with lines `COMMAND LINE => WHAT IS EXPECTED` as stdin. Of the standard library
alone, since it runs in bare root directories. What is shown ends with `LINE: ` and the command line as
the shell has completed it.
"""

import fcntl
import os
import pty
import re
import select
import struct
import sys
import tempfile
import termios
import time

SHELLS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "--private"],
}
START = {
    # What these systems load in every interactive shell.
    "bash": ". /usr/share/bash-completion/bash_completion; bind 'set show-all-if-ambiguous on'; PS1='> '",
    "zsh": "autoload -U compinit; compinit -D -u; bindkey -e; setopt no_beep; PS1='> '",
    "fish": "function fish_prompt; echo '> '; end; set -g fish_autosuggestion_enabled 0",
}
# Where none of its files is read, fish does not look into the directories for packages.
START["fish"] += (
    "; set -g fish_complete_path $fish_complete_path /usr/share/fish/vendor_completions.d"
)
SECONDS = 40.0
_CONTROL = re.compile(
    r"\x1b\[[0-9;?>=]*[a-zA-Z@]|\x1b[=>()][0B]?|\x1b\][^\x07\x1b]*(\x07|\x1b\\)|\x07"
)


class Shell:
    """A shell that runs on a terminal of its own."""

    def __init__(self, name: str) -> None:
        self.process, self.terminal = pty.fork()
        if self.process == 0:
            os.environ.update(TERM="xterm", LC_ALL="C.UTF-8", HOME=tempfile.mkdtemp())
            os.execvp(name, SHELLS[name])  # noqa: S606
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        self.answer(f"{START[name]}; echo rea''dy\r", r"^ready\s*$")

    def answer(self, keys: str, end: str) -> str:
        """Press keys and return what is shown until a line is this expression."""
        os.write(self.terminal, keys.encode())
        shown, late = "", time.monotonic() + SECONDS
        while not re.search(end, shown, re.MULTILINE):
            ready, _, _ = select.select([self.terminal], [], [], late - time.monotonic())
            if not ready:
                sys.exit(f"no answer to {keys!r}: {shown}")
            read = os.read(self.terminal, 65536).decode(errors="replace")
            shown = _CONTROL.sub("", shown + read).replace("\r", "\n")
        return shown

    def completed(self, line: str) -> str:
        """Type a line and the tab key, and return what is shown, at last the line as it is then."""
        # Keys that come while the shell is at work wait. The line is printed instead of run.
        return self.answer(f"{line}\t\x01echo 'LINE': \r", r"^LINE: .*\n")

    def close(self) -> None:
        """End the shell."""
        os.write(self.terminal, b"exit\r")
        os.close(self.terminal)
        os.waitpid(self.process, 0)


def main(name: str) -> None:
    """Complete the lines of stdin in one shell; end with an error if one shows something else."""
    shell = Shell(name)
    failed = False
    for each in sys.stdin.read().splitlines():
        line, _, expected = each.partition(" => ")
        shown = shell.completed(line)
        if expected not in shown:
            failed = True
            sys.stdout.write(f"{name}: {line}<TAB> does not show {expected}:\n{shown}\n")
    shell.close()
    sys.exit(failed)


if __name__ == "__main__":
    main(*sys.argv[1:])
