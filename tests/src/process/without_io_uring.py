"""Becomes the command of its arguments in a process where io_uring_setup fails: ERRNO COMMAND ARGUMENT...

A seccomp filter as container runtimes install it; it cannot be taken off and holds for all descendants.
"""

import ctypes
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW = 0x00050000, 0x7FFF0000
BPF_LD_W_ABS, BPF_JEQ_K, BPF_RET_K = 0x20, 0x15, 0x06
IO_URING_SETUP = 425  # on every architecture

program = b"".join(
    struct.pack("HBBI", code, yes, no, value)
    for code, yes, no, value in (
        (BPF_LD_W_ABS, 0, 0, 0),  # the number of the system call is the first word
        (BPF_JEQ_K, 0, 1, IO_URING_SETUP),
        (BPF_RET_K, 0, 0, SECCOMP_RET_ERRNO | int(sys.argv[1])),
        (BPF_RET_K, 0, 0, SECCOMP_RET_ALLOW),
    )
)
instructions = ctypes.create_string_buffer(program, len(program))
filter = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(instructions)))
prctl = ctypes.CDLL(None, use_errno=True).prctl
zero = ctypes.c_ulong(0)
if prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero) or prctl(
    PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), ctypes.byref(filter), zero, zero
):
    sys.exit(f"no filter could be installed: {os.strerror(ctypes.get_errno())}")
os.execv(sys.argv[2], sys.argv[2:])
