"""Measure, explain, size and un-jam the kernel pipes under Python's multiprocessing queues.

Public names only. Each is loaded from its home when first used, so `import pipecap` costs next to nothing in a program
that may never need it.
"""

from importlib import import_module

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, which costs the import of typing
if TYPE_CHECKING:
    from pipecap import version
    from pipecap.diagnosis.diagnose import diagnose as diagnose
    from pipecap.diagnosis.finding import Diagnosis as Diagnosis
    from pipecap.diagnosis.finding import Finding as Finding
    from pipecap.diagnosis.rescue import Rescue as Rescue
    from pipecap.diagnosis.rescue import rescue as rescue
    from pipecap.diagnosis.watch import Watch as Watch
    from pipecap.diagnosis.watch import watch as watch
    from pipecap.errors import AccessDenied as AccessDenied
    from pipecap.errors import BadFrame as BadFrame
    from pipecap.errors import DrainTimeout as DrainTimeout
    from pipecap.errors import InvalidSize as InvalidSize
    from pipecap.errors import InvalidValue as InvalidValue
    from pipecap.errors import LostItem as LostItem
    from pipecap.errors import NoScratchPipe as NoScratchPipe
    from pipecap.errors import NotAPipe as NotAPipe
    from pipecap.errors import NotPicklable as NotPicklable
    from pipecap.errors import PipecapError as PipecapError
    from pipecap.errors import PoolBroken as PoolBroken
    from pipecap.errors import ProcessGone as ProcessGone
    from pipecap.errors import ResizeRefused as ResizeRefused
    from pipecap.errors import TruncatedItem as TruncatedItem
    from pipecap.errors import Unsupported as Unsupported
    from pipecap.errors import WorkerLost as WorkerLost
    from pipecap.host import HostReport as HostReport
    from pipecap.host import report as report
    from pipecap.kernel.fit import Fit as Fit
    from pipecap.kernel.fit import fit as fit
    from pipecap.kernel.fit import items_that_fit as items_that_fit
    from pipecap.kernel.fit import pickled_size as pickled_size
    from pipecap.kernel.limits import Headroom as Headroom
    from pipecap.kernel.limits import HostLimits as HostLimits
    from pipecap.kernel.limits import headroom as headroom
    from pipecap.kernel.limits import limits as limits
    from pipecap.kernel.pipes import PipeState as PipeState
    from pipecap.kernel.probe import Measurement as Measurement
    from pipecap.kernel.probe import capacity_curve as capacity_curve
    from pipecap.kernel.probe import measure as measure
    from pipecap.proc.listing import LivePipe as LivePipe
    from pipecap.proc.listing import list_pipes as list_pipes
    from pipecap.queues.context import Context as Context
    from pipecap.queues.context import get_context as get_context
    from pipecap.queues.drain import drain as drain
    from pipecap.queues.drain import join as join
    from pipecap.queues.queue import Discarded as Discarded
    from pipecap.targets import capacity as capacity
    from pipecap.targets import pipes_of as pipes_of
    from pipecap.targets import resize as resize
    from pipecap.targets import state as state
    from pipecap.targets import unread as unread
    from pipecap.tuning.cells import Cell as Cell
    from pipecap.tuning.recommendation import Recommendation as Recommendation
    from pipecap.tuning.recommendation import recommend as recommend
    from pipecap.tuning.sweep import Sweep as Sweep
    from pipecap.tuning.sweep import tune as tune

    __version__ = version.VERSION

_HOMES = {
    "pipecap.errors": """
        AccessDenied BadFrame DrainTimeout InvalidSize InvalidValue LostItem NoScratchPipe NotAPipe NotPicklable
        PipecapError PoolBroken ProcessGone ResizeRefused TruncatedItem Unsupported WorkerLost
    """,
    "pipecap.host": "HostReport report",
    "pipecap.kernel.fit": "Fit fit items_that_fit pickled_size",
    "pipecap.kernel.limits": "Headroom HostLimits headroom limits",
    "pipecap.kernel.pipes": "PipeState",
    "pipecap.kernel.probe": "Measurement capacity_curve measure",
    "pipecap.diagnosis.diagnose": "diagnose",
    "pipecap.diagnosis.finding": "Diagnosis Finding",
    "pipecap.proc.listing": "LivePipe list_pipes",
    "pipecap.diagnosis.rescue": "Rescue rescue",
    "pipecap.diagnosis.watch": "Watch watch",
    "pipecap.tuning.recommendation": "Recommendation recommend",
    "pipecap.queues.context": "Context get_context",
    "pipecap.queues.drain": "drain join",
    "pipecap.queues.queue": "Discarded",
    "pipecap.tuning.cells": "Cell",
    "pipecap.tuning.sweep": "Sweep tune",
    "pipecap.targets": "capacity pipes_of resize state unread",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}
__all__ = [*_HOME_OF]


def __getattr__(name: str) -> object:
    if name == "__version__":
        value: object = import_module("pipecap.version").VERSION
    elif name in _HOME_OF:
        value = getattr(import_module(_HOME_OF[name]), name)
    else:
        raise AttributeError(f"module 'pipecap' has no attribute {name!r}")
    globals()[name] = value  # from now on a plain attribute
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF, "__version__"})
