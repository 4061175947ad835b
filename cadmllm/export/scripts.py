"""The scripts of the model card: a few lines that answer a text with other people's tools, without cadmllm.

`{...}` are filled in by `script`; what is filled in is written as a Python literal, whatever a name holds.
"""

from __future__ import annotations

from pathlib import Path

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
# the adapter brings both matrices, also where the base has one for both: that lm_head is new, as transformers says, is right
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
from llama_cpp import Llama, LlamaGrammar, LogitsProcessorList

llm = Llama({file}, n_ctx={context}, verbose=False)
first, count = (int(llm.metadata[f"cadmllm.{{name}}"]) for name in ("first_token", "token_count"))


def cad_only(ids, scores):  # what the scores of other tokens should be it never learnt
    scores[:first] = scores[first + count :] = -np.inf
    return scores


prompt = "<|im_start|>user\\n" + {text} + "<|im_end|>\\n<|im_start|>assistant\\n"
prompt = llm.tokenize(prompt.encode(), add_bos=False, special=True)
rules = {{"grammar": LlamaGrammar.from_file("cad.gbnf"), "logits_processor": LogitsProcessorList([cad_only])}}
answer = llm.create_completion(prompt, max_tokens={longest}, temperature=0.0, repeat_penalty=1.0, **rules)["choices"][0]
print(answer["text"] + ("<cad:end>" if answer["finish_reason"] == "stop" else ""))
"""


def script(kind: str, dtype: str, *, base: str, rows: int, longest: int, context: int, gguf: str = "model.gguf") -> str:
    """The script of an export, to be run in its folder. It prints the CAD items of a greedy answer to `TEXT`:
    of the model alone, or, in llama.cpp, under the grammar that lies beside the file.

    Args:
        kind, dtype: of the export.
        base: hub name of the base model, or the folder that the user is to have it in.
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
        longest=longest,
    )


def _literal(text: str) -> str:
    """A Python string literal in ASCII, in double quotes where it holds none."""
    written = ascii(text)
    return written if '"' in text else f'"{written[1:-1]}"'
