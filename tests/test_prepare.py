import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from frostline.atomic import file_hash
from frostline.config import as_config
from frostline.data.labels import is_labelled
from frostline.prepare import prepare, prepare_alone


def test_several_labels_start_at_the_shares_of_the_rows_that_are_learned_from(content, toy):
    rows = [json.loads(line) for line in (toy / "train.jsonl").read_text().splitlines()]
    content["data"]["train"] = [row | {"tags": [row["topic"], row["mood"]]} for row in rows]
    content["data"] |= {"validation": None, "max_train_samples": 37}
    content["tasks"] = {"tags": {"kind": "multilabel"}, "mood": {}}
    prepared = prepare(as_config(content))
    for ready in (prepared, prepare_alone(prepared, "tags")):
        labels = ready.splits["train"].labels["tags"]
        assert len(labels) < 37
        given = labels[is_labelled(labels)].sum(axis=0)
        answers = torch.sigmoid(ready.model.head("tags").linear.bias).detach().numpy()
        np.testing.assert_allclose(answers, (given + 0.5) / (len(labels) + 1), rtol=1e-5)
    assert not prepared.model.head("mood").linear.bias.any()


@pytest.mark.parametrize("frozen", [True, False])
def test_a_head_from_elsewhere_starts_as_it_is_even_where_it_reads_no_text(
    content, trained, tmp_path, frozen
):
    shutil.copytree(trained / "model", tmp_path / "model")
    file = tmp_path / "model" / "heads" / "mood" / "model.safetensors"
    saved = {name: one * 0 + (20 if one.ndim == 1 else 0) for name, one in load_file(file).items()}
    save_file(saved, file)
    about = json.loads((tmp_path / "model" / "frostline.json").read_text())
    about["hashes"]["heads/mood/model.safetensors"] = file_hash(file)
    (tmp_path / "model" / "frostline.json").write_text(json.dumps(about))
    content["tasks"]["mood"] = {"head_from": str(tmp_path / "model"), "frozen": frozen}
    head = prepare(as_config(content)).model.head("mood")
    assert not head.has_learned
    assert (head.linear.bias == 20).all()
