import pytest
import torch

from frostline.data.batches import pad, tokenize
from frostline.data.labels import Task
from frostline.errors import FreezeError
from frostline.model.multitask import MultitaskModel
from frostline.plan.freeze import Frost, freeze_to, tensor_hash
from frostline.plan.groups import build_groups, build_optimizer, layer_decay_rates, schedule_factor
from frostline.plan.phase import Phase, PlanSettings
from frostline.plan.recipes import resolve_phases

TASKS = tuple(Task(name=n, column=n, kind="classification", labels=("a", "b")) for n in ("topic", "mood"))
PHASES = [
    Phase(),
    Phase(frozen_heads=["mood"]),
    Phase(top_layers=1),
    Phase(top_layers=3, frozen_heads=["topic"]),
    Phase(top_layers="all"),
    Phase(top_layers="all", frozen_heads=["mood"]),
]


@pytest.fixture
def model(backbone):
    return MultitaskModel(backbone, TASKS, dropout=0.5)


def learns(model, phase):
    """What must learn, said independently of the code: owners by name."""
    stages = range(phase.depths(3)[0], 4)
    return {f"stage {s}" for s in stages} | {t.name for t in TASKS if t.name not in phase.frozen_heads}


def owner(model, name):
    if "_head." in name:
        return name.split(".")[1].removesuffix("_head")
    if ".layer." in name:
        return f"stage {int(name.split('.layer.')[1].split('.')[0]) + 1}"
    return "pooler" if ".pooler." in name else "stage 0"


@pytest.mark.parametrize("phase", PHASES)
def test_a_step_moves_every_learning_tensor_and_no_frozen_byte(model, phase):
    for task in TASKS:
        torch.nn.init.normal_(model.head(task.name).linear.weight)
    frost = freeze_to(model, phase, depth=phase.depths(3)[0])
    before = {name: tensor_hash(p) for name, p in model.named_parameters()}
    optimizer = build_optimizer(model, build_groups(model, phase))
    batch = pad(
        tokenize(model.backbone.tokenizer, ["the goal", "a sad bank"], max_length=9), [0, 1], pad_id=0
    )
    for _ in range(2):
        logits = model(batch)
        sum(value.square().sum() for value in logits.values()).backward()
        optimizer.step()
    moved = {owner(model, name) for name, p in model.named_parameters() if tensor_hash(p) != before[name]}
    assert moved == learns(model, phase)
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    frost.verify(model)


@pytest.mark.parametrize("phase", PHASES)
def test_train_never_wakes_the_dropout_of_what_is_frozen(model, phase):
    freeze_to(model, phase, depth=phase.depths(3)[0])
    model.eval()
    model.train()
    awake = {
        owner(model, f"backbone.{n}" if "_head" not in n else n)
        for n, m in model.named_modules()
        if isinstance(m, torch.nn.Dropout)
        and m.training
        and ("layer." in n or "embeddings" in n or "_head" in n)
    }
    assert awake == learns(model, phase)


def test_a_frozen_prefix_gives_the_same_states_twice_in_training_mode(model):
    freeze_to(model, Phase(top_layers=1), depth=Phase(top_layers=1).depths(3)[0])
    batch = pad(tokenize(model.backbone.tokenizer, ["the goal was great"], max_length=9), [0], pad_id=0)
    assert torch.equal(model.backbone.prefix(batch, depth=3), model.backbone.prefix(batch, depth=3))
    assert not torch.equal(model.backbone(batch), model.backbone(batch))


def test_a_moved_frozen_byte_is_found(model):
    frost = freeze_to(model, Phase(top_layers=1), depth=Phase(top_layers=1).depths(3)[0])
    with torch.no_grad():
        next(p for p in model.parameters() if not p.requires_grad).view(-1)[0] += 1e-7
    with pytest.raises(FreezeError, match=r"1 frozen tensors moved: .*word_embeddings"):
        frost.verify(model)


def test_a_frozen_tensor_that_is_gone_is_found(model):
    freeze_to(model, Phase(), depth=Phase().depths(3)[0])
    with pytest.raises(FreezeError, match="moved: ghost"):
        Frost({"ghost": "x"}).verify(model)


@pytest.mark.parametrize("phase", PHASES)
def test_each_learning_parameter_is_in_exactly_one_group(model, phase):
    freeze_to(model, phase, depth=phase.depths(3)[0])
    grouped = [name for group in build_groups(model, phase) for name in group.parameters]
    assert sorted(grouped) == sorted(name for name, p in model.named_parameters() if p.requires_grad)


def test_groups_name_their_stage_and_decay_no_bias_or_norm(model):
    phase = Phase(top_layers=2, backbone_lr=1e-4, head_lr=1e-3, layer_decay=0.5, weight_decay=0.01)
    freeze_to(model, phase, depth=phase.depths(3)[0])
    groups = {group.name: group for group in build_groups(model, phase)}
    assert next(iter(groups)) == "layer 2"
    assert groups["layer 3"].lr == 5e-5
    assert groups["layer 2"].lr == 2.5e-5
    assert groups["mood head"].lr == 1e-3
    parameters = dict(model.named_parameters())
    for group in groups.values():
        assert {parameters[n].ndim > 1 for n in group.parameters} == {group.weight_decay > 0}


