"""Runs in the Python that has llama-cpp-python (never imports cadmllm): reads a task as JSON, writes what llama.cpp made of it.

    python llama_runner.py task.json answer.npz

The task: {"model": file, "texts": [[text, parse_special], ...], "ids": [[id, ...], ...], "greedy": {"prompt": [id, ...], "most":
count}, "grammar": text or null, "sequences": [[id, ...], ...], "chats": [text, ...], "quantized": file or null}. answer.json
beside answer.npz holds the ids of texts, the pieces of all tokens, the greedy answers, the prompts of chats and, a sequence each,
how many of its tokens the grammar let pass; answer.npz holds logits.
"""

import ctypes
import json
import sys
from pathlib import Path

import llama_cpp  # ty: ignore[import-not-found]
import numpy as np


def logits_of(model, ids):
    """[T, V] of one sequence from an empty cache."""
    model.reset()
    model.eval(ids)
    return np.array(model.scores[: len(ids)], dtype=np.float32)


class Grammar:
    """llama.cpp's own grammar sampler over a vocabulary."""

    def __init__(self, vocab, size, text):
        self.sampler = llama_cpp.llama_sampler_init_grammar(vocab, text.encode(), b"root")
        assert self.sampler, "llama.cpp cannot read the grammar"
        self.size = size

    def allowed(self, ids):
        """Which of some ids may come next."""
        data = (llama_cpp.llama_token_data * len(ids))()
        for place, token in enumerate(ids):
            data[place].id, data[place].logit = int(token), 0.0
        array = llama_cpp.llama_token_data_array(data=data, size=len(ids), selected=-1, sorted=False)
        llama_cpp.llama_sampler_apply(self.sampler, ctypes.byref(array))
        return [int(data[place].id) for place in range(array.size) if data[place].logit > -1e30]

    def accept(self, token):
        llama_cpp.llama_sampler_accept(self.sampler, int(token))

    def restart(self):
        llama_cpp.llama_sampler_reset(self.sampler)


def greedy(model, prompt, most, suppressed, grammar, end):
    """The best token that is not suppressed (and that the grammar lets pass), until the end token."""
    model.reset()
    model.eval(prompt)
    answer = []
    while len(answer) < most:
        row = np.array(model.scores[model.n_tokens - 1], dtype=np.float32)
        row[suppressed] = -np.inf
        order = np.argsort(-row)[: len(row) - len(suppressed)]
        if grammar is not None:
            order = grammar.allowed(order)
        token = max(map(int, order), key=lambda k: row[k])
        answer.append(token)
        if token == end:
            break
        if grammar is not None:
            grammar.accept(token)
        model.eval([token])
    return answer


def main(task, target):
    task = json.loads(Path(task).read_text())
    if task.get("quantized"):  # what the program llama-quantize does
        options = llama_cpp.llama_model_quantize_default_params()
        options.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
        assert llama_cpp.llama_model_quantize(task["model"].encode(), task["quantized"].encode(), ctypes.byref(options)) == 0
        task["model"] = task["quantized"]
    model = llama_cpp.Llama(
        task["model"], n_ctx=512, logits_all=True, verbose=False, n_threads=1, n_threads_batch=1, n_batch=512,
        type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32,
    )  # fmt: skip
    vocab = llama_cpp.llama_model_get_vocab(model.model)
    size = llama_cpp.llama_vocab_n_tokens(vocab)
    count = ctypes.c_int32()
    listed = llama_cpp.llama_cpp._lib.llama_vocab_get_suppress_tokens
    listed.restype, listed.argtypes = ctypes.POINTER(ctypes.c_int32), [ctypes.c_void_p, ctypes.POINTER(ctypes.c_int32)]
    found = listed(vocab, ctypes.byref(count))
    suppressed = [found[k] for k in range(count.value)]
    pieces = [model.detokenize([token], special=False).decode("utf-8", "replace") for token in range(size)] if size < 5000 else []
    answer = {
        "tokens": [model.tokenize(text.encode(), add_bos=True, special=special) for text, special in task["texts"]],
        "pieces": pieces,
        "suppressed": suppressed,
        "end": model.token_eos(),
        "metadata": {key: value for key, value in model.metadata.items() if len(value) < 4000},
    }
    logits = {str(k): logits_of(model, ids) for k, ids in enumerate(task["ids"])}
    text = task.get("grammar")
    if task.get("greedy"):
        asked = task["greedy"]
        for name, grammar in (("free", None), ("ruled", Grammar(vocab, size, text) if text else None)):
            answer[name] = greedy(model, asked["prompt"], asked["most"], suppressed, grammar, model.token_eos())
    passes = []
    for ids in task.get("sequences") or []:
        grammar = Grammar(vocab, size, text)
        passed = 0
        for token in ids:
            if not grammar.allowed([token]):
                break
            passed += 1
            if token != model.token_eos():
                grammar.accept(token)
        passes.append(passed)
    answer["passed"] = passes
    chat = llama_cpp.llama_chat_format.Jinja2ChatFormatter(
        template=model.metadata.get("tokenizer.chat_template", ""), eos_token="", bos_token=""
    )
    answer["chats"] = [chat(messages=[{"role": "user", "content": text}]).prompt for text in task.get("chats") or []]
    np.savez(target, **logits)
    Path(target).with_suffix(".json").write_text(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
