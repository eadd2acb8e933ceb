"""Protocols that differ from PROTOCOL.md in one rule, each with a case that shows why the rule is there."""

from dataclasses import dataclass

from model import changed_counters, changed_stream
from model.counter_memory import CounterCase
from model.counters import Counters
from model.explorer import Model
from model.memory import Case
from model.stream import Stream

_TWO_WRITERS = (((0, 1),), ((2,),))
_NO_DEATH = Case("no death", 2, (2, 3), (((0, 1),),), readers=1, deaths=0)
_ONE_DEATH = Case("one death", 3, (2, 3, 3), _TWO_WRITERS, readers=2, deaths=1)
_ONE_WRITER = Case("one death, one writer", 3, (2, 3), (((0, 1),),), readers=2, deaths=1)
_TWO_DEATHS = Case("two deaths", 1, (2, 1), (((0,),), ((1,),)), readers=2, deaths=2)
_THREE_DEATHS = Case("three deaths", 1, (1,), (((0,),),), readers=3, deaths=3)
_LARGE_FIRST = Case("no death, a large frame first", 3, (3, 2), (((0, 1),),), readers=1, deaths=0)
_ONE_CREDIT = CounterCase("one credit", 1, (1,), (), consumers=1, joiners=1, deaths=1, audits=1)
_NO_VICTIM = CounterCase("no death", 2, (2,), (), consumers=1, joiners=1, deaths=0, audits=1)
_ANEW = CounterCase("writer and reader die", 1, (1,), (), consumers=2, joiners=1, deaths=2, audits=1)
_ANEW_TWICE = CounterCase("writer, reader, its successor die", 1, (1,), (), consumers=2, joiners=1, deaths=3, audits=0)
_TWO_JOINERS = CounterCase("writer, auditor die", 1, (1,), (), consumers=0, joiners=2, deaths=2, audits=0)


@dataclass(frozen=True)
class Mutation:
    """A changed protocol, the words before the colon of the violation that a shortest run shows, and the model."""

    name: str
    breaks: str
    model: Model


MUTATIONS = (
    Mutation(
        "batch_put is published after the first byte",
        "counts",
        Stream(_ONE_DEATH, changed_stream.COUNT_AFTER_WRITE),
    ),
    Mutation(
        "writer_busy is cleared before written is published",
        "position",
        Stream(_NO_DEATH, changed_stream.WRITTEN_AFTER_BUSY),
    ),
    Mutation(
        "the rest of a batch is withdrawn, its frames in the pipe uncounted",
        "counts",
        Stream(_NO_DEATH, changed_stream.WITHDRAW_WITHOUT_COUNT),
    ),
    Mutation(
        "got changes after the flip that moves the boundary",
        "accounts",
        Stream(_ONE_WRITER, changed_stream.GOT_AFTER_FLIP),
    ),
    Mutation(
        "the next header is read into the place under way",
        "whole",
        Stream(_LARGE_FIRST, changed_stream.HEADER_OVER_HEADER),
    ),
    Mutation(
        "bytes go to private memory with limit as it was",
        "whole",
        Stream(_ONE_WRITER, changed_stream.LIMIT_AS_IT_WAS),
    ),
    Mutation(
        "the write lock is taken over amid a frame",
        "counts",
        Stream(_ONE_DEATH, changed_stream.TAKE_OVER_AMID_FRAME),
    ),
    Mutation(
        "a dead writer's lock is freed before the place behind its frame is valid",
        "whole",
        Stream(_TWO_DEATHS, changed_stream.UNLOCK_BEFORE_COMMIT),
    ),
    Mutation(
        "what is lost is counted before the flip",
        "accounts",
        Stream(_THREE_DEATHS, changed_stream.COUNT_BEFORE_FLIP),
    ),
    Mutation(
        "an audit does not wait for changes under way",
        "credits",
        Counters(_ONE_CREDIT, changed_counters.AUDIT_AMID_CHANGES),
    ),
    Mutation(
        "an audit mends by its second pass",
        "tasks",
        Counters(_NO_VICTIM, changed_counters.MEND_BY_SECOND_PASS),
    ),
    Mutation(
        "a credit comes back before the frame is out of the pipe",
        "credits",
        Counters(_ONE_CREDIT, changed_counters.CREDIT_BEFORE_FLIP),
    ),
    Mutation(
        "a new start changes the counters outside of a change",
        "credits",
        Counters(_ANEW, changed_counters.ANEW_WITHOUT_CHANGE),
    ),
    Mutation(
        "a new start counts its losses before it gives the credits back",
        "accounts",
        Counters(_ANEW_TWICE, changed_counters.COUNT_BEFORE_CREDITS),
    ),
    Mutation(
        "an audit counts its losses before it lowers unfinished",
        "accounts",
        Counters(_TWO_JOINERS, changed_counters.COUNT_BEFORE_TASKS),
    ),
)
