"""The precision that a processor is fast in."""

import torch

from digitsum.errors import InputError


def native_precision(accelerator: str) -> str:
    """`bf16-mixed` where the processor has bfloat16 units, else `32-true`.

    Elsewhere bfloat16 is emulated: on a CPU a training step then takes three to twenty times as long.

    Args:
        accelerator: as Lightning's Trainer takes it: `auto`, `cpu`, `gpu`, `cuda` or `mps`.

    Raises:
        InputError: an accelerator of which this is not known.
    """
    if accelerator in ("auto", "gpu"):
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        accelerator = "cpu" if found is None else found.type
    if accelerator == "cuda":
        native = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    elif accelerator == "cpu":
        capabilities = torch.cpu.get_capabilities()
        native = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    elif accelerator == "mps":
        native = False  # float32 is what its kernels are tested in
    else:
        raise InputError(
            f"trainer.precision: expected auto, cpu, gpu, cuda or mps as accelerator of precision=auto, got "
            f"{accelerator}; give trainer.precision=32-true, say"
        )
    return "bf16-mixed" if native else "32-true"
