"""The same pass twice gives the same bits, on the device that this machine has."""

import pytest
import torch

from conftest import CONFIGS, save_encoder
from frostline.data.batches import pad, tokenize
from frostline.model.device import Precision, choose_device, repeatable
from frostline.model.domains import ModelSettings
from frostline.model.loading import load_backbone

DEVICE = choose_device("auto")
TEXTS = [
    "the goal was great",
    "a sad bank",
    "soup and bread and salt and the very awful price of it all",
] * 20


@pytest.mark.parametrize("format", ["bf16", "fp32"])
@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_have_the_same_bits_each_time(name, format, tmp_path):
    folder = save_encoder(tmp_path / "m", CONFIGS[name])
    encoder = load_backbone(ModelSettings(backbone=str(folder), max_length=32)).to(DEVICE).train()
    batch = pad(tokenize(encoder.tokenizer, TEXTS, max_length=32), range(len(TEXTS)), pad_id=encoder.pad_id)
    found = []
    with repeatable(DEVICE):
        for _ in range(2):
            torch.manual_seed(0)
            encoder.zero_grad()
            with Precision(format, "asked for").autocast(DEVICE):
                embedding_BD = encoder(batch.to(DEVICE))
            embedding_BD.pow(3).sum().backward()
            gradients = {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None}
            found.append({name: gradient.clone() for name, gradient in gradients.items()})
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert not torch.are_deterministic_algorithms_enabled()
