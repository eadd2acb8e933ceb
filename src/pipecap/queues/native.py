"""The C module as queues use it: its functions and constants under plain names, bound directly.

The only module of this package that touches pipecap._native. csrc/pipecap.h describes each function and struct.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipecap._native import ffi, lib

if TYPE_CHECKING:
    from typing import TypeAlias

    # Pointers to the structs of pipecap.h, which cffi does not type.
    End: TypeAlias = Any
    Incoming: TypeAlias = Any
    Outgoing: TypeAlias = Any
    Port: TypeAlias = Any
    Progress: TypeAlias = Any
    SharedMemory: TypeAlias = Any
    Bytes: TypeAlias = Any  # a uint8_t *

# cffi's own.
new = ffi.new
gc = ffi.gc
cast = ffi.cast
sizeof = ffi.sizeof
buffer = ffi.buffer
from_buffer = ffi.from_buffer
release = ffi.release
unpack = ffi.unpack

# What a call returns besides 0 and -errno: enum pipecap_outcome.
END_OF_FILE: int = lib.PIPECAP_END_OF_FILE
CUT_SHORT: int = lib.PIPECAP_CUT_SHORT
TOO_LONG: int = lib.PIPECAP_TOO_LONG
BAD_HEADER: int = lib.PIPECAP_BAD_HEADER
READER_DIED: int = lib.PIPECAP_READER_DIED
WOULD_WAIT: int = lib.PIPECAP_WOULD_WAIT
LARGE_BYTES: int = lib.PIPECAP_LARGE_BYTES

BODY_HEAD: int = lib.PIPECAP_BODY_HEAD
BODY_TAIL: int = lib.PIPECAP_BODY_TAIL
CHUNK: int = lib.PIPECAP_CHUNK
SOMEBODY: int = lib.PIPECAP_SOMEBODY

# end.c
end_close: Callable[[End], int] = lib.pipecap_end_close
readable: Callable[[End, int], int] = lib.pipecap_readable

# receive.c
incoming_free: Callable[[Incoming], None] = lib.pipecap_incoming_free
receive: Callable[[End, Incoming, int], int] = lib.pipecap_receive
receive_now: Callable[[End, Incoming, int], int] = lib.pipecap_receive_now
keep_body: Callable[[Incoming, Bytes], int] = lib.pipecap_keep_body

# send.c
skip: Callable[[Outgoing, int], None] = lib.pipecap_skip
send: Callable[[End, Outgoing], int] = lib.pipecap_send
send_once: Callable[[End, bytes, int], int] = lib.pipecap_send_once

# lock.c
lock: Callable[[SharedMemory, int, int, int, int], int] = lib.pipecap_lock
unlock: Callable[[SharedMemory, int], int] = lib.pipecap_unlock
has_ended: Callable[[int], int] = lib.pipecap_has_ended
free_abandoned: Callable[[SharedMemory, int, int, int], int] = lib.pipecap_free_abandoned

# counters.c
take_slots: Callable[[SharedMemory, int, int], int] = lib.pipecap_take_slots
give_slots: Callable[[SharedMemory, int, int], int] = lib.pipecap_give_slots
add_unfinished: Callable[[SharedMemory, int], None] = lib.pipecap_add_unfinished
task_done: Callable[[SharedMemory, int], int] = lib.pipecap_task_done
all_done: Callable[[SharedMemory, int], int] = lib.pipecap_all_done

# queue.c
take_one: Callable[[Port, Progress], int] = lib.pipecap_take_one
put_now: Callable[[Port, Outgoing], int] = lib.pipecap_put_now
put_one_now: Callable[[Port, bytes, int, Progress], int] = lib.pipecap_put_one_now
put_three_now: Callable[[Port, bytes, int, bytes, int, bytes, int, Progress], int] = lib.pipecap_put_three_now
put: Callable[[Port, Outgoing], int] = lib.pipecap_put
get: Callable[[Port, Incoming, int, int, int, int], int] = lib.pipecap_get
get_body: Callable[[Port, Incoming, Bytes, int], int] = lib.pipecap_get_body
