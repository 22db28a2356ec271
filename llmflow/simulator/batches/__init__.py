"""The simulated batch APIs: files and jobs that outlive a connection.

A job lives by the clock alone: what it is at a moment follows from its record, the settings
and the time, so that it goes on after the simulator was stopped and started again.
"""
