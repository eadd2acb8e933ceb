"""A state of the stream model: one bytearray, one byte a word.

First the words of shared memory, as PROTOCOL.md names them, then the pipe, the private memory of the read lock's owner,
words that only the checks read, and the processes.
"""

from collections.abc import Callable
from dataclasses import dataclass

from model import steps

Memory = bytearray
NOBODY = 0  # a lock word of 0 is free
DEPTH = 4  # bytes of a place, of the pipe and of private memory that the model has room for
BLOCK = 15  # `limit` of a place into which a reader only reads

(
    WRITING,
    READING,
    WRITER_BUSY,
    READER_BUSY,
    WRITTEN,
    CONSUMED,
    BATCH_BEGIN,
    BATCH_END,
    BATCH_PUT,
    PUT,
    TURN,
    LOST,
) = range(12)

PLACES = 12
BOUNDARY, GOT, LIMIT, BYTES = range(4)  # words of a place
PLACE_WIDTH = BYTES + DEPTH

PIPE = PLACES + 2 * PLACE_WIDTH  # how many bytes are in it, then the bytes
PRIVATE = PIPE + 1 + DEPTH  # payload bytes in memory of the read lock's owner

# Only the checks read these.
DEATHS = PRIVATE + DEPTH  # how many processes may still die, ...
INTERRUPTIONS = DEATHS + 1  # ... and calls end early
DELIVERED = DEATHS + 2  # a bit for each frame
SENT = DEATHS + 3  # a bit for each frame that was whole in the pipe
PUBLISHED = DEATHS + 4  # frames
REPORTED = DEATHS + 5  # errors that a living process raised
SILENT = DEATHS + 6  # frames or errors that a process died with, between two steps
VICTIMS = DEATHS + 7  # readers that died or closed
DROPPED = DEATHS + 8  # 1: the pipe was emptied after both sides died in a system call
UNSEEN = DEATHS + 9  # frames that an audit finds missing: the rest of a dead writer's batch

PROCESSES = DEATHS + 10
# Words of a process: the next step, bytes that its system call moved, the outcome to return, the owner it takes over
# from, at which byte of the frame private memory begins (0: none is in use), batches sent, bytes of the batch under way
# that an earlier one took along, and two values it remembers.
STEP, MOVED, OUTCOME, VICTIM, PARTIAL, BATCHES, STARTS_AT, NOTE, OTHER = range(9)
PROCESS_WIDTH = 9

WHOLE, LOST_FRAME, TRUNCATED = 1, 14, 15  # outcomes: WHOLE + the frame's number, or an error

CLOSED = 255  # in PARTIAL: the read end is closed


@dataclass(frozen=True)
class Case:
    """What the processes do, and what may happen to them. A frame is one byte of header and a payload."""

    name: str
    capacity: int
    frames: tuple[int, ...]  # bytes of each, header included; 2: small, read into the place; 3: large
    batches: tuple[tuple[tuple[int, ...], ...], ...]  # of each writer: batches of frame numbers
    readers: int
    deaths: int
    interruptions: int = 0

    @property
    def writers(self) -> int:
        """Return how many processes write; they are 1 to `writers`, the readers follow."""
        return len(self.batches)

    @property
    def processes(self) -> range:
        """Return the indices in the table of participants."""
        return range(1, 1 + self.writers + self.readers)


Action = Callable[[Memory, int, Case], bool]


@dataclass(frozen=True)
class Transition:
    """One atomic step of PROTOCOL.md. `action` returns False, with nothing changed, where its guard does not hold.

    No other living process reads or writes the words of an `unseen` step, so its order among their steps is immaterial.
    """

    number: str
    text: str
    action: Action
    unseen: bool = False


class Violation(Exception):
    """An invariant that does not hold; the text names it."""


def own(process: int) -> int:
    """Return where the words of a process begin."""
    return PROCESSES + PROCESS_WIDTH * (process - 1)


def place(m: Memory) -> int:
    """Return where the valid place begins."""
    return PLACES + PLACE_WIDTH * m[TURN]


def other_place(m: Memory) -> int:
    """Return where the place begins that a flip of `turn` makes valid."""
    return PLACES + PLACE_WIDTH * (1 - m[TURN])


def have(m: Memory) -> int:
    """Return how many bytes came out of the pipe from the boundary on."""
    return (m[CONSUMED] - m[place(m) + BOUNDARY]) & 255


def is_dead(m: Memory, process: int) -> bool:
    """Return what a liveness check of a lock's owner returns."""
    return process != NOBODY and m[own(process) + STEP] == steps.DEAD


def byte_of(frame: int, offset: int) -> int:
    """Return byte `offset` of a frame, as it goes through the pipe: never 0."""
    return frame * DEPTH + offset + 1


def frame_at(m: Memory, at: int) -> int:
    """Return the frame whose header is at `at`."""
    frame, offset = divmod(m[at] - 1, DEPTH)
    if m[at] == 0 or offset:
        raise Violation("in step: a header is expected where the stream has something else")
    return frame


def is_small(case: Case, frame: int) -> bool:
    """Return whether a frame is read into the place as a whole."""
    return case.frames[frame] == 2


def set_place(m: Memory, at: int, boundary: int, got: int) -> None:
    """Write a place that is not valid yet: its bytes stay."""
    m[at + BOUNDARY] = boundary
    m[at + GOT] = got
    m[at + LIMIT] = BLOCK


def first_state(case: Case, writer_step: int, reader_step: int) -> Memory:
    """Return the state of a new queue."""
    m = bytearray(PROCESSES + PROCESS_WIDTH * len(case.processes))
    m[PLACES + LIMIT] = m[PLACES + PLACE_WIDTH + LIMIT] = BLOCK
    m[DEATHS], m[INTERRUPTIONS] = case.deaths, case.interruptions
    for process in case.processes:
        m[own(process) + STEP] = writer_step if process <= case.writers else reader_step
    return m
