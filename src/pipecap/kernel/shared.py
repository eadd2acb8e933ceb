"""The memory that the processes of one of pipecap's queues share, as another process may read it.

struct pipecap_shared in csrc/pipecap.h, whose layout the C module gives; csrc/PROTOCOL.md has the meaning of its words.
"""

from __future__ import annotations

from pipecap._native import ffi, lib

SIZE = ffi.sizeof("struct pipecap_shared")
# What a thread that sleeps on a word waits for.
_WORDS = {ffi.offsetof("struct pipecap_shared", word): word for word in ("writing", "reading", "credits", "all_done")}


def word_at(offset: int) -> str:
    """Return the word at an offset: "writing", "reading" (locks), "credits", "all_done" (JoinableQueue.join); or ""."""
    return _WORDS.get(offset, "")


def owner(data: bytes, word: str) -> int | None:
    """Return the PID, in its own namespace, of the owner of a lock; None where the lock is free."""
    shared = ffi.cast("struct pipecap_shared *", ffi.from_buffer(data))
    index = getattr(shared, word) & ~lib.PIPECAP_WAITERS
    if not 0 < index < len(shared.participants):
        return None
    return int(shared.participants[index].pid)
