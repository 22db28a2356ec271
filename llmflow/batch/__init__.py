"""Batch mode: waiting calls go to the provider as files of rows.

::

    settings      what may be set: how long to wait for more calls, how often to look, ...
    record        what is written down of a job, before anything of it is sent
    names         a row's name: what it asks, and for which time
    spool         the file of a job's rows, as it grows
    collector     the files that grow
    admission     how many jobs are at the provider at once
    control       calls of the provider's batch API, repeated where that is safe
    steps         the steps of a job, and what their actions bring
    lifecycle     which step follows from another: a pure function
    job           one job: carries out its steps
    result_files  what a job has brought, and whether it is whole
    ingest        what becomes of each row
    queue         all of one model: the jobs that wait, those that run
"""

from llmflow.batch.settings import Batch

__all__ = ["Batch"]
