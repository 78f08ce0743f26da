"""Let the kernel end this process when it opens an internet socket, also in C code."""

import ctypes
import platform
import socket

# Number of the system call `socket`, by machine.
SOCKET_CALLS = {"x86_64": 41, "aarch64": 198}
ALLOW, KILL_PROCESS = 0x7FFF0000, 0x80000000
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # of the Berkeley packet filter
SET_SECCOMP, FILTER_MODE, SET_NO_NEW_PRIVILEGES = 22, 2, 38
NUMBER, FIRST_ARGUMENT = 0, 16  # offsets in seccomp_data; the low half on little-endian machines


class Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("value", ctypes.c_uint32),
    )


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(Instruction)))


def forbid_network() -> bool:
    """Forbid internet sockets from now on; return False where this is not possible."""
    call = SOCKET_CALLS.get(platform.machine())
    if call is None or platform.system() != "Linux":
        return False
    instructions = (Instruction * 7)(
        (LOAD, 0, 0, NUMBER),
        (JUMP_IF_EQUAL, 0, 3, call),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (JUMP_IF_EQUAL, 2, 0, socket.AF_INET),
        (JUMP_IF_EQUAL, 1, 0, socket.AF_INET6),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, KILL_PROCESS),
    )
    libc = ctypes.CDLL(None, use_errno=True)
    program = Program(len(instructions), instructions)
    libc.prctl(SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    return libc.prctl(SET_SECCOMP, FILTER_MODE, ctypes.byref(program), 0, 0) == 0
