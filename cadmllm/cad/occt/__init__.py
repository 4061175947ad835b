"""The one package that talks to OpenCASCADE; everybody else goes through `cadmllm.cad.kernel`.

OCP ships no stubs, so type checkers skip this folder. A null shape handed to an OpenCASCADE builder kills the process: what a
builder returns passes `faces.whole` before it is used again.
"""
