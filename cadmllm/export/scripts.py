"""The scripts of the model card: a few lines that answer a text with other people's tools, without cadmllm.

`{...}` are filled in by `script`; what is filled in is written as a Python literal, whatever a name holds.
"""

from __future__ import annotations

from pathlib import Path

from cadmllm.cad.vocabulary import END
from cadmllm.corpus.types import CAD_SIZE

TEXT = "A rectangular plate with four corner holes."
TORCH_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_ANSWER = """
said = [{{"role": "user", "content": {text}}}]
prompt = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=True, return_tensors="pt").to(device)
"""
ADAPTER = (
    """\
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

folder, base = ".", {base}
device = "cuda" if torch.cuda.is_available() else "cpu"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.{dtype}, tie_word_embeddings=False)
model.resize_token_embeddings({rows}, mean_resizing=False)
model = PeftModel.from_pretrained(model, folder).to(device).eval()
"""
    + _ANSWER
    + """\
answer = model.generate(**prompt, generation_config=GenerationConfig.from_pretrained(folder))
print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :]))
"""
)
MERGED = (
    """\
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."
device = "cuda" if torch.cuda.is_available() else "cpu"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").to(device).eval()
"""
    + _ANSWER
    + """\
answer = model.generate(**prompt)
print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :]))
"""
)
GGUF = """\
import numpy as np
from llama_cpp import Llama, LogitsProcessorList

llm = Llama({file}, n_ctx={context}, verbose=False)
prompt = "<|im_start|>user\\n" + {text} + "<|im_end|>\\n<|im_start|>assistant\\n"
prompt = llm.tokenize(prompt.encode(), add_bos=False, special=True)


def cad_items_alone(ids, scores):
    scores[:{first}] = scores[{behind}:] = -np.inf
    return scores


answer = []
for token in llm.generate(prompt, temp=0.0, repeat_penalty=1.0, logits_processor=LogitsProcessorList([cad_items_alone])):
    answer.append(token)
    if token == {end} or len(answer) == {longest}:
        break
print(llm.detokenize(answer, special=True).decode())
"""


def script(
    kind: str, dtype: str, *, base: str, text_size: int, rows: int, longest: int, context: int, gguf: str = "model.gguf"
) -> str:
    """The script of an export, to be run in its folder. It prints the CAD items of a greedy answer to `TEXT`.

    Args:
        kind, dtype: of the export.
        base: hub name of the base model, or the folder that the user is to have it in.
        text_size: id of the first added item.
        rows: of the resized matrices.
        longest: tokens of an answer, end included.
        context: tokens that prompt and answer may have together.
        gguf: name of the file.
    """
    if kind == "adapter":
        return ADAPTER.format(base=_literal(base), dtype=TORCH_NAMES[dtype], rows=rows, text=_literal(TEXT))
    if kind == "merged":
        return MERGED.format(text=_literal(TEXT))
    return GGUF.format(
        file=_literal(Path(gguf).name),
        context=context,
        text=_literal(TEXT),
        first=text_size,
        behind=text_size + CAD_SIZE,
        end=text_size + END,
        longest=longest,
    )


def _literal(text: str) -> str:
    """A Python string literal in ASCII, in double quotes where it holds none."""
    written = ascii(text)
    return written if '"' in text else f'"{written[1:-1]}"'
