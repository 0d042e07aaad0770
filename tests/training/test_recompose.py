"""What a reader in training says of the glyphs that it cut out."""

import lightning as L
import numpy as np
import torch

import digitsum
from digitsum.data import recomposition
from digitsum.data.canvases import Layout, compose
from digitsum.data.glyphs import load_glyph_pools
from digitsum.data.recomposition import Recomposition
from digitsum.data.shards import open_shards
from digitsum.training.recompose import read_glyphs


def test_a_reader_finds_the_digit_of_a_glyph_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(recomposition, "_BATCH", 50)
    images, placements = compose(Layout(), load_glyph_pools("bundled")["train"], seed=0, stream=0, start=0, count=60)
    np.save(tmp_path / "data0.npy", images)
    np.save(tmp_path / "lab0.npy", placements.sums)
    module = digitsum.load_model("reader").train()
    counts = module.net.counts
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    digits = torch.from_numpy(placements.digits)
    made = Recomposition(open_shards(tmp_path), digits, "wrap")
    probs = read_glyphs(trainer, module, made)
    assert probs.shape == (made.num_glyphs,)
    assert probs.median() > 0.95
    wrong = Recomposition(open_shards(tmp_path), torch.where(digits >= 0, (digits + 1) % 10, digits), "wrap")
    assert read_glyphs(trainer, module, wrong).median() < 0.01
    assert module.training
    assert module.net.counts == counts  # of four digits, as it goes on to be trained
