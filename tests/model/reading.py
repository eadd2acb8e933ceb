"""A reader: one frame a call under the read lock (receive.c), numbered as in PROTOCOL.md."""

from model import steps
from model.memory import (
    BOUNDARY,
    BYTES,
    CLOSED,
    CONSUMED,
    DELIVERED,
    DEPTH,
    GOT,
    INTERRUPTIONS,
    LIMIT,
    LOST,
    LOST_FRAME,
    MOVED,
    NOBODY,
    OUTCOME,
    PARTIAL,
    PIPE,
    PRIVATE,
    READER_BUSY,
    READING,
    REPORTED,
    STEP,
    TRUNCATED,
    TURN,
    VICTIMS,
    WHOLE,
    WRITING,
    Case,
    Memory,
    Transition,
    Violation,
    byte_of,
    frame_at,
    have,
    is_dead,
    is_small,
    other_place,
    own,
    place,
    set_place,
)


def is_skipping(m: Memory, p: int) -> bool:
    """Return whether bytes of the frame at the boundary are gone with another reader."""
    return not m[own(p) + PARTIAL] and have(m) > m[place(m) + LIMIT]


def decide(m: Memory, p: int, case: Case) -> None:
    """Choose the owner's next step by what is in the place: no step of its own, as it changes no word of the queue."""
    here, at = have(m), place(m)
    if m[LOST] and not m[own(p) + PARTIAL]:
        m[own(p) + STEP] = steps.REPORT_LOST
    elif here == 0:
        m[own(p) + STEP] = steps.ENTER_READ
    elif here >= case.frames[frame := frame_at(m, at + BYTES)]:
        m[own(p) + STEP] = steps.PREPARE
    elif is_small(case, frame) or m[own(p) + PARTIAL] or is_skipping(m, p):
        m[own(p) + STEP] = steps.ENTER_READ
    else:
        m[own(p) + STEP] = steps.LOWER_LIMIT


def lock(m: Memory, p: int, case: Case) -> bool:
    if m[READING] != NOBODY:
        return False
    m[READING] = p
    decide(m, p, case)
    return True


def lower_limit(m: Memory, p: int, case: Case) -> bool:
    m[place(m) + LIMIT] = have(m)
    m[own(p) + PARTIAL] = have(m)
    m[own(p) + STEP] = steps.ENTER_READ
    return True


def enter(m: Memory, p: int, case: Case) -> bool:
    m[READER_BUSY] = 1
    m[own(p) + STEP] = steps.IN_READ
    return True


def take(m: Memory, most: int) -> bytes:
    """Take bytes out of the pipe, at most `most`."""
    part = bytes(m[PIPE + 1 : PIPE + 1 + min(most, m[PIPE])])
    m[PIPE + 1 : PIPE + 1 + DEPTH] = m[PIPE + 1 + len(part) : PIPE + 1 + DEPTH] + bytes(len(part))
    m[PIPE] -= len(part)
    return part


def read(m: Memory, p: int, case: Case) -> bool:
    here, at = have(m), place(m)
    rest = case.frames[frame_at(m, at + BYTES)] - here if here else 0
    if m[own(p) + PARTIAL]:
        part = take(m, rest + 1)
        filled = here - m[own(p) + PARTIAL]
        m[PRIVATE + filled : PRIVATE + filled + len(part[:rest])] = part[:rest]
        m[other_place(m) + BYTES : other_place(m) + BYTES + len(part[rest:])] = part[rest:]
    elif is_skipping(m, p):
        part = take(m, rest)
    else:
        part = take(m, rest + 1)
        m[at + BYTES + here : at + BYTES + here + len(part)] = part
    m[own(p) + MOVED] = len(part)
    m[own(p) + STEP] = steps.DID_READ
    return True


def publish_consumed(m: Memory, p: int, case: Case) -> bool:
    m[CONSUMED] += m[own(p) + MOVED]
    m[own(p) + STEP] = steps.LEAVE_READ
    return True


def leave(m: Memory, p: int, case: Case) -> bool:
    m[READER_BUSY] = 0
    moved = m[own(p) + MOVED]
    m[own(p) + MOVED] = 0
    if moved:
        decide(m, p, case)
    else:
        m[own(p) + STEP] = steps.WAIT_FOR_BYTES
    return True


def find_bytes(m: Memory, p: int, case: Case) -> bool:
    if not m[PIPE]:
        return False
    m[own(p) + STEP] = steps.ENTER_READ
    return True


def end_round(m: Memory, p: int, case: Case) -> bool:
    """Return to Python without a frame, after a timeout or for a signal handler: what came is in the place."""
    if not m[INTERRUPTIONS] or m[own(p) + PARTIAL]:
        return False
    m[INTERRUPTIONS] -= 1
    m[own(p) + STEP] = steps.UNLOCK_READING
    return True


def close(m: Memory, p: int, case: Case) -> bool:
    """Close the read end with a frame partly in private memory: the next reader skips it."""
    if not m[INTERRUPTIONS] or not m[own(p) + PARTIAL]:
        return False
    m[INTERRUPTIONS] -= 1
    m[VICTIMS] += 1
    m[PRIVATE : PRIVATE + DEPTH] = bytes(DEPTH)
    m[own(p) + PARTIAL] = CLOSED
    m[own(p) + STEP] = steps.UNLOCK_READING
    return True


def find_writer_dead(m: Memory, p: int, case: Case) -> bool:
    if not have(m) or not is_dead(m, m[WRITING]) or m[PIPE]:
        return False
    m[WRITING] = p
    m[own(p) + STEP] = steps.PREPARE_CUT
    return True


