"""The proofs of `cadmllm doctor --deep`, made on the code that trains, in a process of their own (`python -m cadmllm.doctor.proving`).

Nothing of `run.dir` is touched: what is written goes to a temporary folder on the same disk.
"""
