"""The narrow waist: runs are executed on one side of it and read on the other.

Submodules are imported by name, so that reading records needs neither torch nor a process pool.
"""
