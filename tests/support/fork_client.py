"""Has the command run by a fork server, in the place of this process: `fork_client.py SERVER WORD...`.

Descriptors, working directory, mounts, umask and environment of the command are those of this process,
which ends as the command does. It is run with -I and -S and loads next to nothing.
"""

import marshal
import os
import sys
from _socket import AF_UNIX, SCM_RIGHTS, SHUT_WR, SOCK_STREAM, SOL_SOCKET
from _socket import socket as raw_socket  # what `socket` adds takes longer than all the rest
from array import array


def main(server: str, words: list[str]) -> int:
    call = raw_socket(AF_UNIX, SOCK_STREAM)
    call.connect(f"\0{server}")
    given = array(
        "i", (0, 1, 2, os.open(".", os.O_PATH), os.open("/proc/self/ns/mnt", os.O_RDONLY))
    )
    call.sendmsg((b"!",), ((SOL_SOCKET, SCM_RIGHTS, given),))
    umask = os.umask(0)
    call.sendall(marshal.dumps((words, dict(os.environ), umask)))
    call.shutdown(SHUT_WR)
    code = int(call.recv(10))
    if code < 0:
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
