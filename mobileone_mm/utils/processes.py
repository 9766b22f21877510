"""Which of several processes speaks for all."""
import os
import time

from torch import distributed

# As torchrun, slurm, Open MPI and other MPIs say the global rank; torchrun's first, as it may run under slurm.
_RANKS = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK', 'PMI_RANK')
_SECONDS_FOR_OTHERS = 2


def reports_error() -> bool:
    """Whether this process is the one that prints an error which ends it.

    Before torch.distributed is initialized, all processes do the same and meet the same errors: the first one prints.
    After that, an error may be of one process only: the one that gets here first prints.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return next((os.environ[name] for name in _RANKS if name in os.environ), '0') == '0'
    try:
        # torch has no public way to the store, and a collective would wait for processes that are well.
        store = distributed.distributed_c10d._get_default_store()
        is_first = store.add('mobileone_mm_errors', 1) == 1
        if distributed.get_rank() == 0:  # the store may end with this process, and others may be about to ask it
            end = time.monotonic() + _SECONDS_FOR_OTHERS
            while store.add('mobileone_mm_errors', 0) < distributed.get_world_size() and time.monotonic() < end:
                time.sleep(0.05)
    except RuntimeError:  # the store is gone, or the process group is
        return True
    return is_first
