"""The store of activations: what is read is what was computed, once, and nothing that is not whole is read."""

import dataclasses
import os

import numpy as np
import pytest
import torch
from test_loop import same

import frostline as fl
from conftest import CONFIGS, events, save_encoder, stop_after, toy_rows, weights
from frostline.cache import exclusive, make_room
from frostline.data.batches import Split, Tokens, tokenize
from frostline.data.distinct import distinct_texts
from frostline.errors import CacheError
from frostline.model.device import Precision
from frostline.model.domains import ModelSettings
from frostline.model.loading import load_backbone
from frostline.plan.phase import Phase
from frostline.training import activations, gate, held
from frostline.training.activations import Activations
from frostline.training.gate import depths_on_the_way
from frostline.training.store import KEYS as FORM
from frostline.training.store import StoreWriter, open_store

FP32 = Precision("fp32", "")
CPU = torch.device("cpu")


def split_of(backbone, number=40, *, repeat=0):
    texts = [row["text"] for row in toy_rows(number, seed=0)]
    tokens = tokenize(backbone.tokenizer, texts + texts[:repeat], max_length=16)
    return Split("train", tokens, {})


def activations_of(backbone, folder, *, max_bytes=2**30, precision=FP32):
    made = Activations(backbone, precision=precision, device=CPU, folder=folder, max_bytes=max_bytes)
    made.settle(backbone.num_stages)
    return made


def filled(made, split, depth, **changes):
    return list(made.fill(split, depth, **changes))


@pytest.mark.parametrize("number_format", ["fp32", "bf16"])
@pytest.mark.parametrize("name", list(CONFIGS))
def test_stages_go_on_from_stored_states_in_every_architecture_and_format(name, number_format, tmp_path):
    folder = save_encoder(tmp_path / "encoder", CONFIGS[name])
    backbone = load_backbone(ModelSettings(backbone=str(folder), max_length=16))
    split, precision = split_of(backbone), Precision(number_format, "")
    chained, plain = (
        activations_of(backbone, place, precision=precision) for place in (tmp_path / "store", None)
    )
    filled(chained, split, backbone.num_stages, via=(1, 2))
    filled(plain, split, backbone.num_stages)
    tolerance = 5e-3 if number_format == "fp32" else 0.15
    assert np.allclose(chained.embeddings(split), plain.embeddings(split), atol=tolerance)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_stored_states_are_those_of_the_prefix_to_the_rounding_of_half_precision(name, tmp_path):
    folder = save_encoder(tmp_path / "encoder", CONFIGS[name])
    backbone = load_backbone(ModelSettings(backbone=str(folder), max_length=16))
    split, rows = split_of(backbone), np.asarray([3, 0, 17, 8])
    for depth in range(1, backbone.num_stages):
        stored, plain = activations_of(backbone, tmp_path / "store"), activations_of(backbone, None)
        filled(stored, split, depth)
        given, expected = (made.batch(split, rows, depth=depth) for made in (stored, plain))
        mask = expected.mask_BL.bool()
        assert torch.equal(given.mask_BL, expected.mask_BL)
        difference = (given.states[mask] - expected.states[mask]).abs()
        assert (difference <= expected.states[mask].abs() * 2**-10 + 1e-5).all()
        ends = [backbone.suffix(g.states, g.mask_BL, depth=depth) for g in (given, expected)]
        assert torch.allclose(*ends, atol=5e-3)


def test_a_text_that_repeats_is_stored_once_and_the_order_of_rows_changes_no_key(backbone, tmp_path):
    split = split_of(backbone, 40, repeat=15)
    texts = distinct_texts(split.tokens)
    assert len(texts.row_U) == 40
    assert (texts.text_N[40:] == texts.text_N[:15]).all()
    assert (np.diff(split.tokens.length_N[texts.row_U]) <= 0).all()
    order = np.random.default_rng(0).permutation(len(split))
    shuffled = dataclasses.replace(split, tokens=split.tokens.take(order))
    assert distinct_texts(shuffled.tokens).digest == texts.digest
    made = activations_of(backbone, tmp_path)
    assert filled(made, split, 2)[-1] == 40
    assert filled(activations_of(backbone, tmp_path), shuffled, 2) == []
    rows = np.asarray([1, 41])
    states = made.batch(split, rows, depth=2).states
    assert torch.equal(states[0], states[1])


