"""Connects to the first card, as other programs do, and holds it until its input
ends."""

import ctypes
import sys

pcsc = ctypes.CDLL("libpcsclite.so.1")
SYSTEM, SHARED, T0_OR_T1 = 2, 2, 3


def call(name, *arguments):
    status = getattr(pcsc, name)(*arguments) & 0xFFFFFFFF
    if status:
        sys.exit(f"{name}: {status:08x}")


context, card = ctypes.c_long(), ctypes.c_long()
length, protocol = ctypes.c_ulong(4096), ctypes.c_ulong()
names = ctypes.create_string_buffer(length.value)
call("SCardEstablishContext", ctypes.c_ulong(SYSTEM), None, None, ctypes.byref(context))
call("SCardListReaders", context, None, names, ctypes.byref(length))
modes = ctypes.c_ulong(SHARED), ctypes.c_ulong(T0_OR_T1)
call("SCardConnect", context, names, *modes, ctypes.byref(card), ctypes.byref(protocol))
print("held", flush=True)
sys.stdin.read()
