"""Whether a run resumes, and from where: mmengine's Runner has no public way to ask."""


def is_resuming(runner) -> bool:
    """Whether a run goes on from a checkpoint with its optimizer, schedules and iteration."""
    return runner._resume


def named_checkpoint(runner) -> str | None:
    """The checkpoint that the config or command line names, to resume from or to start from."""
    return runner._load_from
