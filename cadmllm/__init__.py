"""cadmllm: train, measure and export a language model that writes editable parametric CAD."""

__version__ = "0.1.0"
