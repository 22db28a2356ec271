"""Batch mode: waiting calls go to the provider as files of rows.

::

    settings    what may be set: how long to wait for more calls, how often to look, ...
    record      what is written down of a job, before anything of it is sent
    names       a row's name: what it asks, and for which time
    spool       the file of a job's rows, as it grows
    collector   the files that grow
    admission   how many jobs are at the provider at once
    control     calls of the provider's batch API, repeated where that is safe
    job         one job, from its file to its results
    ingest      what becomes of each row
    queue       all of one model: the jobs that wait, those that run
    live        how many items could still ask something
"""

from llmflow.batch.settings import Batch

__all__ = ["Batch"]