def test_groups_refuse_a_model_that_does_not_obey(model):
    with pytest.raises(FreezeError, match="does not obey phase"):
        build_groups(model, Phase(top_layers=1, name="late"))


def test_the_rate_of_a_stage_does_not_depend_on_what_is_frozen():
    rates = layer_decay_rates(1.0, decay=0.5, num_layers=3)
    assert rates == (0.0625, 0.125, 0.25, 0.5)
    with pytest.raises(ValueError, match="decay"):
        layer_decay_rates(1.0, decay=0, num_layers=3)


def test_moments_survive_for_what_goes_on_learning(model):
    freeze_to(model, Phase(top_layers=1), depth=Phase(top_layers=1).depths(3)[0])
    first = build_optimizer(model, build_groups(model, Phase(top_layers=1)))
    for group in first.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    first.step()
    freeze_to(model, Phase(top_layers=2), depth=Phase(top_layers=2).depths(3)[0])
    second = build_optimizer(model, build_groups(model, Phase(top_layers=2)), keep=first)
    kept = {name for name, p in model.named_parameters() if p in second.state}
    assert {owner(model, name) for name in kept} == {"stage 3", "topic", "mood"}


def test_rates_rise_in_warm_up_and_fall_to_nothing():
    def factors(**settings):
        return [schedule_factor(step, phase=Phase(**settings), total_steps=10) for step in range(10)]

    assert factors(warmup_steps=0.2)[:3] == [0.5, 1.0, 1.0]
    assert factors(warmup_steps=4)[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors(warmup_steps=0)[-1] == pytest.approx(0.1)
    assert set(factors(warmup_steps=0, lr_scheduler_type="constant")) == {1.0}
    assert factors(warmup_steps=0, lr_scheduler_type="cosine")[5] == pytest.approx(0.5)


def rates_of(groups):
    return {group.name: (group.lr, group.weight_decay) for group in groups}


def test_the_standard_optimizer_has_its_two_rates(model):
    (phase,) = resolve_phases(PlanSettings(recipe="uniform"), tasks=[task.name for task in TASKS])
    freeze_to(model, phase, depth=0)
    groups = build_groups(model, phase)
    expected = {
        **{f"{name}{bare}": (1e-5, 0.0 if bare else 0.01) for name in ("embeddings", "layer 1", "layer 2", "layer 3") for bare in ("", " · no decay")},
        **{f"{name} head{bare}": (1e-4, 0.0 if bare else 0.01) for name in ("topic", "mood") for bare in ("", " · no decay")},
    }  # fmt: skip
    assert rates_of(groups) == expected
    parameters = dict(model.named_parameters())
    counted = sum(parameters[name].numel() for group in groups for name in group.parameters)
    assert counted == sum(p.numel() for name, p in parameters.items() if "pooler" not in name)


def test_the_optimizer_in_bands_for_twelve_layers(tmp_path):
    from transformers import BertConfig

    from conftest import SIZE, save_encoder
    from frostline.model.domains import ModelSettings
    from frostline.model.loading import load_backbone

    folder = save_encoder(
        tmp_path / "deep", BertConfig(**SIZE, num_hidden_layers=12, max_position_embeddings=64)
    )
    model = MultitaskModel(load_backbone(ModelSettings(backbone=str(folder), max_length=32)), TASKS)
    (phase,) = resolve_phases(PlanSettings(recipe="bands"), tasks=[task.name for task in TASKS])
    freeze_to(model, phase, depth=phase.depths(12)[0])
    rates = rates_of(build_groups(model, phase))
    for layer in range(12):  # counted from 0 in the recipe, from 1 in stages
        assert rates[f"layer {layer + 1}"] == (1e-6 if layer < 8 else 5e-6, 0.01)
        assert rates[f"layer {layer + 1} · no decay"] == (1e-6 if layer < 8 else 5e-6, 0.0)
    assert rates["topic head"] == (1e-4, 0.01)
    assert len(rates) == 2 * 14


def test_a_head_may_have_a_rate_of_its_own(model):
    phase = Phase(head_lrs={"mood": 5e-4})
    freeze_to(model, phase, depth=4)
    rates = rates_of(build_groups(model, phase))
    assert (rates["topic head"][0], rates["mood head"][0]) == (1e-3, 5e-4)


def test_what_wakes_warms_up_on_its_own_and_follows_the_fall_of_the_phase():
    phase = Phase(top_layers=1, warmup_steps=4)
    old = [schedule_factor(step, phase=phase, total_steps=20) for step in range(20)]
    new = [schedule_factor(step, phase=phase, total_steps=20, woke=10) for step in range(10, 20)]
    assert new[:3] == [pytest.approx(old[10 + i] * (i + 1) / 4) for i in range(3)]
    assert new[3:] == old[13:]
