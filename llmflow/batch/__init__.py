"""Batch mode: waiting calls go to the provider as files of rows.

::

    settings      what may be set: how long to wait for more calls, how often to look, ...
    modes         which mode answers a call; batch_mode, deadline: its parts
    record        what is written down of a job, before anything of it is sent, and where
    spool         the file of a job's rows, as it grows, and their names
    collector     the files that grow, and what goes before them
    scheduler     all of one model: the jobs that wait, those that run
    job_limits    how many jobs are at the provider at once, and what it has refused
    steps         the steps of a job, and what their actions bring
    lifecycle     which step follows from another: a pure function
    job           one job: carries out its steps
    client        calls of the provider's batch API, repeated where that is safe
    result_files  what a job has brought, and whether it is whole
    outcomes      what becomes of each row, who waits for it, where it is recorded
"""

from llmflow.batch.settings import Batch

__all__ = ["Batch"]
