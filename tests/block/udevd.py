"""An udevd that only one command sees."""

import os

from tests.support.commands import Argv

# /run/udev and /dev/disk of its own, and a network namespace, since udev's events go through one.
# It makes its database when it first looks at a device. Loop devices are not watched: udevd would
# look at each again whenever somebody has written to it.
_PRIVATE_UDEVD = """
mkdir -p /run/udev /dev/disk
mount -t tmpfs tmpfs /run/udev
mount -t tmpfs tmpfs /dev/disk
mkdir /run/udev/rules.d /run/udev/data
echo 'KERNEL=="loop*", OPTIONS:="nowatch"' >/run/udev/rules.d/99-nowatch.rules
for udevd in /lib/systemd/systemd-udevd /usr/lib/systemd/systemd-udevd; do
    [ ! -x $udevd ] || break
done
$udevd >/dev/null 2>&1 &
udevd=$!
trap 'kill $udevd; wait $udevd 2>/dev/null || true' EXIT
until udevadm control --ping 2>/dev/null; do sleep 0.1; done
"$@"
"""


def udevd_argv(argv: Argv) -> tuple[str, ...]:
    """Wrap a command so that an udevd of its own runs as long as it does."""
    script = f"set -e\n{_PRIVATE_UDEVD}"
    words = [os.fspath(word) for word in argv]
    return ("unshare", "--mount", "--net", "sh", "-c", script, "sh", *words)
