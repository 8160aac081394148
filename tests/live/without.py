#!/usr/bin/python3
"""Runs a program where system calls fail as if the kernel, or a file system, did not have them:

    without.py CALL[:ARGUMENT]=ERRNO ... -- PROGRAM ARGUMENT...

ARGUMENT: only where the call's first one is this."""

import ctypes
import errno
import os
import sys

ALLOW, FAIL = 0x7FFF0000, 0x00050000  # SCMP_ACT_ALLOW, SCMP_ACT_ERRNO
EQUAL = 4  # SCMP_CMP_EQ
NO_NEW_PRIVILEGES = 3  # SCMP_FLTATR_CTL_NNP


class Comparison(ctypes.Structure):
    _fields_ = [("argument", ctypes.c_uint), ("operator", ctypes.c_int),
                ("first", ctypes.c_uint64), ("second", ctypes.c_uint64)]


def refuse(library, state, rule):
    call, _, error = rule.partition("=")
    name, _, argument = call.partition(":")
    number = library.seccomp_syscall_resolve_name(name.encode())
    conditions = [Comparison(0, EQUAL, int(argument), 0)] if argument else []
    array = (Comparison * 1)(*conditions)
    action = FAIL | getattr(errno, error)
    return library.seccomp_rule_add_array(state, action, number, len(conditions), array)


def main():
    split = sys.argv.index("--")
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    state = ctypes.c_void_p(library.seccomp_init(ALLOW))
    failed = library.seccomp_attr_set(state, NO_NEW_PRIVILEGES, 0) != 0
    for rule in sys.argv[1:split]:
        failed = refuse(library, state, rule) != 0 or failed
    if failed or library.seccomp_load(state) != 0:
        sys.exit("cannot refuse these system calls")
    os.execvp(sys.argv[split + 1], sys.argv[split + 1:])


if __name__ == "__main__":
    main()
