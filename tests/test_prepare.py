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


def test_heads_start_at_the_shares_of_the_rows_that_are_learned_from(content):
    content["data"]["max_train_samples"] = 37
    prepared = prepare(as_config(content))
    for ready in (prepared, prepare_alone(prepared, "mood")):
        labels = ready.splits["train"].labels["mood"]
        number = np.bincount(labels[is_labelled(labels)])
        assert number.sum() <= 37
        answers = torch.softmax(ready.model.head("mood").linear.bias, dim=0)
        expected = (number + 0.5) / (number + 0.5).sum()
        np.testing.assert_allclose(answers.detach().numpy(), expected, rtol=1e-5)


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
