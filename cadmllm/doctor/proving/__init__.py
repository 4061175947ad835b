"""The proofs of `cadmllm doctor --deep`, made on the code that trains, in a process of their own.

Nothing of `run.dir` is touched: what is written goes to a temporary folder on the same disk.
"""