def test_every_row_of_a_split_is_read_as_its_own(backbone, tmp_path):
    split, made = split_of(backbone, 60, repeat=20), activations_of(backbone, tmp_path)
    filled(made, split, 2)
    for row in range(len(split)):
        one = made.batch(split, np.asarray([row]), depth=2)
        length = int(split.tokens.length_N[row])
        plain = activations_of(backbone, None).batch(split, np.asarray([row]), depth=2)
        assert one.states.shape == (1, length, 32)
        assert torch.allclose(one.states, plain.states, atol=5e-3)


def test_a_store_in_device_memory_reads_as_the_one_on_disk(backbone, tmp_path, monkeypatch):
    """The copy that a GPU would hold, on the CPU, some texts at a time."""
    monkeypatch.setattr(held, "_TEXTS_AT_ONCE", 7)
    made, split = activations_of(backbone, tmp_path), split_of(backbone, repeat=3)
    filled(made, split, 2)
    store = made._stores["train", 2]
    copy = held.HeldStore(store, device=CPU)
    assert len(copy) == len(store) and copy.num_bytes == store.num_bytes
    for texts in ([3], [5, 0, 5, 2], [], list(range(len(store)))):
        rows = np.asarray(texts, dtype=np.int64)
        assert torch.equal(copy.read(rows), store.read(rows))
    rows = np.arange(len(split))
    expected = made.batch(split, rows, depth=2)
    made._stores["train", 2] = copy
    assert torch.equal(made.batch(split, rows, depth=2).states, expected.states)


def test_a_damaged_store_is_not_copied_to_a_device(backbone, tmp_path):
    made, split = activations_of(backbone, tmp_path), split_of(backbone)
    filled(made, split, 2)
    store = made._stores["train", 2]
    path = store.folder / "values.bin"
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)
    with pytest.raises(CacheError, match="damaged"):
        held.HeldStore(store, device=CPU)


def test_the_line_moves_up_through_the_stored_states(backbone, tmp_path):
    split, made = split_of(backbone), activations_of(backbone, tmp_path)
    filled(made, split, 2)
    calls = []
    original = backbone.between

    def between(states, mask, *, start, stop):
        calls.append((start, stop))
        return original(states, mask, start=start, stop=stop)

    backbone.between = between
    filled(made, split, 3, via=(2,))
    filled(made, split, 4, via=(3,))
    assert set(calls) == {(2, 3), (0, 3), (3, 4)}  # 3 on the way from the tokens is another store than by 2
    plain = activations_of(backbone, None)
    filled(plain, split, 4)
    assert np.allclose(made.embeddings(split), plain.embeddings(split), atol=5e-3)


def test_moved_weights_below_the_line_are_never_read_and_above_it_do_not_matter(backbone, tmp_path):
    split, made = split_of(backbone), activations_of(backbone, tmp_path)
    filled(made, split, 2)
    parameters = dict(backbone.named_parameters())
    layer = {stage: next(n for n, s in backbone.stage_of.items() if s == stage) for stage in (1, 3)}
    with torch.no_grad():
        parameters[layer[3]].add_(1.0)
    assert filled(made, split, 2) == []
    with torch.no_grad():
        parameters[layer[1]].add_(1.0)
    made.settle(2)
    plain = activations_of(backbone, None).batch(split, np.arange(5), depth=2)
    assert torch.equal(made.batch(split, np.arange(5), depth=2).states, plain.states)  # no stale store
    assert filled(made, split, 2)[-1] == 40
    plain = activations_of(backbone, None).batch(split, np.arange(5), depth=2)
    mask = plain.mask_BL.bool()
    assert torch.allclose(
        made.batch(split, np.arange(5), depth=2).states[mask], plain.states[mask], rtol=2e-3, atol=5e-3
    )


