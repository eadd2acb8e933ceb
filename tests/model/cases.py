"""What .ci explores: each case exhaustively, for its sizes."""

from model.counter_memory import CounterCase
from model.memory import Case

_BATCH_AND_LARGE = (((0, 1),), ((2,),))  # a batch of a small and a large frame; another writer's large one

STREAM = (
    Case("stream: 2 deaths, 1 early return", 3, (2, 3, 3), _BATCH_AND_LARGE, readers=2, deaths=2, interruptions=1),
    Case("stream: 3 deaths", 3, (2, 3, 3), _BATCH_AND_LARGE, readers=2, deaths=3),
    Case("stream: 2 deaths, pipe of 2 bytes", 2, (2, 3, 3), _BATCH_AND_LARGE, readers=2, deaths=2),
    Case("one frame: 4 deaths of 4 processes", 2, (3,), (((0,),),), readers=3, deaths=4),
    Case("two frames: 4 deaths of 4 processes", 2, (2, 2), (((0,),), ((1,),)), readers=2, deaths=4),
)

COUNTERS = (
    CounterCase("credits: 2 direct puts, 2 deaths", 1, (2,), (), consumers=1, joiners=1, deaths=2, audits=1),
    CounterCase("credits: 2 puts in line, 2 deaths", 1, (), (2,), consumers=1, joiners=1, deaths=2, audits=1),
    CounterCase("credits: both kinds, 1 death", 1, (1,), (1,), consumers=1, joiners=1, deaths=1, audits=0),
    CounterCase("credits: 2 consumers, 3 deaths", 1, (1,), (), consumers=2, joiners=1, deaths=3, audits=1),
    CounterCase("credits: a queue without tasks", 1, (1,), (), 2, joiners=1, deaths=3, audits=1, tasks=False),
    CounterCase("credits: 2 joiners, 2 deaths", 1, (1,), (), consumers=1, joiners=2, deaths=2, audits=1),
)