def prepare(m: Memory, p: int, case: Case) -> bool:
    at, other = place(m), other_place(m)
    size = case.frames[frame_at(m, at + BYTES)]
    if not m[own(p) + PARTIAL] and not is_skipping(m, p):
        extra = m[at + BYTES + size : at + BYTES + have(m)]
        m[other + BYTES : other + BYTES + DEPTH] = extra + bytes(DEPTH - len(extra))
    set_place(m, other, m[at + BOUNDARY] + size, m[at + GOT] + 1)
    m[own(p) + STEP] = steps.FLIP
    return True


def check_bytes(m: Memory, p: int, case: Case) -> int:
    """Return the frame that a reader is about to return, if it has all its bytes."""
    at = place(m)
    frame = frame_at(m, at + BYTES)
    expected = bytes(byte_of(frame, offset) for offset in range(case.frames[frame]))
    found = m[at + BYTES : at + BYTES + min(have(m), m[own(p) + PARTIAL] or have(m), len(expected))]
    if m[own(p) + PARTIAL]:
        found += m[PRIVATE : PRIVATE + len(expected) - len(found)]
    if found != expected:
        raise Violation("whole: a reader returns a frame with bytes that are not its own")
    return frame


def flip_turn(m: Memory) -> None:
    """Make the other place the valid one. What nobody reads any more is cleared, so that fewer states differ."""
    at = place(m)
    m[TURN] = 1 - m[TURN]
    set_place(m, at, 0, 0)
    m[at + BYTES : at + BYTES + DEPTH] = bytes(DEPTH)
    m[PRIVATE : PRIVATE + DEPTH] = bytes(DEPTH)


def flip(m: Memory, p: int, case: Case) -> bool:
    m[own(p) + OUTCOME] = LOST_FRAME if is_skipping(m, p) else WHOLE + check_bytes(m, p, case)
    flip_turn(m)
    m[own(p) + PARTIAL] = 0
    m[own(p) + STEP] = steps.UNLOCK_READING
    return True


def report_lost(m: Memory, p: int, case: Case) -> bool:
    m[LOST] -= 1
    m[own(p) + OUTCOME] = LOST_FRAME
    m[own(p) + STEP] = steps.UNLOCK_READING
    return True


def return_outcome(m: Memory, p: int, case: Case) -> None:
    """Note for the checks what the caller gets."""
    outcome = m[own(p) + OUTCOME]
    m[own(p) + OUTCOME] = 0
    if outcome >= LOST_FRAME:
        m[REPORTED] += 1
    elif outcome:
        frame = outcome - WHOLE
        if m[DELIVERED] >> frame & 1:
            raise Violation("at most once: a frame is returned a second time")
        for batches in case.batches:
            order = [each for frames in batches for each in frames]
            if frame in order and any(m[DELIVERED] >> later & 1 for later in order[order.index(frame) :]):
                raise Violation("in order: a frame is returned after a later one of its writer")
        m[DELIVERED] |= 1 << frame


def unlock(m: Memory, p: int, case: Case) -> bool:
    m[READING] = NOBODY
    return_outcome(m, p, case)
    m[own(p) + STEP] = steps.FINISHED if m[own(p) + PARTIAL] else steps.WANT_TO_READ
    m[own(p) + PARTIAL] = 0
    return True


def prepare_cut(m: Memory, p: int, case: Case) -> bool:
    set_place(m, other_place(m), m[CONSUMED], m[place(m) + GOT])
    m[own(p) + STEP] = steps.FLIP_CUT
    return True


def flip_cut(m: Memory, p: int, case: Case) -> bool:
    m[own(p) + OUTCOME] = LOST_FRAME if is_skipping(m, p) else TRUNCATED
    flip_turn(m)
    m[own(p) + PARTIAL] = 0
    m[own(p) + STEP] = steps.SETTLE_BATCH_PUT
    return True


TRANSITIONS: dict[int, tuple[Transition, ...]] = {
    steps.WANT_TO_READ: (Transition("R1", "own the read lock", lock),),
    steps.LOWER_LIMIT: (Transition("R2", "lower limit", lower_limit, unseen=True),),
    steps.ENTER_READ: (Transition("R3", "set reader_busy", enter),),
    steps.IN_READ: (Transition("R4", "readv(2)", read),),
    steps.DID_READ: (Transition("R5", "publish consumed", publish_consumed),),
    steps.LEAVE_READ: (Transition("R6", "clear reader_busy", leave),),
    steps.WAIT_FOR_BYTES: (
        Transition("R7", "poll(2) finds bytes", find_bytes),
        Transition("R8", "end the round", end_round),
        Transition("R9", "close the read end", close),
        Transition("R10", "own the write lock of a dead writer", find_writer_dead),
    ),
    steps.PREPARE: (Transition("R11", "prepare the other place", prepare, unseen=True),),
    steps.FLIP: (Transition("R12", "flip turn", flip),),
    steps.REPORT_LOST: (Transition("R13", "count a loss as reported", report_lost, unseen=True),),
    steps.UNLOCK_READING: (Transition("R14", "free the read lock, return", unlock),),
    steps.PREPARE_CUT: (Transition("R15", "prepare the place behind a frame cut short", prepare_cut, unseen=True),),
    steps.FLIP_CUT: (Transition("R16", "flip turn behind a frame cut short", flip_cut),),
}