def test_beyond_the_bound_a_part_is_stored_and_the_rest_computed(backbone, tmp_path):
    split = split_of(backbone, 60)
    size = int(split.tokens.length_N.sum()) * 32 * 2
    made = activations_of(backbone, tmp_path, max_bytes=size // 2)
    done = filled(made, split, 2)[-1]
    assert 10 < done < 50
    plain = activations_of(backbone, None)
    for rows in (np.arange(60), np.asarray([5]), np.arange(30, 40)):
        given, expected = (one.batch(split, rows, depth=2) for one in (made, plain))
        mask = expected.mask_BL.bool()
        assert torch.allclose(given.states[mask], expected.states[mask], atol=5e-3)
    none = activations_of(backbone, tmp_path / "none", max_bytes=0)
    filled(none, split, 2)
    assert torch.allclose(none.batch(split, rows, depth=2).states, plain.batch(split, rows, depth=2).states)


def test_states_too_large_for_float16_are_stored_in_bfloat16(backbone, tmp_path):
    with torch.no_grad():
        for name, stage in backbone.stage_of.items():
            if stage == 1 and name.endswith("output.LayerNorm.weight"):
                dict(backbone.named_parameters())[name].fill_(1e5)
    split, made = split_of(backbone), activations_of(backbone, tmp_path)
    filled(made, split, 2)
    given = made.batch(split, np.arange(4), depth=2)
    plain = activations_of(backbone, None).batch(split, np.arange(4), depth=2)
    mask = plain.mask_BL.bool()
    assert plain.states[mask].abs().max() > 65504
    assert torch.allclose(given.states[mask], plain.states[mask], rtol=2**-7, atol=1)


def test_in_bf16_the_stored_states_are_those_that_are_computed_again(backbone, tmp_path):
    bf16 = Precision("bf16", "")
    split = split_of(backbone)
    stored = activations_of(backbone, tmp_path, precision=bf16)
    plain = activations_of(backbone, None, precision=bf16)
    filled(stored, split, 2)
    given, expected = (made.batch(split, np.arange(8), depth=2) for made in (stored, plain))
    mask = expected.mask_BL.bool()
    assert torch.allclose(given.states[mask], expected.states[mask].float(), rtol=2e-2, atol=2e-2)
    assert all(parameter.dtype == torch.float32 for parameter in backbone.parameters())


KEYS = {letter: f"{letter * 40}-4-0" for letter in "abc"}


def write(folder, key, number=4):
    with StoreWriter(folder, key, length_U=np.full(number, 2), width=3, numbers="fp32") as writer:
        writer.write(np.arange(number), torch.arange(number * 6.0).view(-1, 3))
    return folder / key


def test_a_damaged_store_is_found_and_removed(tmp_path):
    place = write(tmp_path, KEYS["a"])
    store = open_store(tmp_path, KEYS["a"])
    assert torch.equal(
        store.read(np.asarray([2, 0])), torch.cat([torch.arange(12.0, 18), torch.arange(6.0)]).view(-1, 3)
    )
    data = bytearray((place / "values.bin").read_bytes())
    data[60] ^= 1
    (place / "values.bin").write_bytes(data)
    assert torch.equal(store.read(np.asarray([0])), torch.arange(6.0).view(-1, 3))
    with pytest.raises(CacheError, match="stored activations are damaged, and were removed"):
        store.read(np.asarray([2]))
    assert open_store(tmp_path, KEYS["a"]) is None


@pytest.mark.parametrize("name", ["values.bin", "texts.safetensors", "meta.json"])
def test_what_is_not_whole_is_not_opened(tmp_path, name):
    place = write(tmp_path, KEYS["a"])
    whole = (place / name).read_bytes()
    for data in (whole[: len(whole) // 2], b"", None):
        if data is None:
            (place / name).unlink()
        else:
            (place / name).write_bytes(data)
        assert open_store(tmp_path, KEYS["a"]) is None
    (place / name).write_bytes(whole)
    assert open_store(tmp_path, KEYS["a"]) is not None
    assert open_store(tmp_path, KEYS["b"]) is None


def test_a_writer_that_dies_leaves_no_store(tmp_path):
    writer = StoreWriter(tmp_path, KEYS["a"], length_U=np.full(2, 2), width=3, numbers="fp32")
    with pytest.raises(ZeroDivisionError), writer:
        writer.write(np.asarray([0]), torch.zeros(2, 3) + 1 // 0)
    assert list(tmp_path.iterdir()) == []


def test_the_stores_that_were_not_used_for_the_longest_make_room(tmp_path):
    for age, key in enumerate(KEYS.values()):
        os.utime(write(tmp_path, key), (1000 + age, 1000 + age))
    stranger = tmp_path / "mine" / "values.bin"
    stranger.parent.mkdir()
    stranger.write_bytes(b"x")
    open_store(tmp_path, KEYS["a"])  # used now
    size = sum(path.stat().st_size for path in (tmp_path / KEYS["a"]).iterdir() if path.name != "meta.json")
    make_room(tmp_path, needed=size, most=3 * size, keys=FORM)
    assert {place.name for place in tmp_path.iterdir()} == {KEYS["a"], KEYS["c"], "mine"}
    held = open_store(tmp_path, KEYS["c"])
    make_room(tmp_path, needed=size, most=size, keys=FORM)
    assert [place.name for place in tmp_path.iterdir()] == ["mine"]
    assert stranger.is_file()
    assert held.read(np.asarray([1])).shape == (2, 3)  # its file stays readable


def with_store(content, store, folder):
    return content | {"train": content["train"] | {"activations": {"store": store, "folder": str(folder)}}}


def test_a_run_learns_the_same_from_the_store(content, tmp_path):
    content["plan"]["phases"] = [{"name": "top", "top_layers": 1, "epochs": 4, "backbone_lr": 3e-3}]
    stored, plain = (
        fl.train(with_store(content, store, tmp_path / "cache"), output=tmp_path / store)
        for store in ("always", "never")
    )
    first, second = weights(stored.folder), weights(plain.folder)
    assert not same(first, second)
    for name in first:
        assert torch.allclose(first[name], second[name], atol=2e-2), name
    for task, scores in plain.report["test"]["tasks"].items():
        assert stored.report["test"]["tasks"][task]["macro_f1"] == pytest.approx(scores["macro_f1"], abs=0.04)


def test_a_second_run_reads_what_the_first_one_stored_and_learns_the_same(content, tmp_path, monkeypatch):
    content = with_store(content, "always", tmp_path / "cache")
    first = fl.train(content, output=tmp_path / "first")
    other = fl.train(
        content | {"train": content["train"] | {"seed": 1}}, output=tmp_path / "other"
    )  # the same texts in another order
    monkeypatch.setattr(activations.StoreWriter, "write", lambda *_: pytest.fail("computed again"))
    again = fl.train(content, output=tmp_path / "again")
    assert same(weights(first.folder), weights(again.folder))
    assert not same(weights(first.folder), weights(other.folder))


STORING = {
    "heads, top, heads": [
        {"epochs": 6}, {"top_layers": 1, "epochs": 3, "backbone_lr": 3e-3}, {"epochs": 1, "head_lr": 1e-2},
    ],
    "solved, heads, top": [{"solver": "probe"}, {"epochs": 1}, {"top_layers": 1, "epochs": 1}],
    "solved, distilled": [
        {"solver": "probe"}, {"top_layers": 2, "frozen_heads": ["mood"], "protect": "distill", "epochs": 2},
    ],
    "up and up": [{"top_layers": 3}, {"top_layers": 2}, {"top_layers": 1}, {}],
    "stored, all, not stored": [
        {"top_layers": 1, "epochs": 1, "backbone_lr": 3e-3}, {"top_layers": "all", "backbone_lr": 3e-3},
        {"top_layers": 1, "activations": "never"},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("plan", "steps", "keep_cache"),
    [("heads, top, heads", steps, steps < 60) for steps in (40, 49, 57, 73)]
    + [("solved, heads, top", steps, True) for steps in (1, 8, 9)]
    + [("solved, distilled", 1, True), ("solved, distilled", 9, False)]
    + [("up and up", steps, True) for steps in (9, 17, 25)]
    + [("stored, all, not stored", 17, True)],
)
def test_a_stopped_run_goes_on_from_the_store_or_without_it(content, tmp_path, plan, steps, keep_cache):
    content["plan"]["phases"] = STORING[plan]
    unbroken = fl.train(with_store(content, "always", tmp_path / "cache"), output=tmp_path / "unbroken")
    with pytest.raises(fl.Interrupted):
        fl.train(
            with_store(content, "always", tmp_path / "other"),
            output=tmp_path / "broken",
            show=stop_after(steps),
        )
    if not keep_cache:
        for path in (tmp_path / "other").rglob("*.bin"):
            path.unlink()
    resumed = fl.resume(tmp_path / "broken")
    assert same(weights(unbroken.folder), weights(resumed.folder))
    assert events(unbroken.folder) == events(resumed.folder)


def test_the_gate_measures_decides_and_says(content, tmp_path, monkeypatch):
    content["plan"]["phases"] = [{"name": "top", "top_layers": 1, "epochs": 20}]
    content["train"]["activations"] = {"folder": str(tmp_path / "cache")}
    for seconds, is_stored in (((0.1, 0.1, 0.01), True), ((0.01, 0.01, 0.009), False)):
        monkeypatch.setattr(gate, "_seconds", lambda *_, seconds=seconds, **__: (0.0, *seconds))
        said = []
        run = fl.train(content, output=tmp_path / f"{is_stored}", show=said.append)
        decision = run.report["activations"][0]
        assert decision["is_stored"] == is_stored
        passes = 20 * 300
        assert decision["seconds_recomputed"] == pytest.approx(seconds[1] * passes)
        assert decision["seconds_stored"] == pytest.approx(seconds[0] * 300 + seconds[2] * passes)
        assert next(e for e in said if e["event"] == "start")["decisions"][0].is_stored == is_stored
        resolved = fl.Config.load(run.folder / "config.toml").plan.phases[0].activations
        assert resolved == ("always" if is_stored else "never")


def test_a_small_saving_is_not_worth_a_store(content, tmp_path):
    content["train"]["activations"] = {"folder": str(tmp_path / "cache")}
    run = fl.train(content, output=tmp_path / "run")  # seconds of a tiny model
    assert not run.report["activations"][0]["is_stored"]


def test_the_depth_to_start_from_follows_from_the_plan():
    heads, top, deep = Phase(), Phase(top_layers=2, activations="always"), Phase(top_layers=4)
    assert depths_on_the_way([heads, top], [], 7, num_stages=7) == (5,)
    assert depths_on_the_way([heads, deep], [], 7, num_stages=7) == ()
    assert depths_on_the_way([heads, top, heads], [[7], [5]], 7, num_stages=7) == (5,)
    assert depths_on_the_way([heads, deep, top], [[7], [3]], 5, num_stages=7) == ()


def test_rows_without_texts_of_their_own_are_an_empty_split():
    empty = Tokens(np.zeros(0, dtype=np.int32), np.zeros(1, dtype=np.int64))
    assert len(distinct_texts(empty).row_U) == 0


def test_a_bound_that_binds_stores_the_same_part_in_a_process_that_goes_on(backbone, tmp_path):
    split = split_of(backbone, 60)
    size = int(split.tokens.length_N.sum()) * 32 * 2
    made = activations_of(backbone, tmp_path / "a", max_bytes=size // 2)
    filled(made, split, 1)
    made.settle(2)
    filled(made, split, 2)
    fresh = activations_of(backbone, tmp_path / "b", max_bytes=size // 2)
    filled(fresh, split, 2)
    assert len(made._stores["train", 2]) == len(fresh._stores["train", 2]) > 0


def test_another_configuration_of_the_same_weights_has_another_key(backbone):
    split, made = split_of(backbone), activations_of(backbone, None)
    before = made.key(split, 2)
    backbone.transformer.config.layer_norm_eps = 1e-3
    assert made.key(split, 2) != before


def test_what_a_killed_writer_left_is_removed(tmp_path):
    left = tmp_path / f".{KEYS['a']}.x1y2"
    left.mkdir()
    (left / "values.bin").write_bytes(b"half")
    with exclusive(tmp_path, KEYS["b"]):
        assert left.is_dir()
    (tmp_path / f".{KEYS['a']}.lock").touch()
    make_room(tmp_path, needed=0, most=0, keys=FORM)
    assert not left.exists()


def test_a_folder_that_may_not_be_written_is_said_and_done_without(content, tmp_path):
    (tmp_path / "file").write_text("")
    content["train"]["activations"] = {"folder": str(tmp_path / "file" / "cache")}
    run = fl.train(content, output=tmp_path / "run")
    assert any("so no activations are stored" in warning for warning in run.report["warnings"])
    assert run.report["phases"][1]["steps"] > 0
