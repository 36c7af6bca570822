from types import SimpleNamespace

import pytest
import torch

from conftest import CONFIGS, save_encoder
from frostline.data.batches import pad, tokenize
from frostline.errors import ConfigError
from frostline.model import device as devices
from frostline.model.device import Precision, choose_device, choose_precision, repeatable
from frostline.model.domains import ModelSettings
from frostline.model.loading import load_backbone

CPU, DEVICE = torch.device("cpu"), choose_device("auto")
TEXTS = [
    "the goal was great",
    "a sad bank",
    "soup and bread and salt and the very awful price of it all",
] * 20


@pytest.mark.parametrize(
    ("fp32", "bf16", "taken"), [(100, 300, "bf16"), (100, 120, "fp32"), (100, 50, "fp32")]
)
def test_the_faster_format_is_taken_and_said(monkeypatch, fp32, bf16, taken):
    monkeypatch.setattr(devices, "_gflops", lambda width: (fp32, bf16))
    chosen = choose_precision("auto", device=CPU, width=64)
    assert chosen.format == taken
    assert str(bf16) in chosen.reason
    assert str(fp32) in chosen.reason


def test_a_core_that_was_taken_for_a_while_does_not_decide_the_format(monkeypatch):
    clock = SimpleNamespace(now=0.0)

    def product(left, right):
        alone = {torch.float32: 5e-4, torch.bfloat16: 1e-4}[left.dtype]
        clock.now += 0.005 if clock.now < 0.12 else alone

    monkeypatch.setattr(devices.torch, "matmul", product)
    monkeypatch.setattr(devices, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    assert choose_precision("auto", device=CPU, width=384).format == "bf16"
    assert clock.now < 1


def test_a_format_can_be_asked_for():
    assert choose_precision("fp32", device=CPU, width=64).reason == "asked for"


@pytest.mark.parametrize("asked", ["cuda:99", "gpu", "xpu"])
def test_a_device_that_is_not_here_is_refused(asked):
    with pytest.raises(ConfigError, match=f"device: '{asked}' cannot be used here") as told:
        choose_device(asked)
    assert len(str(told.value)) < 250


@pytest.mark.parametrize("format", ["bf16", "fp32"])
@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_have_the_same_bits_each_time(name, format, tmp_path):
    folder = save_encoder(tmp_path / "m", CONFIGS[name])
    encoder = load_backbone(ModelSettings(backbone=str(folder), max_length=32)).to(DEVICE).train()
    batch = pad(tokenize(encoder.tokenizer, TEXTS, max_length=32), range(60), pad_id=encoder.pad_id)
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


def test_what_a_caller_had_set_comes_back():
    torch.set_deterministic_debug_mode("warn")
    try:
        with repeatable(torch.device("cuda")):
            assert torch.get_deterministic_debug_mode() == 2
            assert not torch.utils.deterministic.fill_uninitialized_memory
        assert torch.get_deterministic_debug_mode() == 1
        assert torch.utils.deterministic.fill_uninitialized_memory
    finally:
        torch.set_deterministic_debug_mode("default")


def test_an_environment_without_order_is_refused(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    gpu, said = repeatable(torch.device("cuda")), "CUBLAS_WORKSPACE_CONFIG: ':0:0'.*:4096:8 or :16:8"
    with pytest.raises(ConfigError, match=said), gpu:
        pass
    with repeatable(CPU):
        pass


@pytest.mark.parametrize(("gib", "tokens"), [(15, 16_384), (80, 65_536)])
def test_a_large_gpu_takes_more_at_once(gib, tokens, monkeypatch):
    about = SimpleNamespace(total_memory=gib * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: about)
    assert devices.forward_tokens(torch.device("cuda")) == tokens
    assert devices.step_tokens(torch.device("cuda"), "bf16") == 16_384
    assert devices.forward_tokens(CPU) == devices.step_tokens(CPU, "fp32") == 1024
    assert devices.step_tokens(CPU, "bf16") == 2048
